"""A heap in many threads: blocks that others free, threads that end, and their pages that go on."""

import ctypes
import os
import queue
import random
import threading

import pytest
from heaping import FRAMES, check_figures, fill_up, holds, opened, run, started, walked, write
from helpers import FRAME, MIB, wait_until

import mrm


@pytest.fixture
def heap(some_heap):
    return some_heap


def emptied(heap):
    """The heap, after every block was freed and every other thread has ended, has no memory left."""
    heap.trim()
    assert walked(heap) == {}
    stats = check_figures(heap)
    assert (stats.blocks, stats.memory, stats.large_blocks) == (0, 0, 0)


def test_a_block_is_freed_by_another_thread(heap):
    for n in (16, 48, 600, 5000, 100_000, MIB, 3 * MIB):
        blocks = [heap.malloc(n) for _ in range(5)]
        for i, address in enumerate(blocks):
            write(address, n, i)

        def free(blocks=blocks, n=n):
            for i, address in enumerate(blocks):
                assert heap.usable_size(address) >= n
                assert holds(address, n, i)
                heap.free(address)

        run(free)
        again = [heap.malloc(n) for _ in range(5)]
        assert len(set(again)) == 5
        for address in again:
            heap.free(address)
    emptied(heap)


def test_what_another_thread_freed_serves_its_owner_again(heap):
    """A full page is woken by the first block that another thread frees: no more memory is taken."""
    blocks = [heap.malloc(64) for _ in range(100_000)]
    had = heap.stats().memory

    for _ in range(3):
        run(lambda: [heap.free(address) for address in blocks])
        blocks[:] = [heap.malloc(64) for _ in range(100_000)]
        assert len(set(blocks)) == 100_000
        assert heap.stats().memory <= had + FRAME
    for address in blocks:
        heap.free(address)
    emptied(heap)


def test_a_chain_holds_what_was_freed_last_until_trim(heap):
    blocks = [heap.malloc(64) for _ in range(10)]
    go, done = threading.Event(), threading.Event()

    def other():
        for address in blocks:
            heap.free(address)
        done.set()
        go.wait()
        heap.trim()

    thread = threading.Thread(target=other)
    thread.start()
    done.wait()
    assert set(walked(heap)) == set(blocks)
    go.set()
    thread.join()
    assert walked(heap) == {}


def test_pairs_of_threads_hand_blocks_on(heap):
    pipes = [queue.SimpleQueue() for _ in range(2)]

    def produce(pipe, seed):
        draw = random.Random(seed)
        for i in range(4000):
            n = int(2 ** draw.uniform(3, 13)) if draw.random() < 0.99 else draw.randint(MIB, 3 * MIB)
            address = heap.malloc(n)
            write(address, min(n, 5000), i)
            pipe.put((address, min(n, 5000), i))
            if pipe.qsize() > 50:
                wait_until(lambda: pipe.qsize() < 25)
        pipe.put(None)

    def consume(pipe):
        while (what := pipe.get()) is not None:
            assert holds(*what)
            heap.free(what[0])

    run(
        *(lambda p=p, i=i: produce(p, i) for i, p in enumerate(pipes)),
        *(lambda p=p: consume(p) for p in pipes),
    )
    emptied(heap)


def test_threads_change_each_others_blocks_at_random(heap):
    table, lock = {}, [threading.Lock() for _ in range(64)]

    def work(seed):
        draw = random.Random(seed)
        for i in range(3000):
            place = draw.randrange(64)
            with lock[place]:
                block = table.pop(place, None)
                if block is not None:
                    address, n, mark = block
                    assert holds(address, n, mark)
                    if draw.random() < 0.5:
                        larger = int(2 ** draw.uniform(0, 14))
                        address = heap.realloc(address, larger)
                        assert holds(address, min(n, larger), mark)
                        write(address, larger, mark)
                        table[place] = address, larger, mark
                    else:
                        heap.free(address)
                else:
                    n, mark = int(2 ** draw.uniform(0, 14)), seed << 20 | i
                    address = heap.calloc(n, 1) if draw.random() < 0.3 else heap.malloc(n)
                    write(address, n, mark)
                    table[place] = address, n, mark

    run(*(lambda seed=seed: work(seed) for seed in range(4)))
    heap.trim()
    assert set(walked(heap)) == {address for address, _, _ in table.values()}
    for address, n, mark in table.values():
        assert holds(address, n, mark)
        heap.free(address)
    emptied(heap)


