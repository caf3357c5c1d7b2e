"""mrm.cffi.allocator: what cffi makes lies in a heap, as long as it is there."""

import pytest
from fakeheap import FakeHeap
from heaping import run

cffi = pytest.importorskip("cffi")

import mrm
from mrm.adaptors import Limit, Log, Statistics
from mrm.cffi import allocator

ffi = cffi.FFI()
ffi.cdef("struct entry { int key; double values[4]; struct entry *next; };")


@pytest.fixture(params=["plain", "adaptor"])
def heap(request, emptied_heap):
    return Statistics(emptied_heap) if request.param == "adaptor" else emptied_heap


def at(cdata):
    return int(ffi.cast("uintptr_t", cdata))


def test_what_is_made_lies_in_the_heap_and_is_zero(heap):
    new = allocator(ffi, heap)
    for kind, n in (("char[]", 1), ("int[]", 1000), ("struct entry[]", 100_000), ("struct entry *", None)):
        made = new(kind, n) if n is not None else new(kind)
        assert heap.owns(at(made))
        assert not any(bytes(ffi.buffer(made)))
        ffi.buffer(made)[:] = b"\xff" * ffi.sizeof(made if n is not None else made[0])
        del made
    assert not list(heap.blocks())
    assert list(new("int[]", [1, 2, 3])) == [1, 2, 3]
    assert ffi.string(new("char[]", b"some text")) == b"some text"
    entry = new("struct entry *", {"key": 7, "values": [0.5]})
    assert (entry.key, entry.values[0], entry.values[3], entry.next) == (7, 0.5, 0, ffi.NULL)


def test_it_is_freed_with_its_last_reference_or_by_release(heap):
    new = allocator(ffi, heap)
    entry = new("struct entry *")
    inner = entry[0]  # keeps the whole
    del entry
    inner.key = 3
    assert len(list(heap.blocks())) == 1
    del inner
    assert not list(heap.blocks())
    with new("int[]", 5000) as numbers:
        numbers[4999] = 1
    assert not list(heap.blocks())
    view = ffi.buffer(new("int[]", 5000))
    view[:4] = b"abcd"
    assert view[:4] == b"abcd"
    del view
    assert not list(heap.blocks())


def test_it_outlives_its_heap(heap):
    new = allocator(ffi, heap)
    numbers = new("int[]", 1_000_000)
    heap.close()
    numbers[999_999] = 5
    assert numbers[999_999] == 5
    with pytest.raises(mrm.ClosedError):
        new("int[]", 10)
    del numbers


def test_without_zeros(heap):
    new = allocator(ffi, heap, zero=False)
    assert list(new("int[]", [4, 5])) == [4, 5]
    fake = FakeHeap()
    allocator(ffi, fake, zero=False)("int[]", 10)
    assert fake.calls == ["malloc", "free"]


def test_out_of_memory(heap):
    new = allocator(ffi, Limit(heap, 100_000))
    kept = new("char[]", 60_000)
    with pytest.raises(MemoryError):
        new("char[]", 60_000)
    del kept
    new("char[]", 60_000)


def test_any_heap(tmp_path):
    fake = FakeHeap()
    new = allocator(ffi, fake)
    numbers = new("long[]", 100)
    numbers[99] = 1
    assert fake.owns(at(numbers))
    del numbers
    assert not fake.live
    new = allocator(ffi, Log(fake, tmp_path / "calls.csv"))
    new("long[]", 3)
    assert fake.calls[-2:] == ["calloc", "free"]
    with pytest.raises(mrm.ArgumentError, match="is no heap"):
        allocator(ffi, ffi)


def test_threads(heap):
    new = allocator(ffi, heap)
    wrong = []

    def work(value):
        kept = []
        for n in range(1, 300):
            kept.append(new("int[]", [value] * n))
            if n % 3 == 0:
                kept.pop(n % len(kept))
        wrong.extend(made for made in kept if set(made) != {value})

    run(*(lambda i=i: work(i) for i in range(4)))
    assert not wrong
