"""Adaptors: each by itself, on each other, from several threads, over a fork."""

import asyncio
import csv
import ctypes
import gc
import io
import os
import threading

import pytest
from fakeheap import FakeHeap
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import mrm
from mrm.adaptors import Adaptor, HeapLike, Limit, Log, OnFailure, Statistics, Track
from mrm.adaptors.log import COLUMNS

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


@pytest.fixture
def fake():
    heap = FakeHeap()
    yield heap
    gc.collect()
    heap.close()


@pytest.fixture(params=[*KINDS, "everything"])
def wrapped(request, fake):
    return KINDS.get(request.param, everything)(fake)


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


# ---- what all have in common -----------------------------------------------------------


def test_each_is_a_heap(wrapped, fake):
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
    assert wrapped.stats() == {"blocks": 4}
    assert wrapped.trim() == 0
    for block in (a, b, c, d, 0):
        wrapped.free(block)
    assert not fake.live


def test_sizes_are_as_everywhere(wrapped, fake):
    wrapped.free(wrapped.malloc("64KiB"))
    for bad in (-1, "many", 1.5, None, True):
        with pytest.raises(mrm.ArgumentError):
            wrapped.malloc(bad)
    assert not fake.live


def test_what_is_none_of_its_blocks_is_refused_and_changes_nothing(wrapped):
    a = wrapped.malloc(64)
    for call in (lambda: wrapped.free(a + 16), lambda: wrapped.realloc(a + 16, 100)):
        with pytest.raises(mrm.ArgumentError):
            call()
    assert wrapped.usable_size(a) == 64
    wrapped.free(a)


def test_close_closes_all_and_twice_is_once(wrapped, fake):
    with wrapped:
        wrapped.malloc(10)
        assert not wrapped.closed
    wrapped.close()
    assert wrapped.closed and fake.closed
    with pytest.raises(mrm.ClosedError):
        wrapped.malloc(10)


def test_detach_leaves_the_heap_open(wrapped, fake):
    below = wrapped.detach()
    assert below is wrapped.heap
    below.free(below.malloc(10))
    assert not fake.closed


def test_no_heap_is_refused():
    with pytest.raises(mrm.ArgumentError, match="is no heap"):
        Statistics(object())


def test_repr_names_the_whole_stack(fake):
    assert "Statistics of <mrm.adaptors.Track of" in repr(Statistics(Track(fake)))


# ---- buffers and arrays ------------------------------------------------------------------


def test_buffer(wrapped, fake):
    buffer = wrapped.buffer(1000, zero=True)
    assert bytes(buffer) == bytes(1000)
    assert len(buffer) == buffer.nbytes == 1000
    view = memoryview(buffer)
    view[:3] = b"abc"
    for forbidden in (lambda: buffer.resize(2000), buffer.release):
        with pytest.raises(mrm.PinnedError, match="1 buffers look"):
            forbidden()
    view.release()
    buffer.resize(100_000)
    assert bytes(buffer)[:3] == b"abc"
    assert len(buffer) == 100_000
    buffer.release()
    buffer.release()
    assert buffer.released and not fake.live
    with pytest.raises(mrm.ClosedError):
        memoryview(buffer)


def test_a_buffer_ends_with_its_last_reference_also_in_a_cycle(wrapped, fake):
    class Holder:
        pass

    holder = Holder()
    holder.buffer, holder.me = wrapped.buffer(100), holder
    assert len(fake.live) == 1
    del holder
    gc.collect()
    assert not fake.live


def test_a_buffer_that_outlives_its_heap(wrapped):
    buffer = wrapped.buffer(100)
    wrapped.close()
    del buffer


def test_arrays(wrapped, fake):
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
    assert not fake.live
    with pytest.raises(mrm.ArgumentError, match="Python objects"):
        wrapped.empty(3, object)


# ---- Limit -----------------------------------------------------------------------------


def test_limit(fake):
    heap = Limit(fake, 1000)
    a = heap.malloc(600)
    assert (heap.limit, heap.used, heap.left) == (1000, 608, 392)
    with pytest.raises(mrm.OutOfFrames, match=r"limit of 1000 B, of which 608 B") as caught:
        heap.malloc(400)
    assert caught.value.nbytes == 400
    with pytest.raises(mrm.OutOfFrames):  # fits, but not as it is rounded
        heap.malloc(391 + 1)
    assert heap.used == 608 and len(fake.live) == 1
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


def test_limit_gives_back_what_the_heap_below_refuses(fake):
    heap = Limit(fake, 1 << 20)
    fake.room = 100
    for call in (lambda: heap.malloc(200), lambda: heap.calloc(20, 10), lambda: heap.aligned(64, 200)):
        with pytest.raises(mrm.OutOfFrames):
            call()
    assert heap.used == 0
    block = heap.malloc(64)
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(block, 500)
    assert heap.used == 64


