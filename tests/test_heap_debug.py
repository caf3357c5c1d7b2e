"""Heaps with debug: each kind of mistake is found, told with its stacks, and stops nothing."""

import ctypes

import pytest
from helpers import FRAME, MIB
from mistaken import read, release, stack, told, write

import mrm

FENCE = 64  # bytes that are looked at on each side of a block
SIZES = [1, 100, 4096, 100_001, 3 * MIB + 5]


@pytest.fixture
def heap(debug_heap):
    return debug_heap


@pytest.fixture(params=SIZES)
def nbytes(request):
    return request.param


@pytest.fixture(params=["malloc", "calloc", "aligned"])
def block(request, heap, nbytes):
    """A block of ``nbytes``, allocated in one of the ways."""
    return allocate(heap, request.param, nbytes)


def allocate(heap, how, nbytes):
    return {
        "malloc": lambda: heap.malloc(nbytes),
        "calloc": lambda: heap.calloc(nbytes, 1),
        "aligned": lambda: heap.aligned(4096, nbytes),
    }[how]()


# ---- what is no mistake ------------------------------------------------------------------


def test_a_block_has_what_was_asked_for(heap, block, nbytes):
    assert heap.usable_size(block) == nbytes
    assert list(heap.blocks()) == [(block, nbytes)]
    write(block, b"\xfd" * nbytes)
    assert heap.check() == 1
    heap.free(block)
    assert list(heap.blocks()) == []


def test_sizes_around_the_borders_of_classes(heap):
    sizes = [n + d for n in (0, 16, 128, 144, 1024, 4096, 65_536, MIB - 128, MIB) for d in (0, 1, 2)]
    blocks = {heap.malloc(n): n for n in sizes}
    for at, n in blocks.items():
        assert heap.usable_size(at) == max(n, 1)
        write(at, bytes([n % 251]) * n)
    assert heap.check() == len(blocks)
    for at, n in blocks.items():
        assert read(at, n) == bytes([n % 251]) * n
        heap.free(at)


@pytest.mark.parametrize("alignment", [1, 16, 64, 128, 4096, 65_536, MIB, 2 * MIB])
def test_alignment(heap, alignment):
    at = heap.aligned(alignment, 100)
    assert at % alignment == 0
    assert heap.usable_size(at) == 100
    heap.free(at)


def test_contents_of_fresh_and_of_freed_blocks(heap, nbytes):
    at = heap.malloc(nbytes)
    assert set(read(at, nbytes)) == {0xCD}
    heap.free(at)
    for _ in range(3):
        heap.trim()
        at = heap.calloc(nbytes, 1)
        assert not any(read(at, nbytes))
        write(at, b"x" * nbytes)
        heap.free(at)


def test_freed_blocks_hold_a_pattern(heap):
    at = heap.malloc(1000)
    heap.free(at)
    assert set(read(at, 1000)) == {0xDD}


