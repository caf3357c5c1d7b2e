"""mrm.numpy: which arrays lie in the heap, in which contexts, and for how long."""

import asyncio
import contextvars
import ctypes
import gc
import io
import sys
import threading
import tracemalloc

import pytest
from fakeheap import FakeHeap

np = pytest.importorskip("numpy")

from onheaps import LARGE, SMALL, clean, get_handler_name, lies_in, pool_of

import mrm
import mrm.numpy
from mrm.adaptors import Limit, Log, OnFailure, Statistics, Track
from mrm.tools.replay import examine


@pytest.fixture(autouse=True)
def cleaned():
    yield
    gc.collect()
    clean()


@pytest.fixture(params=["private", "pool"])
def heap(request):
    """Without a block at the end."""
    if request.param == "private":
        with mrm.Heap(name="test") as heap:
            yield heap
            gc.collect()
            assert heap.closed or not list(heap.blocks())
    else:
        with pool_of("64MiB") as pool, mrm.Heap(pool, name="test") as heap:
            yield heap
            gc.collect()
            assert heap.closed or not list(heap.blocks())


def in_thread(function):
    """What a function returns in a thread that begins now."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def large(shape=LARGE // 8):
    return np.ones(shape)


# ---- which arrays --------------------------------------------------------------------


def test_arrays_from_the_threshold_on_lie_in_the_heap(heap):
    with mrm.numpy.use(heap, threshold="8KiB") as used:
        assert used is heap
        made = {
            (kind, n): make(n)
            for n in (0, 1, 8191, 8192, 8193, 100_000)
            for kind, make in (
                ("empty", lambda n: np.empty(n, np.uint8)),
                ("zeros", lambda n: np.zeros(n, np.uint8)),
                ("ones", lambda n: np.ones(n, np.uint8)),
                ("copy", lambda n: np.frombuffer(bytes(n), np.uint8).copy() if n else np.empty(0, np.uint8)),
            )
        }
    for (kind, n), array in made.items():
        assert lies_in(heap, array) == (n >= 8192), (kind, n)
        assert get_handler_name(array) == "mrm"
        if kind in ("zeros", "copy"):
            assert not array.any()
    assert get_handler_name() == "default_allocator"
    assert not lies_in(heap, np.empty(100_000))


def test_a_threshold_of_nothing_takes_all_that_have_a_byte(heap):
    with mrm.numpy.use(heap, threshold=0):
        assert lies_in(heap, np.empty(1, np.uint8))
    for bad in (-1, "many", True):
        with pytest.raises(mrm.ArgumentError), mrm.numpy.use(heap, threshold=bad):
            pass


def test_results_of_arithmetic_lie_in_it(heap):
    with mrm.numpy.use(heap):
        a, b = np.arange(LARGE // 4), np.full(LARGE // 4, 2)
        for result in (
            a + b,
            a * 2.5,
            a.astype(np.float32),
            np.sort(a)[::-1].copy(),
            a.reshape(-1, 2).T.copy(),
        ):
            assert lies_in(heap, result)
        assert (a + b)[-1] == LARGE // 4 + 1
        assert lies_in(heap, np.array([f"{i:05}" for i in range(10_000)]))
        assert lies_in(heap, np.zeros(LARGE, object))


def test_zeros_are_zeros_in_memory_that_was_used(heap):
    with mrm.numpy.use(heap):
        for n in (SMALL, 100_000, LARGE, 3 * LARGE):
            np.full(n, 255, np.uint8)
            assert not np.zeros(n, np.uint8).any()


# ---- growing ---------------------------------------------------------------------------


def test_resize_crosses_the_threshold_with_its_contents(heap):
    with mrm.numpy.use(heap, threshold=10_000):
        for sizes in (
            (100, 9_999, 10_000, 50_000),
            (5, 5_000_000, 20_000_000),
            (9_999, 3_000_000, 100, 40_000),
        ):
            array = np.arange(sizes[0], dtype=np.uint8)
            keep = array.copy()
            inside = False
            for n in sizes[1:]:
                array.resize(n, refcheck=False)
                inside = inside or n >= 10_000  # what came to the heap stays in it
                assert lies_in(heap, array) == inside
                keep = np.concatenate([keep[:n], np.zeros(max(n - len(keep), 0), np.uint8)])
                assert (array == keep).all()


def test_growth_keeps_what_was_written(heap):
    with mrm.numpy.use(heap):
        array = np.zeros(0, np.int64)
        for n in range(1, 40):
            array.resize(n * 20_000, refcheck=False)
            array[(n - 1) * 20_000 :] = n
        assert (array.reshape(39, -1) == np.arange(1, 40)[:, None]).all()
        assert lies_in(heap, array)


def test_outside_of_the_context_an_array_stays_with_its_heap(heap):
    with mrm.numpy.use(heap):
        array = large()
    array.resize(4 * LARGE, refcheck=False)
    assert lies_in(heap, array) and array[: LARGE // 8].all() and not array[LARGE // 8 :].any()
    small = np.arange(10)
    with mrm.numpy.use(heap):
        small.resize(LARGE, refcheck=False)
    assert not lies_in(heap, small)


def test_out_of_memory_is_a_memory_error_and_leaves_the_array():
    with mrm.Heap(limit="12MiB") as heap, mrm.numpy.use(heap):
        array = np.arange(400_000)
        with pytest.raises(MemoryError):
            np.ones(16 << 20, np.uint8)
        with pytest.raises(MemoryError):
            np.zeros((1 << 40,))
        with pytest.raises(MemoryError):
            array.resize(4_000_000, refcheck=False)
        assert lies_in(heap, array) and (array == np.arange(400_000)).all()
        array = None


# ---- contexts ---------------------------------------------------------------------------


def test_contexts_lie_in_each_other():
    with mrm.Heap() as one, mrm.Heap() as two:
        with mrm.numpy.use(one):
            with mrm.numpy.use(two):
                assert lies_in(two, large())
                with mrm.numpy.use(one, threshold=1):
                    assert lies_in(one, np.empty(1))
                assert lies_in(two, large())
            assert lies_in(one, large())
        assert not lies_in(one, large())


def test_an_exception_ends_it(heap):
    with pytest.raises(KeyError), mrm.numpy.use(heap):
        raise KeyError
    assert get_handler_name() == "default_allocator"


def test_a_decorated_function(heap):
    @mrm.numpy.use(heap)
    def make(depth=1):
        return make(depth - 1) if depth else large()

    assert lies_in(heap, make()) and lies_in(heap, make())
    assert not lies_in(heap, large())


def test_left_in_the_wrong_order_or_context_is_said(heap):
    one, two = mrm.numpy.use(heap), mrm.numpy.use(heap)
    one.__enter__()
    two.__enter__()
    with pytest.raises(mrm.ArgumentError, match="the last one first"):
        one.__exit__(None, None, None)
    two.__exit__(None, None, None)
    assert get_handler_name() == "mrm"
    context = contextvars.Context()
    three = mrm.numpy.use(heap)
    context.run(three.__enter__)
    with pytest.raises(mrm.ArgumentError):
        three.__exit__(None, None, None)
    # As it was at first, whatever went wrong here.
    mrm._numpy.set_handler(contextvars.Context().run(mrm._numpy.get_handler))


@pytest.mark.skipif(
    getattr(sys.flags, "thread_inherit_context", 0), reason="here threads begin with their maker's context"
)
def test_a_thread_begins_without_it_unless_its_context_is_copied(heap):
    with mrm.numpy.use(heap):
        copied = contextvars.copy_context()
        assert in_thread(get_handler_name) == "default_allocator"
        assert lies_in(heap, in_thread(lambda: copied.run(large)))


def test_tasks_have_their_makers_and_their_own(heap):
    async def own(other):
        with mrm.numpy.use(other):
            await asyncio.sleep(0)
            first = large()
            await asyncio.sleep(0)
            return first, large()

    async def inherited():
        await asyncio.sleep(0)
        return large()

    async def main():
        plain = asyncio.create_task(inherited())
        with mrm.numpy.use(heap):
            tasks = [asyncio.create_task(own(other)) for other in others]
            child = asyncio.create_task(inherited())
            for other, task in zip(others, tasks):
                assert all(lies_in(other, array) for array in await task)
            assert lies_in(heap, await child)
            assert lies_in(heap, large())
        assert not lies_in(heap, await plain)

    with mrm.Heap() as first, mrm.Heap() as second:
        others = (first, second)
        asyncio.run(main())
        gc.collect()


# ---- everywhere -------------------------------------------------------------------------


def test_install_is_for_threads_that_run_and_those_that_begin(heap):
    go, done = threading.Event(), []

    def work():
        go.wait()
        done.append(lies_in(heap, large()))

    thread = threading.Thread(target=work)
    thread.start()
    assert mrm.numpy.install(heap) is heap is mrm.numpy.installed()
    go.set()
    thread.join()
    assert done == [True]
    assert in_thread(lambda: lies_in(heap, large()))
    assert lies_in(heap, contextvars.Context().run(large))
    assert asyncio.run(asyncio.to_thread(lambda: lies_in(heap, large())))
    assert not lies_in(heap, np.empty(10))
    assert get_handler_name() == "default_allocator"  # it stays NumPy's default
    mrm.numpy.uninstall()
    assert mrm.numpy.installed() is None
    assert not lies_in(heap, large()) and not in_thread(lambda: lies_in(heap, large()))
    mrm.numpy.uninstall()


def test_arrays_that_were_there_before_and_after():
    before_small, before = np.arange(10), large()
    with mrm.Heap() as heap:
        mrm.numpy.install(heap)
        inside = np.arange(LARGE)
        assert not lies_in(heap, before)
        before_small.resize(LARGE, refcheck=False)  # NumPy's until now
        assert lies_in(heap, before_small) and before_small[:10].tolist() == list(range(10))
        del before
        mrm.numpy.uninstall()
        inside.resize(2 * LARGE, refcheck=False)
        assert lies_in(heap, inside) and inside[LARGE - 1] == LARGE - 1
        assert len(list(heap.blocks())) == 2
        del inside, before_small
        assert not list(heap.blocks())


def test_a_context_within_what_is_installed(heap):
    with mrm.Heap() as everywhere:
        mrm.numpy.install(everywhere)
        with mrm.numpy.use(heap, threshold=100_000):
            assert lies_in(heap, large())
            assert not lies_in(
                everywhere, np.empty(80_000, np.uint8)
            )  # below the threshold it is NumPy's own
        assert lies_in(everywhere, large())
        mrm.numpy.uninstall()


def test_installing_again_replaces_and_the_old_heap_goes_with_its_last_array():
    with pool_of("32MiB") as pool:
        old = mrm.Heap(pool)
        mrm.numpy.install(old)
        array = large()
        new = mrm.Heap()
        mrm.numpy.install(new, threshold=1)
        other = np.empty(1)
        assert lies_in(old, array) and lies_in(new, other)
        old.close()
        array[:] = 7
        array.resize(LARGE, refcheck=False)
        assert array[: LARGE // 8].min() == 7 and pool.stats().held > 0
        del array
        gc.collect()
        assert pool.stats().held == 0
        mrm.numpy.uninstall()
        new.close()
        other[0] = 1
        del other


def test_installing_one_heap_again_and_through_adaptors_leaves_nothing():
    with pool_of("32MiB") as pool:
        heap = mrm.Heap(pool)
        counted = Statistics(heap)
        arrays = []
        for way in (heap, heap, counted, Log(counted, io.StringIO()), heap, counted):
            mrm.numpy.install(way, threshold=1)
            arrays += [np.ones(LARGE), np.ones(10)]
            arrays.pop(0)
        mrm.numpy.uninstall()
        heap.close()
        assert all(array.all() for array in arrays)
        arrays.clear()
        gc.collect()
        assert pool.stats().held == 0


def test_install_while_threads_make_arrays():
    with mrm.Heap() as one, mrm.Heap() as two:
        stop, wrong = threading.Event(), []

        def work(value):
            kept = []
            while not stop.is_set():
                kept.append(np.full(20_000, value))
                if len(kept) > 30:
                    wrong.extend(array for array in kept if not (array == value).all())
                    del kept[::2]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            for way in (one, Statistics(two), two, Statistics(one), None):
                mrm.numpy.install(way) if way is not None else mrm.numpy.uninstall()
                stop.wait(0.002)
        mrm.numpy.uninstall()
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert not list(one.blocks()) and not list(two.blocks())


def test_without_a_heap_all_share_a_private_one():
    with mrm.numpy.use() as first, mrm.numpy.use(threshold=1) as second:
        assert first is second and first.private
        assert lies_in(first, np.empty(1))
    assert mrm.numpy.install() is first
    first.close()
    array = large()  # closed, not gone: it is installed
    array[:] = 3
    del array
    with mrm.numpy.use() as another:
        assert another is not first and lies_in(another, large())


@pytest.mark.parametrize("bad", [7, "heap", object(), mrm.Heap])
def test_what_is_no_heap_is_refused(bad):
    with pytest.raises(mrm.ArgumentError, match="is no heap"):
        mrm.numpy.install(bad)
    with pytest.raises(mrm.ArgumentError), mrm.numpy.use(bad):
        pass


def test_a_closed_heap_is_refused(heap):
    heap.close()
    with pytest.raises(mrm.ClosedError):
        mrm.numpy.install(heap)
    with pytest.raises(mrm.ClosedError), mrm.numpy.use(heap):
        pass


# ---- for how long ---------------------------------------------------------------------------


def test_arrays_outlive_heap_and_pool():
    pool = pool_of("32MiB")
    heap = mrm.Heap(pool)
    with mrm.numpy.use(heap):
        array = np.arange(LARGE)
        view = array[1::2]
        heap.close()
        assert np.arange(LARGE).sum() == array.sum()  # the context has it until its end
    del heap, array
    gc.collect()
    view += 1
    assert view[:3].tolist() == [2, 4, 6]
    del view
    gc.collect()
    pool.close()


def test_views_and_owners_change_hands(heap):
    with mrm.numpy.use(heap):
        base = np.arange(LARGE, dtype=np.uint8)
        view = base.view(np.uint64)
        halves = np.split(view, 2)
        del base, view
        gc.collect()
        assert halves[1][-1] != 0
        memory = memoryview(halves[0])
        del halves
        gc.collect()
        assert memory[1] == int.from_bytes(bytes(range(8, 16)), "little")
        memory.release()


def test_the_size_that_numpy_says_is_not_relied_on(heap):
    """As when somebody changed an array's shape behind its back."""

    class Handler(ctypes.Structure):
        pointer = ctypes.c_void_p
        _fields_ = [
            ("name", ctypes.c_char * 127),
            ("version", ctypes.c_uint8),
            ("context", pointer),
            ("malloc", ctypes.CFUNCTYPE(pointer, pointer, ctypes.c_size_t)),
            ("calloc", ctypes.CFUNCTYPE(pointer, pointer, ctypes.c_size_t, ctypes.c_size_t)),
            ("realloc", ctypes.CFUNCTYPE(pointer, pointer, pointer, ctypes.c_size_t)),
            ("free", ctypes.CFUNCTYPE(None, pointer, pointer, ctypes.c_size_t)),
        ]

    capsule = mrm._numpy.handler_of(heap, 1000)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    handler = Handler.from_address(get(capsule, b"mem_handler"))
    assert (handler.name, handler.version) == (b"mrm", 1)
    for nbytes, said in ((5_000_000, 1), (5000, 1 << 60), (1000, 0)):
        block = handler.malloc(handler.context, nbytes)
        assert heap.owns(block)
        ctypes.memset(block, 1, nbytes)
        handler.free(handler.context, block, said)
    assert not list(heap.blocks())
    assert handler.calloc(handler.context, 1 << 40, 1 << 40) is None
    assert handler.realloc(handler.context, None, 2000) == heap.blocks().__next__()[0]
    handler.free(handler.context, heap.blocks().__next__()[0], 0)
    handler.free(handler.context, None, 0)


