"""mrm.numpy on adaptors, and on heaps that are called by their methods."""

import ctypes
import gc
import io

import pytest
from fakeheap import FakeHeap

np = pytest.importorskip("numpy")

from onheaps import LARGE, large

import mrm
import mrm.numpy
from mrm.adaptors import Limit, Log, OnFailure, Statistics, Track
from mrm.tools.replay import examine

pytestmark = pytest.mark.usefixtures("numpys_own")


@pytest.fixture
def heap(emptied_heap):
    return emptied_heap


# ---- adaptors ------------------------------------------------------------------------------


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