def test_realloc_always_moves(heap, nbytes):
    at = heap.malloc(nbytes)
    data = bytes(i % 251 for i in range(nbytes))
    write(at, data)
    for size in (nbytes, nbytes + 1, max(nbytes // 2, 1), 2 * nbytes, 1):
        moved = heap.realloc(at, size)
        assert moved != at
        assert heap.usable_size(moved) == size
        data = data[:size]
        assert read(moved, len(data)) == data
        assert set(read(moved + len(data), size - len(data))) <= {0xCD}
        at = moved
        data = read(at, size)
    heap.free(at)


def test_realloc_of_nothing_and_to_nothing(heap):
    at = heap.realloc(0, 10)
    assert heap.usable_size(at) == 10
    at = heap.realloc(at, 0)
    assert heap.usable_size(at) == 1
    heap.free(at)
    heap.free(0)


def test_what_cannot_be_is_refused_as_ever(heap):
    with pytest.raises(mrm.OutOfFrames):
        heap.malloc(1 << 62)
    with pytest.raises(mrm.OutOfFrames):
        heap.aligned(1 << 62, 1 << 62)
    with pytest.raises(mrm.ArgumentError):
        heap.calloc(1 << 40, 1 << 40)
    with pytest.raises(mrm.ArgumentError):
        heap.aligned(3, 100)
    assert list(heap.blocks()) == []


# ---- written around ----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, FENCE])
def test_written_past_its_end(heap, block, nbytes, n, capfd):
    write(block + nbytes, b"A" * n)
    report = told(release, heap, block)
    sentence = f"the block of {nbytes} bytes at {block:#x} of heap {heap.number} was written past its end: "
    assert report.startswith(sentence + f"{n} byte")
    assert f"from offset {nbytes} on, seen when it was freed\n  There is 41" in report
    assert "allocate" in stack(report, "Allocated")
    assert stack(report, "Now")[0] == "release"
    written = capfd.readouterr().err
    assert written == f"mrm: {report}\n"
    assert "freed" in heap.explain(block)


@pytest.mark.parametrize("n", [1, FENCE])
def test_written_in_front_of_its_beginning(heap, block, nbytes, n):
    write(block - n, b"\0" + b"\xfd" * (n - 1))
    report = told(release, heap, block)
    assert f" was written in front of its beginning: 1 byte from offset -{n} on" in report
    assert "  There is 00 where fd was\n" in report


def test_damages_on_both_sides_are_one_report(heap):
    at = heap.malloc(50)
    write(at - 3, b"abc")
    write(at + 60, b"abc")
    report = told(release, heap, at)
    assert "3 bytes from offset -3 on" in report
    assert "3 bytes from offset 60 on" in report


def test_damage_is_told_once(heap, block, nbytes):
    write(block + nbytes, b"A")
    assert "seen when the heap was checked" in told(heap.check)
    assert heap.check() == 1
    write(block + nbytes, b"A")
    told(heap.check)
    heap.free(block)


def test_realloc_of_a_damaged_block_leaves_it(heap, block, nbytes):
    write(block, b"z")
    write(block + nbytes, b"A")
    assert "seen when it was resized" in told(heap.realloc, block, 10)
    assert list(heap.blocks()) == [(block, nbytes)]
    assert read(block, 1) == b"z"
    heap.free(heap.realloc(block, 10))


def test_many_damaged_blocks(heap):
    blocks = [heap.malloc(24) for _ in range(100)]
    for at in blocks:
        write(at + 24, b"A")
    seen = 0
    while seen < 100:
        report = told(heap.check)
        seen += report.count("past its end")
        assert (
            report.rstrip().endswith("check again")
            or "There may be more: check again\n" in report
            or seen == 100
        )
    assert heap.check() == 100


# ---- freed -------------------------------------------------------------------------------


def test_written_to_after_it_was_freed(heap, block, nbytes):
    if nbytes > 16 * FRAME // 8 and not heap.private:
        pytest.skip("has no room in the quarantine of a small pool")
    release(heap, block)
    write(block + nbytes // 2, b"A")
    report = told(heap.check)
    assert f"was written to after it was freed: 1 byte from offset {nbytes // 2} on" in report
    assert "  There is 41 where dd was\n" in report
    assert stack(report, "Freed")[0] == "release"
    assert stack(report, "Allocated")


@pytest.mark.parametrize("how", ["trim", "close"])
def test_written_to_after_it_was_freed_seen_late(how):
    heap = mrm.Heap(debug=True)
    at = heap.malloc(100)
    heap.free(at)
    write(at, b"A")
    assert "was written to after it was freed" in told(getattr(heap, how))
    heap.close()


def test_freed_twice(heap, block, nbytes):
    release(heap, block)
    report = told(heap.free, block)
    assert report.startswith(
        f"the block of {nbytes} bytes at {block:#x} of heap {heap.number} was freed twice"
    )
    assert stack(report, "Freed")[0] == "release"
    assert stack(report, "Allocated")
    assert stack(report, "Now")[0] == "told"
    assert heap.check() <= 1


def test_freed_twice_when_its_memory_is_gone(heap, block, nbytes):
    release(heap, block)
    heap.trim()
    report = told(heap.free, block)
    assert "was freed twice; its memory may be another block's by now" in report
    assert stack(report, "Freed")[0] == "release"


def test_a_new_block_takes_the_place_of_a_gone_one(heap):
    at = heap.malloc(100)
    for _ in range(50):
        heap.free(at)
        heap.trim()
        again = heap.malloc(100)
        if again == at:
            break
        at = again
    heap.free(again)
    assert "was freed twice\n" in told(heap.free, again)


def test_resized_after_it_was_freed(heap, block):
    release(heap, block)
    assert "was resized after it was freed" in told(heap.realloc, block, 10)
    moved = heap.realloc(heap.malloc(10), 20)
    heap.free(moved)


def test_the_old_address_of_a_resized_block(heap):
    at = heap.malloc(10)
    moved = heap.realloc(at, 12)
    assert "was freed twice" in told(heap.free, at)
    write(at, b"A")
    assert "was written to after" in told(heap.check)
    heap.free(moved)


# ---- no blocks -----------------------------------------------------------------------------


def test_an_address_inside_a_block(heap, block, nbytes):
    if nbytes == 1:
        pytest.skip("there is none")
    report = told(heap.free, block + 1)
    assert (
        f"{block + 1:#x} is no block of heap {heap.number}: it lies 1 bytes into the block of {nbytes} "
        in report
    )
    assert f"at {block:#x}, in use; it was to be freed\n" in report
    assert stack(report, "Allocated")
    assert "it lies 16 bytes in front of the block" in told(heap.free, block - 16)
    assert "it was to be resized" in told(heap.realloc, block + 1, 10)
    heap.free(block)
    assert "which was freed; it was to be freed" in told(heap.free, block + 1)


def test_foreign_addresses(heap):
    mine = ctypes.create_string_buffer(100)
    for at in (8, ctypes.addressof(mine), heap.malloc(10) + (1 << 30), (1 << 64) - 16):
        assert f"{at:#x} is no block of heap {heap.number}: there is none" in told(heap.free, at)
        assert f"{at:#x} is no block of" in told(heap.usable_size, at)
        told(heap.realloc, at, 10)


def test_a_block_of_another_heap(heap):
    with mrm.Heap(debug=True) as other, mrm.Heap(debug=True, name="young") as young:
        at = other.malloc(100)
        assert f"it is one of heap {other.number}; it was to be freed" in told(heap.free, at)
        assert (
            f"is no block of heap {young.number} 'young': it is one of heap {other.number}; it was to be freed"
        ) in told(young.free, at)
        named = young.malloc(100)
        assert f"it is one of heap {young.number} 'young'; it was to be freed" in told(heap.free, named)
        young.free(named)
        assert other.check() == 1


def test_usable_size_of_what_is_none_writes_nothing(heap, capfd):
    at = heap.malloc(10)
    heap.free(at)
    assert "which was freed" in told(heap.usable_size, at)
    assert capfd.readouterr().err == ""
