"""mrm.Heap: what each method does, what it refuses, and what its figures say; on all kinds of memory."""

import gc
import json
import os
import random
import warnings
import weakref

import pytest
from heaping import SMALL, check_figures, holds, is_zero, walked, write
from helpers import FRAME, MIB, all_handles_closed

import mrm
import mrm._heap
from mrm.heap.classes import class_for, size_classes
from mrm.physical.limits import overcommit_memory

CLASSES = [nbytes for nbytes, _, _ in size_classes()]


@pytest.fixture
def heap(some_heap):
    return some_heap


@pytest.fixture
def small_pool():
    """A pool without huge pages, for what is the same on any."""
    with mrm.Pool(16 * FRAME, huge="off") as pool:
        yield pool
        assert pool.audit().free == 16


# ---- sizes ---------------------------------------------------------------------------


def test_a_class_wastes_an_eighth_at_the_most():
    assert sorted(set(CLASSES)) == CLASSES
    assert CLASSES[-1] == SMALL
    for n in range(1, SMALL + 1):
        number = class_for(n)
        assert CLASSES[number] >= n
        assert number == 0 or CLASSES[number - 1] < n, "a smaller class would do"
        assert CLASSES[number] - n < 16 if n <= 128 else (CLASSES[number] - n) * 8 <= n


def test_pages_are_used_but_for_a_sixteenth():
    for nbytes, slices, blocks in size_classes():
        assert blocks * nbytes <= slices << 15
        assert ((slices << 15) - blocks * nbytes) * 16 <= slices << 15 or slices == 64
        assert slices == 1 or nbytes > 3072


def around_borders():
    """Sizes at and beside each border of a class, and of slots, up to 4 MiB."""
    borders = [0, *CLASSES, *range(FRAME, 4 * MIB + 1, FRAME)]
    return sorted({n for border in borders for n in (border - 1, border, border + 1) if n >= 0})


def test_every_size_around_the_borders_keeps_its_contents(heap):
    sizes = around_borders()
    for step in (1, 2, 3):  # more and fewer neighbours
        some = [n for n in sizes if n <= SMALL // step] + [n for n in sizes if n > SMALL][::step]
        blocks = [(heap.malloc(n), n) for n in some]
        for address, n in blocks:
            assert address % 16 == 0
            assert heap.usable_size(address) >= n
            assert heap.owns(address)
            assert heap.owns(address + max(n, 1) - 1)
            write(address, heap.usable_size(address) if n <= 8192 else n, n)
        walk = walked(heap)
        assert walk == {address: heap.usable_size(address) for address, _ in blocks}
        check_figures(heap)
        for address, n in blocks:
            assert holds(address, n, n)
            heap.free(address)
        assert walked(heap) == {}


def test_sizes_at_random_lie_apart(heap):
    draw = random.Random(1)
    live = {}
    for i in range(3000):
        if live and draw.random() < 0.45:
            address = draw.choice(list(live))
            n, seed = live.pop(address)
            assert holds(address, n, seed)
            heap.free(address)
        n = int(2 ** draw.uniform(0, 15))
        address = heap.malloc(n)
        assert address not in live
        write(address, n, i)
        live[address] = n, i
    assert {address: heap.usable_size(address) for address in live} == walked(heap)
    for address, (n, seed) in live.items():
        assert holds(address, n, seed)
        heap.free(address)
    check_figures(heap)


@pytest.mark.parametrize("power", range(24))
def test_alignments_up_to_8_mib(heap, power):
    alignment = 1 << power
    for n in (0, 1, alignment - 1, alignment, alignment + 1, 100, 4097, SMALL, SMALL + 1, 3 * MIB):
        blocks = [heap.aligned(alignment, n) for _ in range(3)]
        assert len(set(blocks)) == 3
        for i, address in enumerate(blocks):
            assert address % alignment == 0
            assert address % 16 == 0
            assert heap.usable_size(address) >= n
            write(address, n, i)
        assert all(holds(address, n, i) for i, address in enumerate(blocks))
        for address in blocks:
            heap.free(address)
    assert walked(heap) == {}


# ---- blocks --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 16, 100, 1024, 8192, 300_000, SMALL, SMALL + 1, 5 * MIB])
def test_calloc_gives_zeros_in_used_memory_too(heap, n):
    for _ in range(3):
        blocks = [heap.calloc(n, 1), heap.calloc(1, n)]
        for address in blocks:
            assert is_zero(address, n)
            write(address, n, 99)
        for address in blocks:
            heap.free(address)


@pytest.mark.parametrize(
    "sizes", [(10, 20, 5000, 100, 16), (900, SMALL, 3 * MIB, 9 * MIB, 2 * MIB, 100, 0), (3 * MIB, 1)]
)
def test_realloc_keeps_what_both_sizes_have(heap, sizes):
    address, had = heap.realloc(0, sizes[0]), sizes[0]
    write(address, had, 7)
    for n in sizes[1:]:
        address = heap.realloc(address, n)
        assert heap.usable_size(address) >= n
        assert holds(address, min(n, had), 7)
        write(address, n, 7)
        had = n
    heap.free(address)
    assert walked(heap) == {}


def test_the_smallest_blocks_are_blocks(heap):
    blocks = {heap.malloc(0), heap.calloc(0, 8), heap.calloc(8, 0), heap.realloc(0, 0), heap.aligned(1, 0)}
    assert len(blocks) == 5
    assert set(walked(heap)) == blocks
    for address in blocks:
        assert heap.usable_size(address) == 16
        heap.free(address)
    heap.free(0)


def test_a_freed_block_serves_again(heap):
    for n in (16, 1000, 100_000, SMALL, 3 * MIB):
        heap.free(first := heap.malloc(n))
        again = heap.malloc(n)
        assert again == first
        heap.free(again)


# ---- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 1 << 63, 1 << 70, 1.5, "1", None, True])
def test_a_size_that_is_none_is_refused(heap, wrong):
    for use in (
        heap.malloc,
        lambda n: heap.calloc(n, 1),
        lambda n: heap.calloc(1, n),
        lambda n: heap.realloc(0, n),
        lambda n: heap.aligned(16, n),
        lambda n: heap.aligned(n, 16),
        heap.buffer,
    ):
        with pytest.raises(mrm.ArgumentError, match="a size is"):
            use(wrong)


@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.5, None, True])
def test_an_address_that_is_none_is_refused(heap, wrong):
    for use in (heap.free, heap.usable_size, heap.owns, lambda at: heap.realloc(at, 1)):
        with pytest.raises(mrm.ArgumentError, match="an address is an int"):
            use(wrong)