def test_tracemalloc_counts_an_array_once(heap):
    tracemalloc.start()
    try:
        with mrm.numpy.use(heap):
            before = tracemalloc.get_traced_memory()[0]
            array = np.ones(5_000_000, np.uint8)
            assert 5_000_000 <= tracemalloc.get_traced_memory()[0] - before < 5_200_000
            domain = tracemalloc.DomainFilter(inclusive=True, domain=389047)
            traces = tracemalloc.take_snapshot().filter_traces([domain]).traces
            assert [trace.size for trace in traces if trace.size > LARGE] == [5_000_000]
            array.resize(6_000_000, refcheck=False)
            assert 6_000_000 <= tracemalloc.get_traced_memory()[0] - before < 6_200_000
            del array
            assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()


# ---- adaptors ---------------------------------------------------------------------------


def test_adaptors_see_every_large_array(tmp_path, heap):
    path = tmp_path / "calls.csv"
    counted = Statistics(heap)
    log = Log(Track(counted), path)
    with mrm.numpy.use(log):
        with counted.scope("sum") as scope:
            np.arange(LARGE).sum()
        array = np.zeros(LARGE)
        array.resize(2 * LARGE, refcheck=False)
        assert "test_adaptors_see_every_large_array" in str(log.heap.live()[0])
        np.empty(10)
    assert scope.counts().made == 1 and scope.counts().blocks == 0
    assert counted.counts().bytes >= 16 * LARGE
    del array
    log.detach()
    assert counted.counts().blocks == 0
    found = examine(path)
    assert found.sound and found.kinds == {"malloc": 1, "calloc": 1, "aligned": 0, "realloc": 1, "free": 2}


