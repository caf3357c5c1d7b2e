"""Heaps through the C table, by cffi: what each function returns, and what it says when it refuses."""

import random
import re

import pytest
from heaping import FRAMES, KINDS, holds, is_zero, run, write
from helpers import FRAME, MIB

import mrm

BAD_ARGUMENT, OUT_OF_FRAMES, CLOSED, BAD_BLOCK = -1, -3, -7, -12
KEEP_NONE = 1


@pytest.fixture
def table():
    """The C table by cffi."""
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    return api, ffi


def said(api, ffi):
    """The text of this thread's last failure."""
    return ffi.string(api.failure().text).decode()


@pytest.fixture(params=["small", "private"])
def handle(request, table):
    """A heap that C opened, and its options; its frames are back in the end."""
    api, ffi = table
    options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options")})
    made = ffi.new("mrm_heap **")
    if request.param == "private":
        assert api.heap_open(ffi.NULL, options, made) == 0
        yield made[0]
        assert api.heap_close(made[0]) == 0
        return
    with mrm.Pool(FRAMES * FRAME, huge=KINDS[request.param]) as pool:
        owner = api.pool_from_object(ffi.cast("void *", id(pool)))
        assert api.heap_open(owner, options, made) == 0
        api.pool_release(owner)
        yield made[0]
        assert api.heap_close(made[0]) == 0
        assert pool.audit().free == FRAMES


def at(ffi, block):
    """An address as an int."""
    return int(ffi.cast("uintptr_t", block))


def test_blocks_from_c(table, handle):
    api, ffi = table
    for n in (0, 1, 100, 5000, MIB, 3 * MIB):
        block = api.heap_malloc(handle, n)
        assert at(ffi, block) % 16 == 0
        assert api.heap_usable_size(handle, block) >= n
        assert api.heap_owns(handle, block) == 1
        write(at(ffi, block), n, 5)
        block = api.heap_realloc(handle, block, 2 * n + 5)
        assert holds(at(ffi, block), n, 5)
        assert api.heap_free(handle, block) == 0
        block = api.heap_calloc(handle, n, 3)
        assert is_zero(at(ffi, block), 3 * n)
        assert api.heap_free(handle, block) == 0
        block = api.heap_aligned(handle, 1 << 14, n)
        assert at(ffi, block) % (1 << 14) == 0
        assert api.heap_free(handle, block) == 0
    block = api.heap_realloc(handle, ffi.NULL, 10)
    assert block != ffi.NULL
    assert api.heap_realloc(handle, block, 0) != ffi.NULL, "the smallest block"
    assert api.heap_free(handle, block) == 0
    assert api.heap_free(handle, ffi.NULL) == 0


def test_what_c_gets_wrong_is_refused(table, handle):
    api, ffi = table
    foreign = ffi.cast("void *", 0x1000)
    large = api.heap_malloc(handle, 3 * MIB)
    assert api.heap_free(handle, foreign) == BAD_BLOCK
    assert "it was never its memory" in said(api, ffi)
    assert api.heap_usable_size(handle, foreign) == 0
    assert api.heap_owns(handle, foreign) == 0
    assert api.heap_realloc(handle, foreign, 10) == ffi.NULL
    assert api.failure().status == BAD_BLOCK
    assert api.heap_free(handle, large) == 0
    assert api.heap_free(handle, large) == BAD_BLOCK
    assert "it was freed before" in said(api, ffi)
    most = (1 << 64) - 1
    for wrong in (
        lambda: api.heap_malloc(handle, most),
        lambda: api.heap_malloc(handle, 1 << 63),
        lambda: api.heap_calloc(handle, 1 << 46, 1),
        lambda: api.heap_realloc(handle, ffi.NULL, most),
        lambda: api.heap_aligned(handle, 16, most),
        lambda: api.heap_aligned(handle, 1 << 63, 16),
        lambda: api.heap_aligned(handle, 1 << 63, most),
    ):
        assert wrong() == ffi.NULL
        assert api.failure().status in (OUT_OF_FRAMES, -5), said(api, ffi)
    for wrong in (
        lambda: api.heap_calloc(handle, most, 2),
        lambda: api.heap_calloc(handle, 1 << 33, 1 << 33),
    ):
        assert wrong() == ffi.NULL
        assert api.failure().status == BAD_ARGUMENT
        assert "more than a size can be" in said(api, ffi)
    for alignment in (0, 3, 48, most):
        assert api.heap_aligned(handle, alignment, 16) == ffi.NULL
        assert api.failure().status == BAD_ARGUMENT
    block = api.heap_malloc(handle, 100)
    write(at(ffi, block), 100, 1)
    assert api.heap_realloc(handle, block, most) == ffi.NULL
    assert holds(at(ffi, block), 100, 1)


