"""What bytes cost a Python program: buffers of a heap beside bytearray, and large blocks that grow."""

from collections.abc import Iterator

import pytest

import mrm

SMALL_BYTES = [16, 256, 4000]
MIB = 1 << 20


@pytest.fixture
def heap(pool: mrm.Pool) -> Iterator[mrm.Heap]:
    """A heap on the pool that is measured on."""
    with mrm.Heap(pool) as opened:
        yield opened


@pytest.mark.parametrize("nbytes", SMALL_BYTES)
def test_buffer(benchmark, heap: mrm.Heap, nbytes: int) -> None:
    benchmark(heap.buffer, nbytes)


@pytest.mark.parametrize("nbytes", SMALL_BYTES)
def test_bytearray_to_compare(benchmark, nbytes: int) -> None:
    benchmark(bytearray, nbytes)


def test_malloc_and_free(benchmark, heap: mrm.Heap) -> None:
    benchmark(lambda: heap.free(heap.malloc(256)))


def test_large_block_from_what_is_kept(benchmark, heap: mrm.Heap) -> None:
    benchmark(lambda: heap.free(heap.malloc(16 * MIB)))


def test_growth_in_place(benchmark, heap: mrm.Heap) -> None:
    def grow() -> None:
        buffer = heap.buffer(2 * MIB)
        for nbytes in range(4 * MIB, 258 * MIB, 2 * MIB):
            buffer.resize(nbytes)
        buffer.free()
        heap.trim()

    benchmark(grow)
