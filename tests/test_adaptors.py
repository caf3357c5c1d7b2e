"""Adaptors: each by itself, on each other, from several threads, over a fork."""

import ctypes
import gc
import io
import os
import threading
import weakref

import pytest
from fakeheap import rows
from heaping import beside, run

import mrm
from mrm.adaptors import Adaptor, HeapLike, Limit, Log, OnFailure, Statistics, Track

KINDS = {
    "plain": Adaptor,
    "limit": lambda heap: Limit(heap, "64MiB"),
    "statistics": Statistics,
    "log": lambda heap: Log(heap, io.StringIO()),
    "track": Track,
    "failure": lambda heap: OnFailure(heap, lambda nbytes: False),
}


def everything(heap):
    """Each of them around the one before."""
    for make in KINDS.values():
        heap = make(heap)
    return heap


@pytest.fixture(params=["fake", "private", "pool"])
def below(request):
    """What is wrapped."""
    if request.param == "fake":
        yield request.getfixturevalue("fake_heap")
    elif request.param == "private":
        with mrm.Heap() as heap:
            yield heap
    else:
        with mrm.Pool("16MiB", huge="off", name="test") as pool, mrm.Heap(pool) as heap:
            yield heap
            gc.collect()


@pytest.fixture(params=[*KINDS, "everything"])
def wrapped(request, below):
    return KINDS.get(request.param, everything)(below)


# ---- what all have in common ---------------------------------------------------------------


def test_each_is_a_heap(wrapped, below):
    assert isinstance(wrapped, HeapLike)
    a = wrapped.malloc(100)
    ctypes.memset(a, 7, 100)
    b = wrapped.calloc(10, 30)
    assert ctypes.string_at(b, 300) == bytes(300)
    c = wrapped.aligned(4096, 50)
    assert c % 4096 == 0
    assert wrapped.usable_size(a) >= 100
    assert wrapped.owns(a + 50)
    assert not wrapped.owns(id(wrapped))
    a = wrapped.realloc(a, 5000)
    assert ctypes.string_at(a, 100) == bytes([7]) * 100
    d = wrapped.realloc(0, 20)
    assert {address for address, _ in wrapped.blocks()} == {a, b, c, d}
    assert type(wrapped.stats()) is type(below.stats())
    assert wrapped.trim() >= 0
    for block in (a, b, c, d, 0):
        wrapped.free(block)
    assert not list(below.blocks())


def test_sizes_are_as_everywhere(wrapped, below):
    wrapped.free(wrapped.malloc(64 << 10))
    for bad in (-1, "1KiB", 1.5, None, True):
        with pytest.raises(mrm.ArgumentError):
            wrapped.malloc(bad)
    assert not list(below.blocks())


def test_what_is_none_of_its_blocks_is_refused_and_changes_nothing(wrapped):
    a = wrapped.malloc(64)
    foreign = ctypes.create_string_buffer(64)
    at = ctypes.addressof(foreign)
    for call in (lambda: wrapped.free(at), lambda: wrapped.realloc(at, 100)):
        with pytest.raises(mrm.BlockError):
            call()
    assert wrapped.usable_size(a) >= 64
    wrapped.free(a)


def test_close_closes_all_and_twice_is_once(wrapped, below):
    with wrapped:
        wrapped.malloc(10)
        assert not wrapped.closed
    wrapped.close()
    assert wrapped.closed and below.closed
    with pytest.raises(mrm.ClosedError):
        wrapped.malloc(10)


def test_detach_leaves_the_heap_open(wrapped, below):
    heap = wrapped.detach()
    assert heap is wrapped.heap
    heap.free(heap.malloc(10))
    assert not below.closed


def test_no_heap_is_refused():
    with pytest.raises(mrm.ArgumentError, match="is no heap"):
        Statistics(object())


def test_repr_names_the_whole_stack(fake_heap):
    assert "Statistics of <mrm.adaptors.Track of" in repr(Statistics(Track(fake_heap)))


# ---- buffers and arrays --------------------------------------------------------------------


