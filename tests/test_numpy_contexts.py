"""mrm.numpy: contexts, tasks and threads, and what is installed everywhere."""

import asyncio
import contextvars
import gc
import io
import sys
import threading
import time

import pytest
from heaping import beside, run

np = pytest.importorskip("numpy")

from onheaps import LARGE, get_handler_name, large, lies_in, pool_of

import mrm
import mrm.numpy
from mrm.adaptors import Log, Statistics

pytestmark = pytest.mark.usefixtures("numpys_own")


@pytest.fixture
def heap(emptied_heap):
    return emptied_heap


def in_thread(function):
    """What a function returns in a thread that begins now."""
    results = []
    run(lambda: results.append(function()))
    return results[0]


# ---- contexts ------------------------------------------------------------------------------


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


# ---- everywhere ----------------------------------------------------------------------------


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
        wrong = []

        def work(stop, value):
            kept = []
            while not stop.is_set():
                kept.append(np.full(20_000, value))
                if len(kept) > 30:
                    wrong.extend(array for array in kept if not (array == value).all())
                    del kept[::2]

        with beside(*(lambda stop, i=i: work(stop, i) for i in range(3))):
            for _ in range(30):
                for way in (one, Statistics(two), two, Statistics(one), None):
                    mrm.numpy.install(way) if way is not None else mrm.numpy.uninstall()
                    time.sleep(0.002)
            mrm.numpy.uninstall()
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