@pytest.mark.parametrize("alignment", [0, 3, 24, 65537])
def test_an_alignment_is_a_power_of_two(heap, alignment):
    with pytest.raises(mrm.ArgumentError, match=f"power of two, which {alignment} is not"):
        heap.aligned(alignment, 100)


def test_a_product_that_overflows_is_refused(heap):
    with pytest.raises(mrm.ArgumentError, match="more than a size can be"):
        heap.calloc(1 << 33, 1 << 33)
    with pytest.raises(mrm.ArgumentError):
        heap.calloc((1 << 63) - 1, 3)


def test_what_was_never_a_block_is_refused(heap):
    small, large = heap.malloc(100), heap.malloc(5 * MIB)
    other = mrm.Heap(limit="16MiB")
    foreign = other.malloc(100)
    for wrong in (
        0x1000,
        id(heap) & ~15,
        foreign,
        small + 32 * FRAME,
        large + 16,
        large + FRAME,
        large + 4096 * FRAME,
    ):
        for use in (heap.free, heap.usable_size, lambda at: heap.realloc(at, 300 * MIB)):
            with pytest.raises(mrm.BlockError, match=rf"is no block of heap {heap.number}") as caught:
                use(wrong)
            assert caught.value.address == wrong
    assert not heap.owns(foreign)
    assert not heap.owns(0x1000)
    with pytest.raises(mrm.BlockError, match="blocks of 112 bytes lie there"):
        heap.usable_size(small + 16)
    heap.free(large)
    for use in (heap.free, heap.usable_size):
        with pytest.raises(mrm.BlockError, match="freed before"):
            use(large)
    heap.free(small)
    other.close()


def test_more_than_there_is_is_refused(heap):
    for n in (1 << 46, 1 << 47, (1 << 63) - 1):
        for use in (
            heap.malloc,
            lambda n: heap.calloc(1, n),
            lambda n: heap.realloc(0, n),
            lambda n: heap.aligned(64, n),
        ):
            with pytest.raises(MemoryError) as caught:
                use(n)
            assert isinstance(caught.value, mrm.OutOfFrames | mrm.AddressSpaceError)
    with pytest.raises(MemoryError):
        heap.aligned(1 << 60, 1)
    assert walked(heap) == {}
    assert check_figures(heap).blocks == 0