def test_buffer(wrapped, below):
    buffer = wrapped.buffer(1000, zero=True)
    assert bytes(buffer) == bytes(1000)
    assert len(buffer) == 1000
    assert wrapped.owns(buffer.address) and not buffer.exported
    view = memoryview(buffer)
    view[:3] = b"abc"
    for forbidden, what in ((lambda: buffer.resize(2000), "resized"), (buffer.free, "freed")):
        way_out = rf"1 views look at the block: release them \(.*\) before it is {what}"
        with pytest.raises(mrm.PinnedError, match=way_out):
            forbidden()
    view.release()
    buffer.resize(100_000)
    assert bytes(buffer)[:3] == b"abc"
    assert len(buffer) == 100_000
    assert repr(buffer) == f"<mrm.adaptors.Block of 100000 bytes at {buffer.address:#x}>"
    buffer.free()
    buffer.free()
    assert not list(below.blocks())
    assert (len(buffer), repr(buffer)) == (0, "<mrm.adaptors.Block freed>")
    for use in (lambda: memoryview(buffer), lambda: buffer.address, lambda: buffer.resize(5)):
        with pytest.raises(mrm.ClosedError, match="the block was freed; ask its heap for another"):
            use()


def test_a_buffer_is_made_once(wrapped, below):
    buffer = wrapped.buffer(100)
    at = buffer.address
    with pytest.raises(TypeError, match="made once"):
        buffer.__init__(wrapped, 100)
    assert buffer.address == at
    gone = weakref.ref(buffer)
    del buffer
    assert gone() is None
    assert not list(below.blocks())


class Within(Adaptor):
    """Does something of its own while a block is resized, and may fail to resize it."""

    def _change(self, address, nbytes):
        self.do()
        return super()._change(address, nbytes)


def test_nobody_looks_at_a_block_that_is_being_resized(below):
    heap = Within(below)
    buffer = heap.buffer(100, zero=True)
    said = []

    def look():
        for use in (lambda: memoryview(buffer), buffer.free, lambda: buffer.resize(1)):
            with pytest.raises(mrm.PinnedError) as told:
                use()
            said.append(str(told.value))
        assert not buffer.exported

    heap.do = look
    buffer.resize(1000)
    assert said == [
        f"another thread is resizing the block: {then} when that is done"
        for then in ("look at it", "it can be freed", "it can be resized")
    ]
    assert bytes(buffer)[:100] == bytes(100)


def test_a_block_that_cannot_be_resized_is_as_it_was(below):
    heap = Within(below)
    buffer = heap.buffer(100, zero=True)
    at = buffer.address

    def refuse():
        raise mrm.OutOfFrames("not now")

    heap.do = refuse
    with pytest.raises(mrm.OutOfFrames):
        buffer.resize(10**6)
    for wrong in (-1, 1.5, None, 2**63):
        with pytest.raises(mrm.ArgumentError):
            buffer.resize(wrong)
    assert (buffer.address, len(buffer)) == (at, 100)
    assert bytes(buffer) == bytes(100)


def test_a_buffer_ends_with_its_last_reference_also_in_a_cycle(wrapped, below):
    class Holder:
        pass

    holder = Holder()
    holder.buffer, holder.me = wrapped.buffer(100), holder
    assert len(list(below.blocks())) == 1
    del holder
    gc.collect()
    assert not list(below.blocks())


def test_a_buffer_that_outlives_its_heap(wrapped):
    buffer = wrapped.buffer(100_000, zero=True)
    view = memoryview(buffer)[1000:2000]
    wrapped.close()
    if "FakeHeap" not in repr(wrapped):  # that one's memory ends when it says so
        view[:3] = b"abc"
        assert bytes(view[:4]) == b"abc\0"
    view.release()
    del buffer


def test_a_tensor(wrapped, below):
    np = pytest.importorskip("numpy")
    buffer = wrapped.buffer(1000, zero=True)
    array = np.from_dlpack(buffer)
    array[:] = 9
    assert bytes(buffer) == bytes([9]) * 1000
    with pytest.raises(mrm.PinnedError):
        buffer.free()
    del buffer
    assert array.sum() == 9000
    with pytest.raises(BufferError, match="memory of the CPU"):
        wrapped.buffer(10).__dlpack__(copy=True)
    del array
    assert not list(below.blocks())


def test_arrays(wrapped, below):
    np = pytest.importorskip("numpy")
    zeros = wrapped.zeros((3, 5), np.int32)
    assert zeros.shape == (3, 5) and zeros.dtype == np.int32 and not zeros.any()
    empty = wrapped.empty(7)
    empty[:] = range(7)
    assert wrapped.owns(empty.ctypes.data)
    row = empty[3:]
    del empty
    assert row.sum() == 3 + 4 + 5 + 6
    assert wrapped.zeros((0, 4)).size == 0
    del zeros, row
    assert not list(below.blocks())
    with pytest.raises(mrm.ArgumentError, match="Python objects"):
        wrapped.empty(3, object)