def test_adaptors_say_no_and_ask_again(heap):
    kept = []
    limited = OnFailure(Limit(heap, 4 * LARGE), lambda nbytes: kept.pop() is not None if kept else False)
    mrm.numpy.install(limited, threshold=1000)
    kept += [np.ones(LARGE, np.uint8) for _ in range(3)]
    array = np.ones(3 * LARGE - 100_000, np.uint8)
    assert len(kept) < 3
    with pytest.raises(MemoryError):
        np.ones(5 * LARGE, np.uint8)
    assert array.all()
    del array
    kept.clear()
    mrm.numpy.uninstall()
    gc.collect()
    assert limited.heap.used == 0


def test_an_adaptor_that_is_closed_before_its_arrays(heap):
    counted = Statistics(heap)
    with mrm.numpy.use(counted):
        array = large()
        counted.close()
        array[:] = 2
        array = None


def test_an_exception_on_its_way_is_left_alone(heap):
    with mrm.numpy.use(Statistics(heap)):

        def fails():
            array = large()
            raise LookupError(len(array))

        with pytest.raises(LookupError, match=str(LARGE // 8)):
            fails()
        gc.collect()


def test_what_a_method_raises_is_said_and_memory_is_short():
    class Broken(FakeHeap):
        def malloc(self, nbytes):
            raise RuntimeError("broken on purpose")

    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.unraisablehook", lambda args: said.append(str(args.exc_value)))
        with mrm.numpy.use(Broken()), pytest.raises(MemoryError):
            large()
    assert said == ["broken on purpose"]


def test_a_heap_of_ones_own(capsys):
    fake = FakeHeap()
    with mrm.numpy.use(Log(fake, io.StringIO()), threshold=1000):
        array = np.arange(1000)
        assert fake.owns(array.ctypes.data)
        array.resize(5000, refcheck=False)
        assert array[:1000].sum() == 499500
        np.zeros(500)
        np.empty(10)
    assert len(fake.live) == 1
    del array
    assert not fake.live
    assert fake.calls == ["malloc", "realloc", "calloc", "free", "free"]


def test_a_numpy_that_is_not_known_is_refused():
    version = ctypes.CFUNCTYPE(ctypes.c_uint)(lambda: 0x03000000)
    table = (ctypes.c_void_p * 310)()
    table[0] = table[211] = ctypes.cast(version, ctypes.c_void_p)
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    with pytest.raises(mrm.ArgumentError, match="knows NumPy 1.22 to 2.x"):
        mrm._numpy.connect(make(ctypes.addressof(table), None, None))