def test_a_block_larger_than_the_pool_says_so(small_pool):
    with mrm.Heap(small_pool) as heap:
        address = heap.malloc(2 * MIB)
        for n in (17 * FRAME, 4000 * FRAME, 1 << 46):
            for use in (heap.malloc, lambda n: heap.realloc(address, n)):
                with pytest.raises(mrm.OutOfFrames, match="open a larger pool"):
                    use(n)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((3,), {}, "a heap is opened on a Pool, an Account, or None"),
        ((), {"name": 3}, "the name of a heap is a str"),
        ((), {"name": "a\0b"}, "the name of a heap is a str"),
        ((), {"name": ""}, "the name of a heap has 1 to 47 bytes, not 0"),
        ((), {"name": "é" * 24}, "the name of a heap has 1 to 47 bytes, not 48"),
        ((), {"limit": "many"}, "size"),
        ((), {"limit": 0}, "size"),
        ((), {"keep": -1}, "size"),
        ((), {"keep": False}, "size"),
    ],
)
def test_what_a_heap_cannot_be_opened_with(arguments, options, text):
    with pytest.raises(mrm.ArgumentError, match=text):
        mrm.Heap(*arguments, **options)
    assert all_handles_closed()


# ---- limits and accounts ---------------------------------------------------------------


def test_a_limit_holds(heap):
    del heap
    with mrm.Heap(limit="8MiB", name="little") as little:
        blocks = [little.malloc(SMALL) for _ in range(8)]
        with pytest.raises(
            mrm.OutOfFrames, match=r"has 8192 KiB of the 8192 KiB .* free blocks, or open it with a higher"
        ):
            little.malloc(SMALL)
        with pytest.raises(mrm.OutOfFrames):
            little.malloc(3 * MIB)
        for address in blocks:
            little.free(address)
        assert little.malloc(7 * MIB)  # what the thread kept of empty segments is given up for it
        assert check_figures(little).memory_peak == 8 * MIB
        with pytest.raises(mrm.OutOfFrames):
            little.malloc(10)


def test_an_account_pays(small_pool):
    pool = small_pool
    account = pool.account("runtime")
    account.fund(4)
    with mrm.Heap(account) as heap:
        assert heap.source is account
        small, large = heap.malloc(100), heap.malloc(5 * MIB)
        assert account.stats().allocated == 4
        with pytest.raises(mrm.OutOfFrames, match="runtime"):
            heap.malloc(2 * MIB)
        heap.free(large)
        assert heap.malloc(3 * MIB) == large
        heap.free(small)
    assert account.stats().allocated == 0


def test_an_overdraft_is_asked_for(small_pool):
    pool = small_pool
    account = pool.account("runtime")
    account.fund(1)
    pool.fund("overdraft", 2 * FRAME)
    with mrm.Heap(account) as strict, mrm.Heap(account, overdraft=True) as lax:
        strict.malloc(1)
        with pytest.raises(mrm.OutOfFrames):
            strict.malloc(2 * MIB)
        lax.malloc(2 * MIB)
        assert account.stats().overdrawn == 1


def test_a_closed_account_is_refused(small_pool):
    account = small_pool.account("gone")
    account.close()
    with pytest.raises(mrm.ArgumentError, match="or closed"):
        mrm.Heap(account)


def test_heaps_of_one_pool_share_its_frames(small_pool):
    with mrm.Heap(small_pool) as one, mrm.Heap(small_pool) as two:
        blocks = [each.malloc(3 * MIB) for each in (one, two, one, two, one, two, one)]
        with pytest.raises(mrm.OutOfFrames):
            one.malloc(5 * MIB)
        for address in blocks[1::2]:
            two.free(address)
        two.trim()
        one.malloc(5 * MIB)


# ---- figures ---------------------------------------------------------------------------


def test_figures_add_up(heap):
    assert check_figures(heap).memory == 0
    blocks = [heap.malloc(n) for n in (16, 16, 100, 5000, 3 * MIB)]
    stats = check_figures(heap)
    assert (stats.blocks, stats.bytes, stats.segments) == (4, 16 + 16 + 112 + 5120, 1)
    assert (stats.large_blocks, stats.large_bytes, stats.large_memory) == (1, 3 * MIB, 4 * MIB)
    assert {each.nbytes: each.blocks for each in stats.classes} == {16: 2, 112: 1, 5120: 1}
    heap.free(blocks.pop())
    stats = check_figures(heap)
    assert (stats.large_blocks, stats.large_bytes, stats.large_memory, stats.kept) == (0, 0, 0, 4 * MIB)
    told = json.loads(stats.to_json())
    assert told["kept"] == 4 * MIB
    assert told["classes"][0]["nbytes"] == 16
    for address in blocks:
        heap.free(address)
    assert heap.trim() == 6 * MIB
    stats = check_figures(heap)
    assert stats.memory_peak == 6 * MIB
    assert (stats.blocks, stats.large_blocks, stats.kept, stats.classes) == (0, 0, 0, ())
    assert heap.trim() == 0