def test_options_of_every_size(table):
    api, ffi = table
    made = ffi.new("mrm_heap **")
    size = ffi.sizeof("mrm_heap_options")
    for wrong in (0, size + 1, 1000):
        options = ffi.new("mrm_heap_options *", {"size": wrong})
        assert api.heap_open(ffi.NULL, options, made) == BAD_ARGUMENT
        assert "sizeof(mrm_heap_options)" in said(api, ffi)
    options = ffi.new("mrm_heap_options *", {"size": size, "flags": 64})
    assert api.heap_open(ffi.NULL, options, made) == BAD_ARGUMENT
    assert "MRM_HEAP_" in said(api, ffi)
    # An older caller's struct: what lies behind its end is not looked at.
    options = ffi.new("mrm_heap_options *", {"size": 16, "limit": 4 * MIB, "flags": 64, "keep": 5})
    assert api.heap_open(ffi.NULL, options, made) == 0
    assert api.heap_malloc(made[0], 5 * MIB) == ffi.NULL
    assert "limit allows" in said(api, ffi)
    assert api.heap_close(made[0]) == 0


@pytest.mark.parametrize(
    ("keep", "kept"), [(KEEP_NONE, 0), (2 * MIB - 1, 0), (7 * MIB, 6 * MIB), (0, 6 * MIB)]
)
def test_what_is_kept(table, keep, kept):
    api, ffi = table
    made = ffi.new("mrm_heap **")
    options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options"), "keep": keep})
    assert api.heap_open(ffi.NULL, options, made) == 0
    assert api.heap_free(made[0], api.heap_malloc(made[0], 5 * MIB)) == 0
    stats = ffi.new("mrm_heap_stats *", {"size": ffi.sizeof("mrm_heap_stats")})
    assert api.heap_stats(made[0], stats) == 0
    assert (stats.kept, stats.memory) == (kept, kept)
    assert api.heap_close(made[0]) == 0


def test_a_name_is_copied_and_said(table):
    api, ffi = table
    made = ffi.new("mrm_heap **")
    options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options"), "limit": 8 * MIB})
    for text in (b"lua", b"n" * 47):
        name = ffi.new("char[]", text)
        options.name = name
        assert api.heap_open(ffi.NULL, options, made) == 0
        name[0:3] = b"old"
        heap, called = made[0], rf"heap \d+ '{text.decode()}'"
        assert api.heap_free(heap, ffi.cast("void *", 8)) == BAD_BLOCK
        assert re.fullmatch(rf"0x8 is no block of {called}: it was never its memory", said(api, ffi))
        assert api.heap_malloc(heap, 9 * MIB) == ffi.NULL
        assert re.match(rf"{called} has 0 KiB of the 8192 KiB that its limit allows", said(api, ffi))
        large = api.heap_malloc(heap, 3 * MIB)
        assert api.heap_free(heap, large) == 0
        assert api.heap_free(heap, large) == BAD_BLOCK
        assert re.search(rf"{called}: it was freed before", said(api, ffi))
        assert api.heap_check(heap, ffi.new("uint64_t *")) == BAD_ARGUMENT
        assert re.match(rf"{called} keeps nothing to check", said(api, ffi))
        assert api.heap_close(heap) == 0
    for wrong in (b"", b"n" * 48):
        options.name = name = ffi.new("char[]", wrong)
        assert api.heap_open(ffi.NULL, options, made) == BAD_ARGUMENT
        assert f"the name of a heap has 1 to 47 bytes, not {len(wrong)}" in said(api, ffi)


def test_accounts_of_a_pool(table):
    api, ffi = table
    made = ffi.new("mrm_heap **")
    with mrm.Pool(8 * FRAME, huge="off") as pool:
        account = pool.account("runtime")
        account.fund(2)
        owner = api.pool_from_object(ffi.cast("void *", id(pool)))
        options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options"), "account": 77})
        assert api.heap_open(owner, options, made) == BAD_ARGUMENT
        assert "account 77 is none of this pool's" in said(api, ffi)
        options.account = account.number
        assert api.heap_open(owner, options, made) == 0
        assert api.heap_malloc(made[0], 3 * MIB) != ffi.NULL
        assert account.stats().allocated == 2
        assert api.heap_malloc(made[0], 1) == ffi.NULL
        assert api.failure().status == OUT_OF_FRAMES
        assert api.heap_close(made[0]) == 0
        api.pool_release(owner)
        assert pool.audit().free == 8


def test_figures_for_callers_of_any_age(table, handle):
    api, ffi = table
    small, large = api.heap_malloc(handle, 100), api.heap_malloc(handle, 3 * MIB)
    stats = ffi.new("mrm_heap_stats *", {"size": ffi.sizeof("mrm_heap_stats")})
    assert api.heap_stats(handle, stats) == 0
    assert (stats.blocks, stats.bytes, stats.large_blocks, stats.large_bytes) == (1, 112, 1, 3 * MIB)
    assert (stats.memory, stats.segments, stats.large_memory) == (6 * MIB, 1, 4 * MIB)
    stats.size = 16  # an older caller's: no more of it is written
    stats.blocks = stats.memory = 99
    assert api.heap_stats(handle, stats) == 0
    assert (stats.size, stats.memory, stats.blocks) == (16, 6 * MIB, 99)
    assert api.heap_free(handle, small) == api.heap_free(handle, large) == 0
    assert api.heap_trim(handle) == 6 * MIB


