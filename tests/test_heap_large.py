"""Blocks above a MiB: any free frames serve them, nothing is copied, what was freed is kept and given up together."""

import ctypes
import errno
import random

import pytest
from heaping import FRAMES, SMALL, check_figures, is_zero, mark, marked, opened, walked
from helpers import FRAME, MIB, FakePool, stamp, stamp_at

import mrm
from mrm.system.calls import Script

MOVING = {"mmap", "mremap", "munmap", "mprotect", "madvise"}


@pytest.fixture
def heap(some_heap):
    return some_heap


@pytest.fixture
def on_pool():
    """A heap on a pool of small pages: what is counted is the same on huge ones."""
    with opened("small") as heap:
        yield heap


def counted(operation):
    """The calls that change mappings which an operation makes, by name."""
    with Script() as script:
        operation()
    return [name for name, _, _ in script.calls() if name in MOVING]


# ---- any frames serve ------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 3, 7])
def test_n_scattered_frames_serve_a_block_of_n_frames(on_pool, step):
    pool = on_pool.source
    frames = list(pool.take(FRAMES))
    pool.give([frame for frame in frames if frame % step == 0])
    free = pool.stats().free
    address = on_pool.malloc(free * FRAME)
    mark(address, free * FRAME, 1)
    assert pool.stats().free == 0
    with pytest.raises(mrm.OutOfFrames):
        on_pool.malloc(1)
    assert marked(address, free * FRAME, 1)
    on_pool.free(address)
    on_pool.trim()
    pool.give([frame for frame in frames if frame % step])


def test_any_number_of_frames_is_served_among_blocks_of_all_sizes(on_pool):
    """However the addresses were cut up before: blocks grown, shrunk and left lying."""
    draw = random.Random(5)
    pool, live = on_pool.source, []
    for _ in range(600):
        what = draw.random()
        if live and what < 0.4:
            on_pool.free(live.pop(draw.randrange(len(live))))
        elif live and what < 0.75:
            i = draw.randrange(len(live))
            try:
                live[i] = on_pool.realloc(live[i], draw.randint(1, 24) * FRAME)
            except mrm.OutOfFrames:
                live[i] = on_pool.realloc(live[i], FRAME)  # the smallest that is still a run
        else:
            try:
                live.append(on_pool.malloc(draw.randint(1, 12) * FRAME))
            except mrm.OutOfFrames:
                continue
        if draw.random() < 0.1:
            on_pool.trim()
            free = pool.stats().free
            if free:
                on_pool.free(on_pool.malloc(free * FRAME))
    for address in live:
        on_pool.free(address)
    check_figures(on_pool)


# ---- realloc -----------------------------------------------------------------------------


def test_a_block_grows_in_place_where_nothing_is_behind(heap):
    address = heap.malloc(3 * MIB)
    mark(address, 4 * MIB, 1)
    assert heap.realloc(address, 4 * MIB) == address
    assert heap.realloc(address, 9 * MIB) == address
    assert marked(address, 4 * MIB, 1)
    mark(address, 10 * MIB, 2)
    assert heap.realloc(address, 3 * MIB) == address
    assert heap.usable_size(address) == 4 * MIB
    assert marked(address, 4 * MIB, 2)
    assert heap.realloc(address, 10 * MIB) == address
    assert marked(address, 4 * MIB, 2)


def test_a_block_grows_by_moving_and_takes_its_contents_along(heap):
    address, n, behind = heap.malloc(2 * FRAME), 2, []
    mark(address, n * FRAME, 7)
    moves = 0
    while n < 30:
        behind += [heap.malloc(FRAME) for _ in range(2)] if len(behind) < 20 else []
        n += 3
        grown = heap.realloc(address, n * FRAME)
        moves += grown != address
        address = grown
        assert marked(address, (n - 3) * FRAME, 7)
        mark(address, n * FRAME, 7)
        check_figures(heap)
    assert moves >= 1
    assert set(behind) | {address} == set(walked(heap))


