"""Heaps with debug in several threads, and in children."""

import threading

import pytest
from heaping import beside, run
from helpers import after_fork
from mistaken import read, stack, told, write

import mrm


@pytest.fixture
def heap(debug_heap):
    return debug_heap


# ---- threads -----------------------------------------------------------------------------


def test_two_threads_free_the_same_blocks(heap):
    blocks = [heap.malloc(100) for _ in range(300)]
    refused, barrier = [], threading.Barrier(2)

    def free_all():
        barrier.wait()
        for at in blocks:
            try:
                heap.free(at)
            except mrm.BlockError as error:
                refused.append(str(error))

    run(free_all, free_all)
    assert len(refused) == 300
    assert all("twice" in text or "while another thread" in text for text in refused)
    heap.check()


def test_threads_are_named(heap):
    found = {}

    def work():
        found["at"] = heap.malloc(10)
        found["id"] = threading.get_native_id()

    run(work)
    assert f"Allocated in thread {found['id']}:" in heap.explain(found["at"])
    heap.free(found["at"])
    text = heap.explain(found["at"])
    assert f"Freed in thread {threading.get_native_id()}:" in text
    assert f"Allocated in thread {found['id']}:" in text


def test_threads_at_work(heap):
    """Four threads hand blocks on to each other, and one looks all the time."""
    queues = [[] for _ in range(4)]

    def work(i):
        for step in range(400):
            n = (step * 7919 + i) % 5000 + 1 if step % 50 else 300_000
            at = heap.malloc(n) if step % 3 else heap.calloc(n, 1)
            write(at, bytes([i]) * n)
            queues[(i + 1) % 4].append((at, n, i))
            if step % 2 and queues[i]:
                at, n, who = queues[i].pop()
                assert read(at, n) == bytes([who]) * n
                if step % 4 == 1:
                    at = heap.realloc(at, n + 100)
                    assert read(at, n) == bytes([who]) * n
                heap.free(at)

    def look(stop):
        while not stop.is_set():
            heap.check()
            list(heap.blocks())

    with beside(look):
        run(*(lambda i=i: work(i) for i in range(4)))
    left = [entry for queue in queues for entry in queue]
    assert sorted(heap.blocks()) == sorted((at, n) for at, n, _ in left)
    for at, n, who in left:
        assert read(at, n) == bytes([who]) * n
        heap.free(at)


# ---- fork --------------------------------------------------------------------------------


def test_a_child_goes_on_with_a_private_heap():
    with mrm.Heap(debug=True) as heap:
        kept, freed, damaged = heap.malloc(100), heap.malloc(100), heap.malloc(100)
        heap.free(freed)

        def child():
            write(kept, b"child")
            heap.free(kept)
            write(damaged + 100, b"A")
            return (
                told(heap.free, kept),
                told(heap.free, freed),
                told(heap.check),
                heap.usable_size(heap.malloc(7)),
            )

        twice, before, past, size = after_fork(child)
        assert "twice" in twice and stack(twice, "Freed")[0].endswith("child")
        assert "twice" in before and "past its end" in past and size == 7
        assert heap.check() == 3
        heap.free(kept)


def test_a_child_has_no_heap_on_a_pool(pool):
    with mrm.Heap(pool, debug=True) as heap:
        at = heap.malloc(100)
        heap.free(heap.malloc(100))

        def child():
            refused = 0
            for call in (
                lambda: heap.free(at), lambda: heap.malloc(10), lambda: heap.realloc(at, 10), heap.check,
                lambda: heap.usable_size(at), heap.trim,
            ):  # fmt: skip
                try:
                    call()
                except mrm.ForkedError:
                    refused += 1
            heap.close()
            return refused

        assert after_fork(child) == 6
        assert heap.check() == 2


def test_forks_while_threads_work():
    with mrm.Heap(debug=True) as heap:

        def work(stop):
            while not stop.is_set():
                heap.free(heap.realloc(heap.malloc(100), 200))

        with beside(work, work):
            for _ in range(20):
                assert after_fork(lambda: heap.free(heap.malloc(50)) or heap.check() >= 1) is True
        heap.check()