def test_threads_cannot_pass_the_limit_together(fake):
    heap = Limit(fake, 100 * 64)
    got, most = [], []

    def work():
        for _ in range(200):
            try:
                got.append(heap.malloc(64))
            except mrm.OutOfFrames:
                continue
            most.append(heap.used)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 100 and max(most) == heap.limit == heap.used


# ---- Statistics -------------------------------------------------------------------------


def test_statistics(fake):
    heap = Statistics(fake)
    a, b = heap.malloc(100), heap.calloc(2, 50)
    heap.free(a)
    b = heap.realloc(b, 30)
    fake.room = 0
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


def test_scopes_lie_in_each_other_and_overlap(fake):
    heap = Statistics(fake)
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


def test_decorated_functions_are_added_up_by_name(fake):
    heap = Statistics(fake)

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


def test_an_exception_ends_a_scope(fake):
    heap = Statistics(fake)
    with pytest.raises(KeyError), heap.scope("bad"):
        heap.malloc(16)
        raise KeyError
    assert heap.scopes()[0].left_bytes == 16
    heap.malloc(16)
    assert heap.scopes()[0].left_bytes == 16


# ---- Log ---------------------------------------------------------------------------------


def test_log(fake):
    file = io.StringIO()
    heap = Log(fake, file)
    a = heap.malloc(100)
    b = heap.calloc(3, 7)
    c = heap.aligned(256, 10)
    d = heap.realloc(a, 2000)
    fake.room = 0
    with pytest.raises(mrm.OutOfFrames):
        heap.malloc(5)
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(d, 9999)
    heap.free(d)
    heap.free(0)
    heap.flush()
    lines = rows(file.getvalue())
    assert tuple(lines[0]) == COLUMNS
    me = str(threading.get_native_id())
    assert {line["thread"] for line in lines} == {me}
    assert [float(line["seconds"]) for line in lines] == sorted(float(line["seconds"]) for line in lines)
    assert [[line[c] for c in COLUMNS[2:]] for line in lines] == [
        ["malloc", f"{a:#x}", "100", "", "", ""],
        ["calloc", f"{b:#x}", "21", "", "", ""],
        ["aligned", f"{c:#x}", "10", "", "256", ""],
        ["realloc", f"{d:#x}", "2000", f"{a:#x}", "", ""],
        ["malloc", "0x0", "5", "", "", ""],
        ["realloc", "0x0", "9999", f"{d:#x}", "", ""],
        ["free", f"{d:#x}", "2000", "", "", ""],
    ]
    heap.close()
    assert not file.closed


def test_log_to_a_path_says_where(fake, tmp_path):
    path = tmp_path / "calls.csv"
    with Log(Statistics(fake), path, where=True) as heap:
        heap.malloc(1)
        buffer = heap.buffer(2)
        del buffer
    here = {line["where"].rpartition(":")[0] for line in rows(path.read_text())}
    assert here == {__file__}
    assert [line["action"] for line in rows(path.read_text())] == ["malloc", "malloc", "free"]


def test_where_is_quoted_as_csv_wants_it(fake):
    file = io.StringIO()
    heap = Log(fake, file, where=True)
    code = compile("heap.malloc(1)", 'odd, "name".py', "exec")
    exec(code, {"heap": heap})
    heap.flush()
    assert rows(file.getvalue())[0]["where"] == 'odd, "name".py:1'


def test_a_log_that_is_forgotten_is_whole(fake, tmp_path):
    path = tmp_path / "calls.csv"
    heap = Log(fake, path)
    heap.malloc(1)
    del heap
    assert len(path.read_text().splitlines()) == 2


def test_a_child_writes_nothing_and_nothing_twice(fake, tmp_path):
    path = tmp_path / "calls.csv"
    with open(tmp_path / "other.csv", "w") as other:
        heap = Log(Log(fake, path), other)
        heap.malloc(1)
        child = os.fork()
        if not child:
            heap.free(heap.malloc(2))
            heap.flush()
            heap.close()
            other.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        heap.malloc(3)
        heap.close()
    for name in (path, tmp_path / "other.csv"):
        assert [line["bytes"] for line in rows(name.read_text())] == ["1", "3"]


# ---- Track ---------------------------------------------------------------------------


def leaky(heap, n):
    return [heap.malloc(100) for _ in range(n)]


def test_track(fake):
    heap = Track(fake)
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
    with pytest.raises(mrm.ArgumentError):
        heap.free(moved + 16)
    for block in (*blocks, moved):
        heap.free(block)
    assert not heap.live()
    assert heap.where(moved) is None


def test_track_keeps_notes_of_what_could_not_be_changed(fake):
    heap = Track(fake)
    block = heap.malloc(10)
    fake.room = 0
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(block, 1000)
    assert heap.where(block).nbytes == 10
    fake.free(block)
    with pytest.raises(mrm.ArgumentError):
        heap.free(block)
    assert heap.where(block) is not None


