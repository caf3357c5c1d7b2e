"""mrm.numpy over process borders: fork, multiprocessing, pickles, files, and the interpreter's end."""

import copy
import gc
import os
import pickle

import pytest
from heaping import beside
from helpers import after_fork, in_child, python

np = pytest.importorskip("numpy")

from onheaps import LARGE, lies_in, pool_of

import mrm
import mrm.numpy

pytestmark = pytest.mark.usefixtures("numpys_own")


@pytest.fixture
def everywhere():
    """A private heap that all arrays lie in."""
    return mrm.numpy.install(threshold=1000)


# ---- fork ------------------------------------------------------------------------------


def test_a_child_sees_a_snapshot_and_writes_its_own(everywhere):
    small, large = np.arange(1000), np.arange(3 * LARGE)
    grown = np.arange(LARGE)

    def child():
        seen = int(small.sum()), int(large.sum())
        small[:] = 1
        large[:] = 2
        grown.resize(5 * LARGE, refcheck=False)
        grown[LARGE:] = 3
        new = np.full(2 * LARGE, 4)
        inside = lies_in(everywhere, new) and lies_in(everywhere, grown)
        return *seen, int(small.sum()), int(large.sum()), int(grown.sum()), int(new.sum()), inside

    before = int(small.sum()), int(large.sum()), int(grown.sum())
    assert after_fork(child) == (
        *before[:2],
        len(small),
        2 * len(large),
        before[2] + 12 * LARGE,
        8 * LARGE,
        True,
    )
    assert (int(small.sum()), int(large.sum()), int(grown.sum())) == before
    assert grown.size == LARGE


def test_a_child_frees_what_it_has_of_its_parent(everywhere):
    arrays = [np.full(n, n) for n in (200, 2000, 20_000, LARGE, 3 * LARGE)]

    def child():
        for i in range(len(arrays)):
            arrays[i] += 1
        arrays.clear()
        gc.collect()
        again = [np.full(n, n) for n in (200, 2000, 20_000, LARGE, 3 * LARGE)]
        return [int(array[-1]) for array in again], len(list(everywhere.blocks()))

    assert after_fork(child) == ([200, 2000, 20_000, LARGE, 3 * LARGE], 5)
    assert [int(array[-1]) for array in arrays] == [200, 2000, 20_000, LARGE, 3 * LARGE]


def test_forks_while_threads_make_arrays(everywhere):

    def work(stop):
        kept = []
        while not stop.is_set():
            kept.append(np.arange(5000))
            if len(kept) > 50:
                kept.clear()

    with beside(work, work):
        for i in range(10):
            mine = np.full(LARGE, i)
            total = after_fork(lambda mine=mine: int((np.arange(LARGE) + mine).sum()))
            assert total == LARGE * (LARGE - 1) // 2 + i * LARGE


def test_a_hundred_children_at_once(everywhere):
    array = np.arange(LARGE)
    receiving, sending = os.pipe()
    children = []
    for i in range(100):
        child = os.fork()
        if not child:
            array[:1000] = i
            fine = array[:1000].sum() == 1000 * i and np.full(50_000, i).sum() == 50_000 * i
            os.write(sending, b"." if fine else b"!")
            os._exit(0)
        children.append(child)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        assert pipe.read() == b"." * 100
    assert {os.waitpid(child, 0)[1] for child in children} == {0}
    assert (array == np.arange(LARGE)).all()


def test_a_child_of_a_child(everywhere):
    array = np.zeros(LARGE)

    def child():
        array[:] = 1
        below = after_fork(lambda: (float(array.sum()), float(np.ones(LARGE).sum())))
        return below, float(array.sum())

    assert after_fork(child) == ((LARGE, LARGE), LARGE)
    assert not array.any()