# ---- Limit ---------------------------------------------------------------------------------


def test_limit(fake_heap):
    heap = Limit(fake_heap, 1000)
    a = heap.malloc(600)
    assert (heap.limit, heap.used, heap.left) == (1000, 608, 392)
    with pytest.raises(mrm.OutOfFrames, match=r"limit of 1000 B, of which 608 B") as caught:
        heap.malloc(400)
    assert caught.value.nbytes == 400
    with pytest.raises(mrm.OutOfFrames):  # fits, but not as it is rounded
        heap.malloc(391 + 1)
    assert heap.used == 608 and len(fake_heap.live) == 1
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(a, 1200)
    a = heap.realloc(a, 900)
    assert heap.used == 912
    heap.limit = 10
    with pytest.raises(mrm.OutOfFrames):
        heap.malloc(1)
    a = heap.realloc(a, 16)  # less is always allowed
    heap.limit = "1KiB"
    heap.free(heap.malloc(1000))
    heap.free(a)
    assert heap.used == 0


def test_limit_gives_back_what_the_heap_below_refuses(fake_heap):
    heap = Limit(fake_heap, 1 << 20)
    fake_heap.room = 100
    for call in (lambda: heap.malloc(200), lambda: heap.calloc(20, 10), lambda: heap.aligned(64, 200)):
        with pytest.raises(mrm.OutOfFrames):
            call()
    assert heap.used == 0
    block = heap.malloc(64)
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(block, 500)
    assert heap.used == 64


def test_threads_cannot_pass_the_limit_together(fake_heap):
    heap = Limit(fake_heap, 100 * 64)
    got, most = [], []

    def work():
        for _ in range(200):
            try:
                got.append(heap.malloc(64))
            except mrm.OutOfFrames:
                continue
            most.append(heap.used)

    run(*[work] * 4)
    assert len(got) == 100 and max(most) == heap.limit == heap.used


# ---- OnFailure -----------------------------------------------------------------------------


def test_on_failure(fake_heap):
    cache = []
    asked = []

    def give_up_cache(nbytes):
        asked.append(nbytes)
        if cache:
            heap.free(cache.pop())
            return True
        return False

    heap = OnFailure(Limit(fake_heap, 1000), give_up_cache)
    cache += [heap.malloc(300) for _ in range(3)]
    block = heap.malloc(650)
    assert asked == [650, 650] and len(cache) == 1
    block = heap.realloc(block, 960)
    assert not cache
    with pytest.raises(mrm.OutOfFrames):
        heap.calloc(7, 9)
    assert asked == [650, 650, 960, 63]
    heap.free(block)
    with pytest.raises(mrm.ArgumentError):
        OnFailure(fake_heap, 7)


def test_what_the_callback_raises_goes_to_the_caller(fake_heap):
    def broken(nbytes):
        raise LookupError(nbytes)

    heap = OnFailure(Limit(fake_heap, 10), broken)
    with pytest.raises(LookupError):
        heap.malloc(100)


# ---- together ---------------------------------------------------------------------------


def test_threads_on_a_stack_of_all(fake_heap):
    file = io.StringIO()
    limit = Limit(fake_heap, "16MiB")
    counted = Statistics(limit)
    tracked = Track(counted)
    heap = Log(tracked, file)

    def work(seed):
        mine = []
        for i in range(300):
            mine.append(heap.malloc(16 + (i * seed) % 500))
            if i % 3 == 0:
                mine.append(heap.realloc(mine.pop(0), 700 + i))
            if i % 2:
                heap.free(mine.pop(i % len(mine)))
        for block in mine:
            heap.free(block)

    run(*(lambda seed=seed: work(seed) for seed in range(1, 5)))
    counts = counted.counts()
    assert (counts.blocks, counts.bytes, limit.used, len(tracked)) == (0, 0, 0, 0)
    assert counts.made == counts.freed == 1200
    heap.flush()
    lines = rows(file.getvalue())
    assert len(lines) == 1200 * 2 + counts.changed
    assert len({line["thread"] for line in lines}) == 4


def test_a_fork_while_threads_count(fake_heap):
    heap = everything(fake_heap)

    def work(stop):
        while not stop.is_set():
            heap.free(heap.malloc(64))

    with beside(work, work):
        for _ in range(10):
            child = os.fork()
            if not child:
                fake_heap.lock = threading.RLock()  # libc sees to its own
                heap.free(heap.malloc(64))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