def test_track_depth(fake):
    assert len(Track(fake, depth=1).__class__(fake, 1).live()) == 0
    heap = Track(fake, depth=1)
    heap.malloc(1)
    assert len(heap.live()[0].stack) == 1
    with pytest.raises(mrm.ArgumentError):
        Track(fake, depth=-1)


# ---- OnFailure ------------------------------------------------------------------------


def test_on_failure(fake):
    cache = []
    asked = []

    def give_up_cache(nbytes):
        asked.append(nbytes)
        if cache:
            heap.free(cache.pop())
            return True
        return False

    heap = OnFailure(Limit(fake, 1000), give_up_cache)
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
        OnFailure(fake, 7)


def test_what_the_callback_raises_goes_to_the_caller(fake):
    def broken(nbytes):
        raise LookupError(nbytes)

    heap = OnFailure(Limit(fake, 10), broken)
    with pytest.raises(LookupError):
        heap.malloc(100)


# ---- together -----------------------------------------------------------------------------


def test_threads_on_a_stack_of_all(fake):
    file = io.StringIO()
    limit = Limit(fake, "16MiB")
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

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = counted.counts()
    assert (counts.blocks, counts.bytes, limit.used, len(tracked)) == (0, 0, 0, 0)
    assert counts.made == counts.freed == 1200
    heap.flush()
    lines = rows(file.getvalue())
    assert len(lines) == 1200 * 2 + counts.changed
    assert len({line["thread"] for line in lines}) == 4


def test_a_fork_while_threads_count(fake):
    heap = everything(fake)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            heap.free(heap.malloc(64))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if not child:
                fake.lock = threading.RLock()  # libc sees to its own
                heap.free(heap.malloc(64))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class Model(RuleBasedStateMachine):
    """A stack of all of them beside plain numbers: bytes asked for, bytes had, and contents."""

    def heap_below(self):
        return FakeHeap()

    @initialize()
    def begin(self):
        self.below = self.heap_below()
        self.limit = Limit(self.below, 1 << 16)
        self.counted = Statistics(self.limit)
        self.tracked = Track(self.counted, 2)
        self.file = io.StringIO()
        self.heap = Log(self.tracked, self.file)
        self.blocks = {}  # address: asked for, what is in it
        self.calls = 0
        self.peak = 0
        self.stamp = 0

    def teardown(self):
        if hasattr(self, "heap"):
            self.heap.flush()
            assert len(rows(self.file.getvalue())) == self.calls
            self.heap.close()

    def has(self):
        return sum(self.below.usable_size(address) for address in self.blocks)

    def write(self, address, nbytes):
        self.stamp = self.stamp % 250 + 1
        ctypes.memset(address, self.stamp, nbytes)
        self.blocks[address] = nbytes, bytes([self.stamp]) * nbytes
        self.peak = max(self.peak, self.has())

    @rule(nbytes=st.integers(0, 40_000), how=st.sampled_from(("malloc", "calloc", "aligned")))
    def make(self, nbytes, how):
        self.calls += 1
        arguments = {"malloc": (nbytes,), "calloc": (1, nbytes), "aligned": (64, nbytes)}[how]
        before = self.has()
        try:
            address = getattr(self.heap, how)(*arguments)
        except mrm.OutOfFrames:
            assert before + nbytes * 9 // 8 + 4096 > self.limit.limit
            return
        assert address not in self.blocks
        if how == "calloc":
            assert ctypes.string_at(address, nbytes) == bytes(nbytes)
        self.write(address, nbytes)

    @rule(which=st.integers(0, 1 << 20), nbytes=st.integers(0, 40_000))
    def change(self, which, nbytes):
        if not self.blocks:
            return
        self.calls += 1
        address = list(self.blocks)[which % len(self.blocks)]
        had, content = self.blocks[address]
        try:
            moved = self.heap.realloc(address, nbytes)
        except mrm.OutOfFrames:
            assert ctypes.string_at(address, had) == content
            return
        assert ctypes.string_at(moved, min(had, nbytes)) == content[:nbytes]
        del self.blocks[address]
        self.write(moved, nbytes)

    @rule(which=st.integers(0, 1 << 20))
    def end(self, which):
        if not self.blocks:
            return
        self.calls += 1
        address = list(self.blocks)[which % len(self.blocks)]
        had, content = self.blocks.pop(address)
        assert ctypes.string_at(address, had) == content
        self.heap.free(address)

    @invariant()
    def all_agree(self):
        if not hasattr(self, "heap"):
            return
        counts = self.counted.counts()
        assert counts.blocks == len(self.blocks) == len(self.tracked)
        assert counts.bytes == self.has() == self.limit.used
        assert counts.peak_bytes >= self.peak
        asked = {tracked.address: tracked.nbytes for tracked in self.tracked.live()}
        assert asked == {address: nbytes for address, (nbytes, _) in self.blocks.items()}


def test_any_sequence_agrees_with_the_model():
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Model, settings=settings(max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    )
