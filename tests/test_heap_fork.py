"""Fork: a private heap goes on in the child with a copy of every block; one on a pool says that it is the parent's."""

import multiprocessing
import os
import random
import threading

import pytest
from heaping import FRAMES, beside, check_figures, holds, opened, run, walked, write
from helpers import FRAME, MIB, after_fork, in_child

import mrm

SIZES = (16, 100, 1024, 5000, 100_000, MIB, 3 * MIB)


@pytest.fixture
def private():
    with mrm.Heap(name="private") as heap:
        yield heap


@pytest.fixture
def on_pool():
    with opened("small") as heap:
        yield heap


def filled(heap, seed=1):
    """A block of each size with contents, as (address, bytes, seed)."""
    blocks = [(heap.malloc(n), n, seed * 100 + i) for i, n in enumerate(SIZES)]
    for block in blocks:
        write(*block)
    return blocks


def in_thread(function):
    """What a function returns in a thread that then waits until it is told to end."""
    answer, ready, end = [], threading.Event(), threading.Event()

    def work():
        answer.append(function())
        ready.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    return answer[0], lambda: (end.set(), thread.join())


# ---- private memory --------------------------------------------------------------------


def test_a_child_has_a_copy_and_its_writes_are_its_own(private):
    blocks = filled(private)

    def child():
        assert all(holds(*block) for block in blocks)
        for address, n, seed in blocks:
            write(address, n, seed + 1)
        return all(holds(address, n, seed + 1) for address, n, seed in blocks)

    assert after_fork(child) is True
    assert all(holds(*block) for block in blocks)
    # ... and the parent's are not seen by a child that was there before.
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(reading, 1)
        os._exit(0 if all(holds(*block) for block in blocks) else 1)
    for address, n, seed in blocks:
        write(address, n, seed + 2)
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(reading)
    os.close(writing)


def test_a_child_allocates_resizes_and_frees(private):
    blocks = filled(private)

    def child():
        mine = filled(private, 2)
        assert not {address for address, _, _ in mine} & {address for address, _, _ in blocks}
        for address, n, seed in [*blocks, *mine]:
            grown = private.realloc(address, 2 * n)
            assert holds(grown, n, seed)
            private.free(grown)
        private.trim()
        stats = check_figures(private)
        assert walked(private) == {}
        private.close()
        with mrm.Heap() as another:
            filled(another)
        return stats.blocks, stats.memory

    assert after_fork(child) == (0, 0)
    assert all(holds(*block) for block in blocks)
    assert set(walked(private)) == {address for address, _, _ in blocks}