def test_a_move_copies_nothing_and_leaves_nothing(heap):
    address, behind = heap.malloc(4 * FRAME), heap.malloc(FRAME)
    mark(address, 4 * FRAME, 3)
    heap.realloc(address, 4 * FRAME)
    calls = counted(lambda: heap.realloc(address, 8 * FRAME))
    assert 1 <= len(calls) <= 8
    assert (address in walked(heap)) is False
    assert heap.stats().memory == 9 * FRAME
    assert heap.realloc(behind, 2 * FRAME) == behind, "behind it lies nothing now"


def block_behind(heap, address):
    """Allocate until a block lies right behind this one, so that it has to move to grow."""
    end, made = address + heap.usable_size(address), []
    while end not in made:
        made.append(heap.malloc(FRAME))
        assert len(made) < 5000
    return made


def test_private_memory_of_several_mappings_moves_one_by_one():
    """As kernels before 6.17 want it: their refusal of a call over several is made up."""
    with mrm.Heap() as heap:
        address, n = heap.malloc(2 * FRAME), 2
        mark(address, n * FRAME, 1)
        for turn in range(4):
            behind = block_behind(heap, address)
            with Script(fail=1 if turn else 0, error=errno.EFAULT, kinds=["mremap"]) as script:
                grown = heap.realloc(address, (n + 3) * FRAME)
            assert grown != address
            assert marked(grown, n * FRAME, n - 1)
            assert script.counted == (turn + 2 if turn else 1), "the whole, and then each mapping"
            n += 3
            mark(grown, n * FRAME, n - 1)
            for each in (*behind, heap.malloc(2 * FRAME)):
                heap.free(each)
            address = grown
        heap.trim()
        assert marked(address, n * FRAME, n - 1)


def test_private_memory_that_cannot_move_stays():
    with mrm.Heap() as heap:
        address = heap.malloc(2 * FRAME)
        mark(address, 2 * FRAME, 1)
        behind = block_behind(heap, address)
        for error in (errno.ENOMEM, errno.EFAULT, errno.EAGAIN):
            with Script(fail=1, times=None, error=error, kinds=["mremap"]), pytest.raises(mrm.Error):
                heap.realloc(address, 5 * FRAME)
            assert marked(address, 2 * FRAME, 1)
            check_figures(heap)
        assert set(walked(heap)) == {address, *behind}


def test_a_large_block_becomes_small_and_large_again(heap):
    address = heap.malloc(3 * MIB)
    mark(address, 4096, 1)
    small = heap.realloc(address, 5000)
    assert heap.usable_size(small) == 5120
    assert marked(small, 4096, 1)
    assert heap.stats().large_blocks == 0
    large = heap.realloc(small, 3 * MIB)
    assert marked(large, 4096, 1)
    assert heap.stats().blocks == 0
    assert heap.stats().large_bytes == 3 * MIB


def test_a_growth_that_fails_leaves_the_block(on_pool):
    pool = on_pool.source
    address = on_pool.malloc(20 * FRAME)
    mark(address, 20 * FRAME, 1)
    behind = on_pool.malloc(20 * FRAME)
    for n in (FRAMES + 1, 45, 1 << 30):
        with pytest.raises(mrm.OutOfFrames):
            on_pool.realloc(address, n * FRAME)
        assert marked(address, 20 * FRAME, 1)
        assert walked(on_pool) == {address: 20 * FRAME, behind: 20 * FRAME}
        assert pool.stats().free == FRAMES - 40
        check_figures(on_pool)
    moved = on_pool.realloc(address, 44 * FRAME)
    assert marked(moved, 20 * FRAME, 1)


