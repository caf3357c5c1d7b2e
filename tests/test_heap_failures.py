"""Every system call that a heap makes fails in turn, at every position, once and for good.

What must hold afterwards: every block that was there is there, with its contents; the figures add up, the
walk finds these blocks and no other, and the pool its frames; and once the kernel lets it, the same operation
succeeds.
"""

import pytest
from failing import CHANGING, WAYS, failing
from heaping import KINDS, check_figures, mark, marked, walked
from helpers import FRAME, MIB

import mrm
from mrm.system.figures import pretend, read_figure

FRAMES = 32
PROMISES = "/proc/sys/vm/overcommit_memory"
STRICT = pretend(PROMISES, 2)


@pytest.fixture(params=["huge", "small", "private", "strict"])
def kind(request):
    """The three kinds of memory; and private memory of which every byte is promised."""
    if request.param == "huge":
        request.getfixturevalue("needs_huge")
    if request.param == "strict":
        with STRICT:
            yield "private"
    else:
        yield request.param


def pool_of(kind, frames):
    """A pool for a heap of a kind; None for a private one."""
    return None if kind == "private" else mrm.Pool(frames * FRAME, huge=KINDS[kind])


class Scene:
    """A heap with blocks of several kinds, and kept memory in between; it can be set up again and again."""

    def __init__(self, kind):
        self.pool = pool_of(kind, FRAMES)
        self.heap = None
        self.set_up()

    def set_up(self):
        self.close_heap()
        self.heap = mrm.Heap(self.pool, keep="16MiB")
        self.blocks = {}
        self.seeds = iter(range(1, 1000))
        self.add("small", self.heap.malloc(5000), 5000)
        self.add("growing", self.heap.malloc(3 * FRAME), 3 * FRAME)
        self.add("behind", self.heap.malloc(FRAME), FRAME)
        freed = [self.heap.malloc(FRAME) for _ in range(8)]
        for address in freed[:6:2]:
            self.heap.free(address)
        for i, address in enumerate(freed[1:6:2] + freed[6:]):
            self.add(f"between {i}", address, FRAME)
        self.add("last", self.heap.malloc(2 * FRAME), 2 * FRAME)

    def add(self, name, address, nbytes):
        seed = next(self.seeds)
        mark(address, nbytes // 4096 * 4096, seed)
        self.blocks[name] = address, nbytes, seed

    def allocate(self, name, nbytes, how="malloc", *arguments):
        address = getattr(self.heap, how)(*arguments, nbytes)
        self.add(name, address, nbytes)

    def resize(self, name, nbytes):
        address, had, seed = self.blocks[name]
        self.blocks[name] = self.heap.realloc(address, nbytes), min(had, nbytes), seed

    def free(self, *names):
        for name in names:
            address, *_ = self.blocks[name]
            self.heap.free(address)
            del self.blocks[name]

    def check(self):
        for name, (address, nbytes, seed) in self.blocks.items():
            assert marked(address, nbytes // 4096 * 4096, seed), f"contents of {name} were lost"
        assert set(walked(self.heap)) == {address for address, *_ in self.blocks.values()}
        stats = check_figures(self.heap)
        if self.pool is not None:
            assert self.pool.audit().free == FRAMES - stats.memory // FRAME

    def close_heap(self):
        if self.heap is not None:
            self.heap.close()
            if self.pool is not None:
                assert self.pool.audit().free == FRAMES

    def close(self):
        try:
            self.close_heap()
        finally:
            if self.pool is not None:
                self.pool.close()


@pytest.fixture
def scene(kind):
    scene = Scene(kind)
    try:
        yield scene
    finally:
        scene.close()


CHANGES = {
    "a segment": lambda s: [s.allocate(f"new {i}", MIB) for i in range(6)],
    "a large block": lambda s: s.allocate("new", 5 * FRAME),
    "a kept block": lambda s: s.allocate("new", FRAME),
    "kept and fresh": lambda s: [s.allocate(f"new {i}", FRAME) for i in range(6)],
    "zeros": lambda s: s.allocate("new", 5 * FRAME, "calloc", 1),
    "alignment": lambda s: s.allocate("new", 3 * FRAME, "aligned", 4 * FRAME),
    "growth in place": lambda s: s.resize("last", 6 * FRAME),
    "growth into kept": lambda s: (s.free("between 4"), s.resize("between 3", 2 * FRAME)),
    "growth by moving": lambda s: s.resize("growing", 7 * FRAME),
    "growth again and again": lambda s: [s.resize("growing", n * FRAME) for n in (4, 5, 9, 12)],
    "shrinking": lambda s: s.resize("growing", FRAME),
    "large to small": lambda s: s.resize("growing", 4096),
    "small to large": lambda s: s.resize("small", 2 * MIB),
    "freeing": lambda s: s.free("growing", "last", "between 1", "between 4", "behind"),
    "trimming": lambda s: s.heap.trim(),
    "freeing and trimming": lambda s: (s.free("growing", "between 2", "small"), s.heap.trim()),
}

MOVING = ("growth by moving", "growth again and again")


@WAYS
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_fails_at_every_call(scene, change, times, error, features):
    features()

    def operation():
        CHANGES[change](scene)

    for raised in failing(operation, times, error, CHANGING):
        if isinstance(raised, mrm.InconsistentError) and change in MOVING:
            # Part of a block is here, and part there, as the error says; its frames come back all the same.
            scene.set_up()
            continue
        scene.check()
        if raised is not None:
            assert isinstance(raised, mrm.OutOfFrames | mrm.SystemCallError), repr(raised)
            assert raised.errno in (error, None)
        # Whatever became of it, the heap is of use once the kernel lets it.
        scene.allocate("after", 4 * FRAME)
        scene.allocate("afterwards", 30_000)
        scene.resize("after", 6 * FRAME)
        scene.heap.trim()
        scene.check()
        scene.set_up()
        features()


@WAYS
@pytest.mark.usefixtures("teardown_ranges")
def test_a_heap_is_opened_or_not(kind, times, error):
    pool = pool_of(kind, 8)
    opened_ones = []
    for raised in failing(lambda: opened_ones.append(mrm.Heap(pool, limit="16MiB")), times, error):
        assert (raised is None) == bool(opened_ones)
        assert raised is None or isinstance(raised, mrm.AddressSpaceError | mrm.MetadataMemoryError), repr(
            raised
        )
        while opened_ones:
            with opened_ones.pop() as heap:
                address = heap.malloc(3 * MIB)
                mark(address, 3 * MIB, 1)
                assert marked(address, 3 * MIB, 1)
    if pool is not None:
        assert pool.audit().free == 8
        pool.close()


@WAYS
@pytest.mark.usefixtures("teardown_ranges")
def test_a_heap_on_a_pool_is_closed_or_not(huge, times, error):
    scene = Scene("huge" if huge == "require" else "small")
    for raised in failing(scene.heap.close, times, error):
        if raised is None:
            assert scene.heap.closed
            assert scene.pool.audit().free == FRAMES
            scene.heap = None
            scene.set_up()
            break
        assert not scene.heap.closed
        scene.check()
        scene.allocate("after", 4 * FRAME)
        scene.free("after")
    scene.close()


@WAYS
def test_a_buffer_is_as_it_was_or_resized(some_heap, times, error, features):
    features()
    heap = some_heap
    buffer = heap.buffer(3 * FRAME)
    mark(buffer.address, 3 * FRAME, 1)
    behind = [heap.malloc(FRAME) for _ in range(2)]

    for raised in failing(lambda: buffer.resize(len(buffer) + 2 * FRAME), times, error, CHANGING):
        features()
        if isinstance(raised, mrm.InconsistentError):
            break  # part of it is here, and part there
        assert marked(buffer.address, 3 * FRAME, 1)
        if raised is not None:
            assert len(buffer) == 3 * FRAME
        else:
            buffer.resize(3 * FRAME)
    for address in behind:
        heap.free(address)
    buffer.free()


def test_strict_memory_is_writable_only_where_it_is_in_use():
    """Where every writable byte is promised (vm.overcommit_memory 2), a heap asks for little."""
    before = writable()
    if read_figure(PROMISES) != 2:
        with mrm.Heap():
            assert writable() - before > 1 << 30
    with STRICT, mrm.Heap() as heap:
        assert read_figure(PROMISES) == 2
        assert writable() - before < 1 << 30
        blocks = [heap.malloc(n) for n in (100, 3 * MIB, 40 * MIB)]
        for address, n in zip(blocks, (100, 3 * MIB, 40 * MIB), strict=True):
            mark(address, n // 4096 * 4096, 1)
        assert writable() - before < 1 << 30
        heap.free(heap.realloc(blocks[2], 60 * MIB))
        heap.trim()
        assert heap.calloc(1, 50 * MIB)
        assert writable() - before < 1 << 30


def writable():
    """Bytes of this process's private mappings of heaps that can be written to."""
    total = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            addresses, protection, *_ = line.split()
            start, end = (int(each, 16) for each in addresses.split("-"))
            if protection.startswith("rw-p") and end - start >= FRAME and start % FRAME == 0:
                total += end - start
    return total