@pytest.mark.parametrize("private", [False, True])
def test_a_heap_may_keep_nothing(small_pool, private):
    source = None if private else small_pool
    with mrm.Heap(source, keep=0) as heap, mrm.Heap(source) as usual:
        for each, kept in ((heap, 0), (usual, 2 * MIB)):
            blocks = [each.malloc(n) for n in (3 * MIB, 2 * MIB)]
            each.free(blocks.pop())
            stats = check_figures(each)
            assert (stats.kept, stats.memory) == (kept, 4 * MIB + kept)
            assert each.realloc(blocks[0], 2 * MIB) == blocks[0]
            stats = check_figures(each)
            assert (stats.kept, stats.memory) == (2 * kept, 2 * MIB + 2 * kept)
            each.free(blocks.pop())
        assert check_figures(heap).memory == 0
        assert heap.trim() == 0


def test_addresses_are_enough_where_nothing_limits_them(heap):
    stats = heap.stats()
    assert stats.addresses_lacking == 0
    if heap.private:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        assert stats.addresses >= (2 if overcommit_memory() == 2 else 9) * memory
    else:
        pool = heap.source if isinstance(heap.source, mrm.Pool) else heap.source.pool
        assert stats.addresses == 17 * len(pool) * FRAME


def test_trimming_gives_the_frames_to_the_pool(small_pool):
    with mrm.Heap(small_pool) as heap:
        blocks = [heap.malloc(n) for n in [1000] * 9000 + [3 * MIB] * 2]
        held = 16 - small_pool.stats().free
        assert held == check_figures(heap).memory // FRAME
        for address in blocks[1:]:
            heap.free(address)
        heap.trim()
        assert small_pool.stats().free == 15
        assert heap.usable_size(blocks[0]) == 1024


# ---- its life ----------------------------------------------------------------------------


def test_what_a_heap_says_of_itself(heap):
    assert not heap.closed
    assert heap.private == (heap.source is None)
    assert heap._c_heap % 16 == 0
    assert f"mrm.Heap {heap.number}" in repr(heap)
    assert ("private" in repr(heap)) == heap.private
    assert mrm.live_handles()["heaps"] == 1
    with mrm.Heap(name="runtime") as named:
        assert named.name == "runtime"
        assert named.number > heap.number > 0
        assert "'runtime'" in repr(named)
        with pytest.raises(
            mrm.BlockError, match=rf"is no block of heap {named.number} 'runtime': it was never"
        ):
            named.free(8)
        with pytest.raises(mrm.ArgumentError, match=rf"heap {named.number} 'runtime' does not know where"):
            named.explain(8)
    assert weakref.ref(heap)() is heap


def test_a_closed_heap_says_so(heap):
    address = heap.malloc(100)
    heap.close()
    heap.close()
    assert heap.closed
    assert repr(heap) == "<mrm.Heap closed>"
    for use in (
        lambda: heap.malloc(1),
        lambda: heap.calloc(1, 1),
        lambda: heap.realloc(0, 1),
        lambda: heap.aligned(16, 1),
        lambda: heap.free(address),
        lambda: heap.usable_size(address),
        lambda: heap.owns(address),
        lambda: heap.buffer(1),
        heap.blocks,
        heap.stats,
        heap.trim,
        lambda: heap.number,
        lambda: heap.private,
        lambda: heap._c_heap,
        heap._c_heap_retained,
        heap.__enter__,
    ):
        with pytest.raises(mrm.ClosedError, match="the heap is closed"):
            use()


def test_a_heap_keeps_its_pool(small_pool):
    del small_pool
    pool = mrm.Pool(4 * FRAME, huge="off")
    with mrm.Heap(pool) as heap:
        pool.close()
        address = heap.malloc(3 * MIB)
        write(address, 3 * MIB, 1)
        assert holds(address, 3 * MIB, 1)
    with pytest.raises(mrm.ClosedError):
        mrm.Heap(pool)


def test_a_heap_of_a_pool_that_nobody_closed_is_told():
    pool = mrm.Pool(4 * FRAME, huge="off")
    heap = mrm.Heap(pool)
    with pytest.warns(ResourceWarning, match="was never closed"):
        del heap
        gc.collect()
    assert pool.audit().free == 4
    pool.close()


def test_a_heap_is_opened_once_and_not_without_opening(heap):
    with pytest.raises(mrm.ArgumentError, match="opened once"):
        heap.__init__()
    bare = mrm.Heap.__new__(mrm.Heap)
    assert bare.closed
    with pytest.raises(mrm.ClosedError):
        bare.malloc(1)


def test_small_pages_are_warned_of(tmp_path, monkeypatch):
    setting = tmp_path / "enabled"
    monkeypatch.setattr(mrm._heap, "THP_SETTING", str(setting))
    setting.write_text("always madvise [never]\n")
    with pytest.warns(
        mrm.BackingWarning, match="'never'.*Write 'madvise' to it as root, or open the heap on a pool"
    ):
        mrm.Heap().close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        setting.write_text("always [madvise] never\n")
        mrm.Heap().close()
        setting.unlink()
        mrm.Heap().close()