def test_a_gib_grows_by_a_frame_without_a_copy():
    """Calls are counted on the fake, whose addresses hold nothing: a copy would trap."""
    frames = 1024
    with FakePool(frames) as pool:
        heap = mrm.Heap(pool)
        address = heap.malloc(512 * FRAME)
        before = mrm.system.calls.thread_calls()
        assert heap.realloc(address, 513 * FRAME) == address
        assert mrm.system.calls.thread_calls() - before <= 4
        behind = heap.malloc(FRAME)
        before = mrm.system.calls.thread_calls()
        moved = heap.realloc(address, 514 * FRAME)
        assert moved != address
        assert mrm.system.calls.thread_calls() - before <= 16
        # From there on it has room behind it.
        before = mrm.system.calls.thread_calls()
        for n in range(515, 560):
            assert heap.realloc(moved, n * FRAME) == moved
        assert mrm.system.calls.thread_calls() - before <= 45 * 4
        heap.free(behind)
        heap.close()
        assert pool.audit().free == frames


# ---- kept memory ---------------------------------------------------------------------------


def test_freed_memory_is_kept_and_used_again_without_a_call(heap):
    blocks = [heap.malloc(2 * FRAME) for _ in range(3)]
    for address in blocks:
        heap.free(address)
    assert heap.stats().kept == 6 * FRAME

    def again():
        for address in [heap.malloc(2 * FRAME) for _ in range(3)]:
            heap.free(address)
        heap.free(heap.malloc(6 * FRAME))  # neighbours became one

    assert counted(again) == []
    assert heap.stats().kept == 6 * FRAME


def test_kept_memory_beyond_an_eighth_goes_in_one_batch(on_pool):
    blocks = [on_pool.malloc(FRAME) for _ in range(20)]
    keep = FRAMES // 8
    apart = blocks[::2]
    for address in apart[:keep]:
        assert counted(lambda address=address: on_pool.free(address)) == []
    assert on_pool.stats().kept == keep * FRAME
    calls = counted(lambda: on_pool.free(apart[keep]))
    assert 1 <= len(calls) <= keep + 1
    assert on_pool.stats().kept <= keep // 2 * FRAME
    assert on_pool.source.stats().free == FRAMES - on_pool.stats().memory // FRAME


@pytest.mark.parametrize("keep", ["1KiB", "6MiB", "64MiB"])
def test_how_much_is_kept_is_chosen(keep):
    with mrm.Pool(32 * FRAME, huge="off") as pool, mrm.Heap(pool, keep=keep) as heap:
        blocks = [heap.malloc(FRAME) for _ in range(30)]
        for address in blocks:
            heap.free(address)
        assert heap.stats().kept <= mrm.sizes.parse_size(keep)
        assert keep != "64MiB" or heap.stats().kept == 30 * FRAME


def test_kept_memory_is_given_up_before_anybody_is_told(on_pool):
    told = []
    on_pool.source.on_shortage(lambda *what: told.append(what))
    on_pool.free(on_pool.malloc(8 * FRAME))
    assert on_pool.stats().kept == 8 * FRAME
    address = on_pool.malloc(FRAMES * FRAME)
    assert on_pool.stats().kept == 0
    assert told == []
    on_pool.free(address)


def test_kept_memory_is_given_up_for_small_blocks(on_pool):
    held = on_pool.source.take(FRAMES - 8)
    on_pool.free(on_pool.malloc(8 * FRAME))
    blocks = [on_pool.malloc(SMALL) for _ in range(16)]
    assert on_pool.source.stats().free == 0
    for address in blocks:
        on_pool.free(address)
    on_pool.source.give(held)


def test_calloc_clears_what_was_kept(heap):
    address = heap.malloc(3 * FRAME)
    mark(address, 3 * FRAME, 9)
    heap.free(address)
    again = heap.calloc(3, FRAME)
    assert again == address
    assert is_zero(again, 3 * FRAME)


# ---- wrong frees ---------------------------------------------------------------------------