def test_a_child_of_a_pools_heap_makes_new_arrays_as_numpy_does():
    with pool_of("32MiB") as pool, mrm.Heap(pool) as heap:
        mrm.numpy.install(heap, threshold=1000)
        array = np.ones(LARGE)

        def child():
            nonlocal array
            array = None  # which must not be looked at here, and is dropped without being touched
            new, zeros = np.arange(LARGE), np.zeros(LARGE)
            new.resize(2 * LARGE, refcheck=False)
            small = np.arange(10)
            small.resize(LARGE, refcheck=False)
            return int(new.sum()), float(zeros.sum()), int(small.sum())

        assert after_fork(child) == (LARGE * (LARGE - 1) // 2, 0.0, 45)
        assert array.sum() == LARGE
        del array
        mrm.numpy.uninstall()


PROGRAM = """
import multiprocessing, sys
import numpy as np
import mrm.numpy

def lies_in(array):
    return mrm.numpy.installed().owns(array.__array_interface__["data"][0])

def work(array):
    if mrm.numpy.installed() is None:
        mrm.numpy.install(threshold=1000)
    result = array * 2
    return result, lies_in(result)

if __name__ == "__main__":
    mrm.numpy.install(threshold=1000)
    arrays = [np.full(300_000, i) for i in range(6)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as workers:
        for i, (result, made) in enumerate(workers.map(work, arrays)):
            assert result[-1] == 2 * i and result.size == 300_000 and made, (i, made)
    print("fine")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path, method):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    done = python(path, method)
    assert done.stdout == "fine\n", done.stderr


# ---- copies and files -------------------------------------------------------------------


def made():
    structure = np.zeros(2000, dtype=[("a", "i4"), ("b", "f8", 3), ("c", "U5")])
    structure["a"], structure["c"] = range(2000), "x"
    return {
        "numbers": np.arange(100_000).reshape(100, 1000),
        "fortran": np.asfortranarray(np.arange(50_000.0).reshape(50, -1)),
        "structure": structure,
        "strings": np.array([f"{i}" for i in range(5000)]),
        "objects": np.array([[i] for i in range(3000)] + [None], dtype=object),
        "strided": np.arange(100_000)[::-3],
        "masked": np.ma.masked_greater(np.arange(5000), 100),
    }


def same(one, two):
    assert one.dtype == two.dtype and one.shape == two.shape
    assert (np.asarray(one) == np.asarray(two)).all()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(everywhere, protocol):
    for array in made().values():
        again = pickle.loads(
            pickle.dumps(array, protocol)
        )  # its data is the bytes of the pickle, as NumPy has it
        same(array, again)
        assert lies_in(everywhere, again.copy())


def test_pickles_without_copies(everywhere):
    buffers = []
    array = np.arange(LARGE)
    data = pickle.dumps(array, 5, buffer_callback=buffers.append)
    again = pickle.loads(data, buffers=buffers)
    array[5] = 77
    del array
    assert again[5] == 77 and again[-1] == LARGE - 1


def test_pickles_come_back_without_a_handler(everywhere):
    data = pickle.dumps(made()["numbers"])
    mrm.numpy.uninstall()
    again = pickle.loads(data)
    assert not lies_in(everywhere, again) and again.sum() == 100_000 * 99_999 // 2


def test_copies(everywhere):
    for array in made().values():
        for again in (array.copy(), copy.copy(array), copy.deepcopy(array), array.copy("K")):
            same(array, again)
    array = np.arange(LARGE)
    again = copy.deepcopy(array)
    again[0] = 9
    assert array[0] == 0 and lies_in(everywhere, again)


def test_files_round_trip(everywhere, tmp_path):
    for name, array in made().items():
        if name in ("objects", "masked"):
            continue
        path = tmp_path / f"{name}.npy"
        np.save(path, array)
        again = np.load(path)
        same(array, again)
        assert lies_in(everywhere, again)
        mapped = np.load(path, mmap_mode="r+")
        same(array, mapped)
        assert not lies_in(everywhere, mapped)
        own = mapped.copy()
        same(array, own)
        mapped.flush()
        del mapped
    np.savez_compressed(tmp_path / "all.npz", numbers=np.arange(LARGE))
    with np.load(tmp_path / "all.npz") as archive:
        assert archive["numbers"][-1] == LARGE - 1


def test_what_is_mapped_is_written_from_the_heap_and_read_back(everywhere, tmp_path):
    path = tmp_path / "data"
    array = np.arange(LARGE, dtype=np.int64)
    array.tofile(path)
    mapped = np.memmap(path, np.int64, "r+")
    mapped += array
    mapped.flush()
    del mapped
    again = np.fromfile(path, np.int64)
    assert (again == 2 * array).all() and lies_in(everywhere, again)
    with open(path, "rb") as file:
        assert file.readinto(array) == array.nbytes
    assert (array == again).all()
    again.resize(2 * LARGE, refcheck=False)
    assert again[LARGE - 1] == 2 * (LARGE - 1) and again[-1] == 0


def test_a_pipe_between_processes(everywhere):
    receiving, sending = os.pipe()
    array = np.arange(8000)

    def child():
        os.write(sending, (array + 1).tobytes())

    after_fork(child)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        got = np.frombuffer(pipe.read(), array.dtype)
    assert (got == array + 1).all()


# ---- the interpreter's end ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["use", "install", "install a pool's", "adaptor"])
def test_arrays_at_the_interpreters_end(how):
    ending = in_child(
        f"""
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)
        import numpy as np, mrm.numpy, mrm.adaptors, threading
        how = {how!r}
        if how == "use":
            scope = mrm.numpy.use()
            scope.__enter__()
        elif how == "install":
            mrm.numpy.install()
        elif how == "adaptor":
            mrm.numpy.install(mrm.adaptors.Statistics(mrm.adaptors.Log(mrm.Heap(), "/dev/null")))
        else:
            pool = mrm.Pool("32MiB", huge=huge)
            mrm.numpy.install(mrm.Heap(pool))
        class Cycle:
            pass
        cycle = Cycle()
        cycle.me, cycle.array = cycle, np.ones(1 << 19)
        kept = np.arange(1 << 19)
        np.kept = np.arange(1 << 18)          # NumPy's own modules go last
        local = threading.local()
        local.array = np.arange(1 << 18)
        if how != "use":
            thread = threading.Thread(target=lambda: np.arange(1 << 20).sum())
            thread.start()
        say("done")
        """
    )
    assert ending.out == "done\n", ending
    assert ending.code == 0 and not ending.err, ending


def test_without_numpy_one_sentence_says_what_to_install():
    ending = in_child(
        """
        import sys
        sys.modules["numpy"] = None
        import mrm
        try:
            import mrm.numpy
        except ModuleNotFoundError as error:
            say(str(error))
        """
    )
    assert ending.out == "mrm.numpy needs NumPy: pip install 'managed-runtime-memory[numpy]'\n"