# ---- threads that end ------------------------------------------------------------------


def test_blocks_outlive_their_thread(heap):
    blocks = []

    def make():
        for i, n in enumerate((16, 100, 5000, 300_000, 3 * MIB)):
            address = heap.malloc(n)
            write(address, n, i)
            blocks.append((address, n, i))

    run(make)
    for address, n, i in blocks:
        assert holds(address, n, i)
        grown = heap.realloc(address, n * 2)
        assert holds(grown, n, i)
        heap.free(grown)
    emptied(heap)


def test_the_pages_of_ended_threads_are_adopted():
    """Each thread leaves a block behind; the next one goes on in the pages of those before."""
    with opened("small") as heap:
        kept = []
        for _ in range(3 * FRAMES):
            run(lambda: kept.append(heap.malloc(1000)))
        assert len(set(kept)) == 3 * FRAMES
        assert check_figures(heap).segments <= 2
        more = [heap.malloc(1000) for _ in range(500)]
        assert not set(more) & set(kept)
        assert check_figures(heap).segments <= 2
        for address in kept + more:
            heap.free(address)
        emptied(heap)


def test_who_frees_a_block_of_an_ended_thread_goes_on_with_its_pages(heap):
    """It frees all of them as its own: the memory is back without trim, and serves any size."""
    blocks = []
    run(lambda: blocks.extend(heap.malloc(64) for _ in range(200_000)))  # more than six segments
    had = heap.stats().memory
    assert had >= 6 * FRAME
    half = len(blocks) // 2
    for address in blocks[:half]:
        heap.free(address)
    # Of three, a whole one is kept, and one with the first page of a queue.
    assert heap.stats().memory <= had - FRAME
    other = [heap.malloc(96) for _ in range(half // 2)]
    assert heap.stats().memory <= had
    for address in blocks[half:] + other:
        heap.free(address)
    assert heap.stats().memory <= 3 * FRAME  # a whole one, and the first pages of two queues
    emptied(heap)


def test_threads_that_free_the_blocks_of_one_that_ended_share_its_pages_out(heap):
    """Each segment goes to one of them; what the others free in it, its new owner finds."""
    for _ in range(5):
        blocks = []

        def fill(blocks=blocks):
            for i in range(40_000):
                address = heap.malloc(48 + 16 * (i % 5))
                write(address, 16, i)
                blocks.append(address)

        run(fill)
        shares = [blocks[start::4] for start in range(4)]
        go = threading.Barrier(4)

        def free(start, shares=shares, go=go):
            go.wait()
            for i, address in enumerate(shares[start]):
                assert holds(address, 16, 4 * i + start)
                heap.free(address)
                if i % 3 == 0:
                    heap.free(heap.malloc(64))

        run(*(lambda start=start: free(start) for start in range(4)))
    emptied(heap)


def test_what_ended_threads_left_empty_serves_when_memory_is_short():
    with opened("small") as heap:
        left = []

        def leave():
            blocks = [heap.malloc(100_000) for _ in range(60)]
            left.append(blocks.pop())
            for address in blocks:
                heap.free(address)

        for _ in range(6):
            run(leave)
        for address in left[1:]:
            heap.free(address)
        # All but a frame can be had again.
        address = heap.malloc((FRAMES - 1) * FRAME)
        heap.free(address)
        heap.free(left[0])
        emptied(heap)


THREADS = 48  # each has a segment of its own, which on a pool is a frame: the heap's has 64


def test_many_threads(heap):
    barrier = threading.Barrier(THREADS)
    left = queue.SimpleQueue()

    def work(seed):
        barrier.wait()
        mine = []
        for i in range(20):
            address = heap.malloc(100 + seed)
            write(address, 100 + seed, seed)
            mine.append(address)
            if i % 2:
                heap.free(mine.pop(0))
        left.put((seed, mine))

    run(*(lambda seed=seed: work(seed) for seed in range(THREADS)))
    for _ in range(THREADS):
        seed, mine = left.get()
        for address in mine:
            assert holds(address, 100 + seed, seed)
            heap.free(address)
    emptied(heap)


class Gate:
    """Where threads wait on their way out, when Python has done with them, and before they leave their heaps."""

    def __init__(self):
        self.libc = ctypes.CDLL(None)
        self.semaphore = ctypes.create_string_buffer(64)
        self.libc.sem_init(self.semaphore, 0, 0)

    def at_the_end(self):
        """Have this thread wait when it ends: what C++ destroys with a thread goes before pthread's keys."""
        wait = ctypes.cast(self.libc.sem_wait, ctypes.c_void_p)
        assert self.libc["__cxa_thread_atexit_impl"](wait, self.semaphore, self.semaphore) == 0

    def let_go(self, threads):
        for _ in range(threads):
            self.libc.sem_post(self.semaphore)


def test_a_heap_ends_while_threads_end():
    """A thread leaves its heaps on its way out: it may give a segment that the heap gives, too."""
    gate, tasks = Gate(), len(os.listdir("/proc/self/task"))
    with mrm.Pool(FRAMES * FRAME, huge="off") as pool:
        for _ in range(10):
            done = threading.Semaphore(0)
            with mrm.Heap(pool) as heap:

                def work(heap=heap, done=done):
                    for address in [heap.malloc(900_000) for _ in range(6)]:
                        heap.free(address)
                    gate.at_the_end()
                    done.release()

                write(heap.malloc(8 * FRAME), 8 * FRAME, 1)  # so that its addresses take a while to end
                threads, failed = started([work] * 4)
                for _ in threads:
                    assert done.acquire(timeout=60)
                # Not joined: from 3.13 on that waits for those at the gate.
                gate.let_go(4)
            for thread in threads:
                thread.join()
            assert not failed
            wait_until(lambda: len(os.listdir("/proc/self/task")) == tasks)
            assert pool.audit().free == FRAMES


def test_a_thread_uses_many_heaps():
    heaps = [mrm.Heap(limit="16MiB") for _ in range(20)]

    def use():
        blocks = [(heap, heap.malloc(100)) for heap in heaps for _ in range(3)]
        assert len({address for _, address in blocks}) == 3 * len(heaps)
        for heap, address in blocks:
            assert heap.owns(address)
            assert not heaps[heaps.index(heap) - 1].owns(address)
            heap.free(address)

    run(use, use)
    for heap in heaps[::2]:
        heap.close()
    heaps[:] = [*heaps[1::2], mrm.Heap(limit="16MiB")]
    run(use, use)
    use()
    for heap in heaps:
        heap.close()


# ---- trim, and shortages -----------------------------------------------------------------


def test_trim_beside_threads_that_work(heap):
    stop = threading.Event()

    def work(seed):
        draw, live = random.Random(seed), {}
        while not stop.is_set():
            n = int(2 ** draw.uniform(3, 17)) if draw.random() < 0.98 else 3 * MIB
            address = heap.malloc(n)
            write(address, min(n, 3000), seed)
            live[address] = n
            if len(live) > 40:
                address, n = live.popitem()
                assert holds(address, min(n, 3000), seed)
                heap.free(address)
        for address, n in live.items():
            assert holds(address, min(n, 3000), seed)
            heap.free(address)

    def trim():
        try:
            for _ in range(200):
                heap.trim()
                heap.stats()
                list(heap.blocks())
        finally:
            stop.set()

    run(lambda: work(1), lambda: work(2), trim)
    emptied(heap)


def test_threads_that_are_all_refused_lose_nothing():
    with opened("small", frames=16) as heap:
        barrier = threading.Barrier(3)

        def work(n):
            barrier.wait()
            for _ in range(5):
                for address in fill_up(lambda: heap.malloc(n)):
                    heap.free(address)

        run(*(lambda n=n: work(n) for n in (3 * MIB, MIB, 200_000)))
        emptied(heap)