def test_a_large_block_is_freed_once(heap):
    for trims in (False, True):
        address = heap.malloc(3 * MIB)
        heap.free(address)
        if trims:
            heap.trim()
        with pytest.raises(mrm.BlockError, match="it was freed before") as caught:
            heap.free(address)
        assert caught.value.address == address
        with pytest.raises(mrm.BlockError):
            heap.realloc(address, 5 * MIB)
        check_figures(heap)
    first = heap.malloc(2 * FRAME)
    second = heap.realloc(first, FRAME)  # what was its end begins no block
    with pytest.raises(mrm.BlockError):
        heap.free(second + FRAME)


# ---- shortages -------------------------------------------------------------------------------


def test_a_shortage_may_free_blocks_of_the_same_heap(on_pool):
    pool = on_pool.source
    cache = [on_pool.malloc(8 * FRAME) for _ in range(FRAMES // 8)]
    told = []

    def relieve(name, wanted):
        told.append(wanted)
        on_pool.free(cache.pop())
        on_pool.trim()

    pool.on_shortage(relieve)
    address = on_pool.malloc(8 * FRAME)
    mark(address, 8 * FRAME, 1)
    assert told == [8]
    grown = on_pool.realloc(address, 16 * FRAME)
    assert marked(grown, 8 * FRAME, 1)
    assert told == [8, 8]
    small = on_pool.malloc(100)
    assert told == [8, 8, 1]
    assert set(walked(on_pool)) == {*cache, grown, small}
    check_figures(on_pool)


def test_a_shortage_may_free_less_than_a_frame(on_pool):
    """One block is enough for the next, though no frame came free."""
    blocks = []
    with pytest.raises(mrm.OutOfFrames):
        while True:
            blocks.append(on_pool.malloc(200_000))
    with pytest.raises(mrm.OutOfFrames):
        while True:
            blocks.append(on_pool.malloc(1000))
    told = []

    def relieve(name, wanted):
        told.append(wanted)
        on_pool.free(blocks.pop())

    on_pool.source.on_shortage(relieve)
    for _ in range(20):
        assert on_pool.malloc(1000)
    assert told == [1] * 20


def test_a_shortage_may_close_the_heap():
    with mrm.Pool(4 * FRAME, huge="off") as pool:
        for use in (
            lambda heap: heap.malloc(10),
            lambda heap: heap.malloc(3 * MIB),
            lambda heap: heap.calloc(1, 10),
            lambda heap: heap.buffer(10),
            lambda heap: heap.buffer(3 * MIB),
            lambda heap: heap.aligned(4096, 10),
            lambda heap: heap.realloc(0, 10),
        ):
            held = pool.take(4)
            heap = mrm.Heap(pool)
            pool.on_shortage(lambda name, wanted, heap=heap: heap.close())
            with pytest.raises(mrm.OutOfFrames):
                use(heap)
            assert heap.closed
            pool.on_shortage(None)
            pool.give(held)
            assert pool.audit().free == 4


def test_a_shortage_is_told_once_where_nobody_helps(on_pool):
    on_pool.source.take(FRAMES)
    told = []
    on_pool.source.on_shortage(lambda *what: told.append(what[1]))
    for n, wanted in ((100, 1), (3 * MIB, 2), (SMALL, 1)):
        with pytest.raises(mrm.OutOfFrames):
            on_pool.malloc(n)
        assert told == [wanted]
        told.clear()
        assert check_figures(on_pool).memory == 0
    on_pool.source.give(range(FRAMES))


def test_frames_that_come_back_are_those_that_were_taken(on_pool):
    """Contents follow their frames: stamps made through the block are seen through the window."""
    pool = on_pool.source
    address = on_pool.malloc(6 * FRAME)
    for i in range(6):
        stamp(address + i * FRAME, 100 + i)
    moved = on_pool.realloc(address, 7 * FRAME)
    assert [stamp_at(moved + i * FRAME) for i in range(6)] == [100 + i for i in range(6)]
    frames = sorted(
        stamp_at(pool.address(frame)) for frame in range(FRAMES)
        if pool.state_of(frame) == "held" and 100 <= ctypes.c_uint64.from_address(pool.address(frame)).value < 106
    )  # fmt: skip
    assert frames == [100 + i for i in range(6)]