# ---- heaps of Python ------------------------------------------------------------------------


def test_a_heap_of_python_in_c(table, some_heap):
    api, ffi = table
    heap = api.heap_from_object(ffi.cast("void *", id(some_heap)))
    assert at(ffi, heap) == some_heap._c_heap
    block = api.heap_malloc(heap, 100)
    assert at(ffi, block) in dict(some_heap.blocks())
    some_heap.free(at(ffi, block))
    kept = some_heap.malloc(100)
    write(kept, 100, 1)
    some_heap.close()
    assert holds(kept, 100, 1), "C's use of the heap goes on"
    assert api.heap_free(heap, ffi.cast("void *", kept)) == 0
    assert api.heap_close(heap) == 0


def test_what_is_no_heap_of_python_is_refused(table):
    api, ffi = table
    with mrm.Pool(2 * FRAME, huge="off") as pool:
        for wrong in (pool, table, 3):
            assert api.heap_from_object(ffi.cast("void *", id(wrong))) == ffi.NULL
            assert api.failure().status == BAD_ARGUMENT
            assert "not an open mrm.Heap" in said(api, ffi)
    with mrm.Heap() as heap:
        assert api.pool_from_object(ffi.cast("void *", id(heap))) == ffi.NULL
        assert api.failure().status == BAD_ARGUMENT
    heap = mrm.Heap()
    heap.close()
    assert api.heap_from_object(ffi.cast("void *", id(heap))) == ffi.NULL
    assert api.failure().status == CLOSED


# ---- the shape of lua_Alloc --------------------------------------------------------------------


def test_one_function_for_everything(table, handle):
    api, ffi = table
    lua = api.heap_lua_alloc
    assert lua(handle, ffi.NULL, 0, 0) == ffi.NULL
    block = lua(handle, ffi.NULL, 5, 100)  # osize of a new one is the type of what it is for
    write(at(ffi, block), 100, 1)
    had = 100
    for n in (5000, 3 * MIB, 9 * MIB, 2 * MIB, 300, 16):
        block = lua(handle, block, had, n)
        assert holds(at(ffi, block), min(had, n, 100), 1)
        had = n
    assert lua(handle, block, had, 0) == ffi.NULL
    stats = ffi.new("mrm_heap_stats *", {"size": ffi.sizeof("mrm_heap_stats")})
    assert api.heap_stats(handle, stats) == 0
    assert (stats.blocks, stats.large_blocks) == (0, 0)


def test_making_a_block_smaller_never_fails(table):
    """Lua takes that for granted, with memory all used as well."""
    api, ffi = table
    with mrm.Heap(limit="8MiB") as owner:
        heap = api.heap_from_object(ffi.cast("void *", id(owner)))
        large = api.heap_malloc(heap, 3 * MIB)
        blocks = []
        while (block := api.heap_malloc(heap, 200_000)) != ffi.NULL:
            blocks.append((block, 200_000))
        while (block := api.heap_malloc(heap, 1000)) != ffi.NULL:
            blocks.append((block, 1000))
        for block, n in [*blocks[:3], *blocks[-3:], (large, 3 * MIB)]:
            write(at(ffi, block), n, 1)
            smaller = api.heap_lua_alloc(heap, block, n, 24)
            assert smaller != ffi.NULL
            assert holds(at(ffi, smaller), 24, 1)
        assert api.heap_close(heap) == 0


# ---- without the GIL ----------------------------------------------------------------------------


def test_threads_of_c_share_a_heap(table, handle):
    """cffi lets the GIL go in each call; what one thread allocates, another one frees."""
    api, ffi = table
    shared = []

    def work(seed):
        draw = random.Random(seed)
        for i in range(4000):
            n = int(2 ** draw.uniform(3, 14)) if i % 200 else 3 * MIB
            block = api.heap_malloc(handle, n)
            assert block != ffi.NULL
            write(at(ffi, block), min(n, 200), seed)
            shared.append((block, min(n, 200), seed))
            if len(shared) > 20:
                block, n, mark = shared.pop()
                assert holds(at(ffi, block), n, mark)
                assert api.heap_free(handle, block) == 0

    run(*(lambda seed=seed: work(seed) for seed in range(1, 4)))
    for block, n, mark in shared:
        assert holds(at(ffi, block), n, mark)
        assert api.heap_free(handle, block) == 0
    api.heap_trim(handle)
    stats = ffi.new("mrm_heap_stats *", {"size": ffi.sizeof("mrm_heap_stats")})
    assert api.heap_stats(handle, stats) == 0
    assert (stats.blocks, stats.large_blocks, stats.memory) == (0, 0, 0)
