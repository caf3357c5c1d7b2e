"""Statistics and Track: what there is, what there was at most, and where it was made."""

import asyncio
import threading

import pytest

import mrm
from mrm.adaptors import Statistics, Track

# ---- Statistics ------------------------------------------------------------------------


def test_statistics(fake_heap):
    heap = Statistics(fake_heap)
    a, b = heap.malloc(100), heap.calloc(2, 50)
    heap.free(a)
    b = heap.realloc(b, 30)
    fake_heap.room = 0
    with pytest.raises(mrm.OutOfFrames):
        heap.malloc(1)
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(b, 1000)
    assert heap.counts().as_dict() == {
        "blocks": 1,
        "bytes": 32,
        "peak_blocks": 2,
        "peak_bytes": 224,
        "made": 2,
        "made_bytes": 224,
        "changed": 1,
        "freed": 1,
        "failed": 2,
    }
    assert heap.reset_peaks().peak_bytes == 224
    assert heap.counts().peak_bytes == 32
    assert '"peak_bytes": 32' in heap.counts().to_json()


def test_scopes_lie_in_each_other_and_overlap(fake_heap):
    heap = Statistics(fake_heap)
    kept = heap.malloc(1600)
    with heap.scope("outer") as outer:
        heap.free(heap.malloc(160))
        with heap.scope("inner") as inner:
            block = heap.malloc(320)
            assert inner.counts().bytes == 320
            heap.free(kept)
        heap.free(block)
    assert (inner.counts().peak_bytes, inner.counts().bytes) == (320, 320 - 1600)
    assert (outer.counts().peak_bytes, outer.counts().made) == (320, 2)
    first, second = heap.scope("a").__enter__(), heap.scope("b").__enter__()
    block = heap.malloc(16)
    first.__exit__(None, None, None)
    heap.free(block)
    second.__exit__(None, None, None)
    assert (first.counts().bytes, second.counts().bytes) == (16, 0)
    with pytest.raises(mrm.ArgumentError, match="counts once"):
        first.__enter__()


def test_decorated_functions_are_added_up_by_name(fake_heap):
    heap = Statistics(fake_heap)

    @heap.scope()
    def some(nbytes, depth=0):
        """Doc."""
        block = heap.malloc(nbytes)
        if depth:
            some(nbytes, depth - 1)
        heap.free(block)
        return nbytes

    @heap.scope("waiting")
    async def waits():
        block = heap.malloc(48)
        await asyncio.sleep(0)
        return block

    assert some(160) == 160 and some(320, depth=1) == 320
    assert some.__doc__ == "Doc."
    asyncio.run(waits())
    by_name = {totals.name: totals for totals in heap.scopes()}
    (name,) = {key for key in by_name if key.endswith("some")}
    assert (by_name[name].entered, by_name[name].peak_bytes) == (3, 640)
    assert (by_name["waiting"].left_bytes, by_name["waiting"].made) == (48, 1)
    assert [totals.name for totals in heap.scopes()] == [name, "waiting"]


def test_an_exception_ends_a_scope(fake_heap):
    heap = Statistics(fake_heap)
    with pytest.raises(KeyError), heap.scope("bad"):
        heap.malloc(16)
        raise KeyError
    assert heap.scopes()[0].left_bytes == 16
    heap.malloc(16)
    assert heap.scopes()[0].left_bytes == 16


# ---- Track -----------------------------------------------------------------------------


def leaky(heap, n):
    return [heap.malloc(100) for _ in range(n)]


def test_track(fake_heap):
    heap = Track(fake_heap)
    blocks = leaky(heap, 3)
    other = heap.calloc(5, 5)
    assert len(heap) == 4
    assert [tracked.address for tracked in heap.live()] == [*blocks, other]
    most, least = heap.by_place()
    assert (most.blocks, most.nbytes, least.nbytes) == (3, 300, 25)
    assert "leaky" in [frame.name for frame in most.stack]
    assert most.stack[-1].filename == __file__
    found = heap.where(other)
    assert found.nbytes == 25 and "heap.calloc(5, 5)" in str(found)
    assert found.thread == threading.get_ident()
    assert heap.report().startswith("4 live blocks of 325 B, from 2 places\n\n300 B in 3 blocks, from:\n")
    moved = heap.realloc(other, 5000)
    assert heap.where(moved).nbytes == 5000
    with pytest.raises(mrm.BlockError):
        heap.free(moved + 16)
    for block in (*blocks, moved):
        heap.free(block)
    assert not heap.live()
    assert heap.where(moved) is None


def test_track_keeps_notes_of_what_could_not_be_changed(fake_heap):
    heap = Track(fake_heap)
    block = heap.malloc(10)
    fake_heap.room = 0
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(block, 1000)
    assert heap.where(block).nbytes == 10
    fake_heap.free(block)
    with pytest.raises(mrm.BlockError):
        heap.free(block)
    assert heap.where(block) is not None


def test_track_depth(fake_heap):
    heap = Track(fake_heap, depth=1)
    heap.malloc(1)
    assert len(heap.live()[0].stack) == 1
    with pytest.raises(mrm.ArgumentError):
        Track(fake_heap, depth=-1)
