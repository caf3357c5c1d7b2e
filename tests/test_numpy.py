"""mrm.numpy: which arrays lie in the heap, how they grow, and for how long they keep it."""

import ctypes
import gc
import tracemalloc

import pytest

np = pytest.importorskip("numpy")

from onheaps import LARGE, SMALL, get_handler_name, large, lies_in, pool_of

import mrm
import mrm.numpy

pytestmark = pytest.mark.usefixtures("numpys_own")


@pytest.fixture
def heap(emptied_heap):
    return emptied_heap


# ---- which arrays --------------------------------------------------------------------------


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


# ---- growing -------------------------------------------------------------------------------


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


# ---- for how long --------------------------------------------------------------------------


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