def test_blocks_of_threads_that_a_child_does_not_have(private):
    theirs, end = in_thread(lambda: filled(private))
    more = filled(private, 3)

    def child():
        assert all(holds(*block) for block in theirs + more)
        for address, n, seed in theirs:
            assert private.usable_size(address) >= n
            assert private.owns(address)
            grown = private.realloc(address, n + n // 2)
            assert holds(grown, n, seed)
            write(grown, n + n // 2, seed)
            private.free(grown)
        fresh = filled(private, 4)
        assert all(holds(*block) for block in fresh + more)
        for address, _, _ in fresh + more:
            private.free(address)
        private.trim()
        check_figures(private)
        found = []
        run(lambda: found.append(filled(private, 5)))
        return all(holds(*block) for block in found[0])

    assert after_fork(child) is True
    end()
    assert all(holds(*block) for block in theirs + more)


def test_a_grandchild(private):
    blocks = filled(private)

    def grandchild():
        good = all(holds(*block) for block in blocks)
        for address, _, _ in blocks:
            private.free(address)
        return good and walked(private) == {}

    def child():
        assert after_fork(grandchild) is True
        return all(holds(*block) for block in blocks)

    assert after_fork(child) is True


def test_blocks_of_ended_threads_are_adopted_in_the_child(private):
    blocks = []
    run(lambda: blocks.extend(filled(private)))

    def child():
        mine = filled(private, 2)
        good = all(holds(*block) for block in blocks + mine)
        for address, _, _ in blocks + mine:
            private.free(address)
        return good

    assert after_fork(child) is True


def test_forks_while_threads_are_at_work(private):
    """Whatever they are in the middle of: the child has its blocks, and can have more."""

    def work(stop, seed):
        draw, live = random.Random(seed), []
        while not stop.is_set():
            n = int(2 ** draw.uniform(3, 15)) if draw.random() < 0.97 else draw.randint(MIB, 4 * MIB)
            block = private.malloc(n), min(n, 2000), seed
            write(*block)
            live.append(block)
            if len(live) > 30:
                block = live.pop(draw.randrange(30))
                assert holds(*block)
                private.free(block[0])

    def ephemeral(stop):
        while not stop.is_set():
            run(lambda: private.free(private.malloc(3000)), whole=False)

    blocks = filled(private, 9)

    def child():
        mine = filled(private, 8)
        for address, n, seed in blocks:
            grown = private.realloc(address, n + 1)
            assert holds(grown, n, seed)
            private.free(grown)
        assert all(holds(*block) for block in mine)
        private.trim()
        private.stats()
        list(private.blocks())
        return "well"

    with beside(lambda stop: work(stop, 1), lambda stop: work(stop, 2), ephemeral):
        for _ in range(60):
            assert after_fork(child) == "well"
    assert all(holds(*block) for block in blocks)


def test_a_hundred_children_at_once(private):
    blocks = filled(private)
    children = []
    for i in range(100):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                good = all(holds(*block) for block in blocks)
                for address, _, _ in blocks:
                    write(address, 16, i)
                mine = filled(private, i)
                good &= all(holds(address, 16, i) for address, _, _ in blocks)
                code = 0 if good and all(holds(*block) for block in mine) else 1
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 100
    assert all(holds(*block) for block in blocks)


def test_a_pool_of_workers_has_the_arrays_of_its_parent(private):
    numpy = pytest.importorskip("numpy")
    array = private.empty(300_000, "int64")
    array[:] = numpy.arange(300_000)
    with multiprocessing.get_context("fork").Pool(4, initializer=_keep, initargs=(array,)) as workers:
        assert workers.map(_sum_of, range(4)) == [int(array[i::4].sum()) for i in range(4)]
    assert array[1] == 1


def _keep(array):
    global kept
    kept = array


def _sum_of(i):
    kept[i::4] += 0
    return int(kept[i::4].sum())


# ---- a pool's frames -------------------------------------------------------------------------


def test_a_child_is_refused_a_pools_heap(on_pool):
    blocks = filled(on_pool)
    on_pool.free(on_pool.malloc(64))
    buffer = on_pool.buffer(100)

    def child():
        small, large = blocks[0][0], blocks[-1][0]
        uses = {
            "malloc": lambda: on_pool.malloc(16),
            "malloc large": lambda: on_pool.malloc(3 * MIB),
            "calloc": lambda: on_pool.calloc(1, 16),
            "realloc": lambda: on_pool.realloc(small, 16),
            "realloc larger": lambda: on_pool.realloc(small, 1600),
            "realloc large": lambda: on_pool.realloc(large, 5 * MIB),
            "aligned": lambda: on_pool.aligned(64, 16),
            "free": lambda: on_pool.free(small),
            "free large": lambda: on_pool.free(large),
            "usable_size": lambda: on_pool.usable_size(small),
            "buffer": lambda: on_pool.buffer(16),
            "resize": lambda: buffer.resize(5000),
            "blocks": lambda: list(on_pool.blocks()),
            "stats": on_pool.stats,
            "trim": on_pool.trim,
            "a new one": lambda: mrm.Heap(on_pool.source),
        }
        allowed = []
        for name, use in uses.items():
            try:
                use()
            except mrm.ForkedError as error:
                assert "child" in str(error)
                assert name == "a new one" or "mrm.Heap()" in str(error)
            else:
                allowed.append(name)
        return allowed

    assert after_fork(child) == []
    assert all(holds(*block) for block in blocks)
    buffer.free()
    for address, _, _ in blocks:
        on_pool.free(address)
    on_pool.trim()
    assert on_pool.source.stats().free == FRAMES


def test_ends_in_the_child_are_quiet_and_the_parents_frames_stay(on_pool):
    blocks = filled(on_pool)
    buffer = on_pool.buffer(3 * MIB)

    def child():
        assert "on pool" in repr(on_pool)
        nonlocal buffer
        del buffer
        on_pool.close()
        on_pool.close()
        with mrm.Heap() as heap:
            return all(holds(*block) for block in filled(heap))

    assert after_fork(child) is True
    assert all(holds(*block) for block in blocks)
    assert on_pool.source.stats().free < FRAMES
    buffer.free()


@pytest.mark.parametrize("access", ["peek(address)", "poke(address)"])
def test_an_access_in_the_child_traps(access):
    ending = in_child(
        f"""
        pool = mrm.Pool(4 * FRAME, huge=huge)
        heap = mrm.Heap(pool)
        small, large = heap.malloc(16), heap.malloc(3 * MIB)
        for address in (small, large):
            if os.fork() == 0:
                {access}
                os._exit(0)
            say(os.waitstatus_to_exitcode(os.wait()[1]))
        heap.close()
        pool.close()
        """
    )
    assert (ending.code, ending.out.split()) == (0, ["-11", "-11"]), ending


def test_a_child_begins_anew_with_a_pool_of_its_own(on_pool):
    filled(on_pool)

    def child():
        on_pool.close()
        with mrm.Pool(8 * FRAME, huge="off") as pool:
            with mrm.Heap(pool) as heap:
                good = all(holds(*block) for block in filled(heap))
            return good and pool.audit().free == 8

    assert after_fork(child) is True


def test_both_kinds_through_many_generations(private, on_pool):
    """Each child forks the next one; every one has all blocks of those before."""

    def generation(left, blocks):
        blocks = [*blocks, *filled(private, left)]
        if not all(holds(*block) for block in blocks):
            return "lost"
        with pytest.raises(mrm.ForkedError):
            on_pool.malloc(1)
        return after_fork(lambda: generation(left - 1, blocks)) if left else len(blocks)

    assert after_fork(lambda: generation(6, filled(private, 50))) == 8 * len(SIZES)
