"""The calls of a log again: on libc's malloc and on mrm.Heap without Python in between, on others by their methods.

Blocks are kept in an array by the numbers that books.pyx gave them. What the log says got no memory is not tried
again: the program went on without it. Whatever is left at the end is freed, after the clock has stopped.
"""

import time

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from posix.stdlib cimport posix_memalign

from mrm._heap cimport Heap
from mrm.heap.blocks cimport heap_aligned, heap_calloc, heap_free, heap_malloc, heap_realloc
from mrm.heap.heap cimport heap_release, heap_retain
from mrm.heap.state cimport heap_t
from mrm.tools.replay.calls cimport (
    CALL_ALIGNED, CALL_CALLOC, CALL_FREE, CALL_MALLOC, CALL_REALLOC, NO_BLOCK, Calls, call_t,
)


cdef struct outcome_t:
    uint64_t calls
    uint64_t failed
    uint64_t first              # call that failed
    uint64_t skipped


cdef inline size_t least(uint64_t nbytes, size_t one) noexcept nogil:
    return <size_t>nbytes if nbytes > one else one


cdef inline void *by_libc(const call_t *call, void *block) noexcept nogil:
    """A block made or changed by libc, for which nothing is a size that frees."""
    cdef void *made = NULL
    if call.kind == CALL_REALLOC:
        return realloc(block, least(call.nbytes, 1))
    if call.kind == CALL_CALLOC:
        return calloc(1, least(call.nbytes, 1))
    if call.kind == CALL_ALIGNED:
        # Not aligned_alloc, which may refuse a size that is no multiple of the alignment (C11).
        posix_memalign(&made, least(call.alignment, sizeof(void *)), least(call.nbytes, 1))
        return made
    return malloc(least(call.nbytes, 1))


cdef inline void *by_heap(heap_t *heap, const call_t *call, void *block) noexcept nogil:
    """A block made or changed by a heap."""
    if call.kind == CALL_REALLOC:
        return heap_realloc(heap, block, call.nbytes)
    if call.kind == CALL_CALLOC:
        return heap_calloc(heap, 1, call.nbytes)
    if call.kind == CALL_ALIGNED:
        return heap_aligned(heap, call.alignment, call.nbytes)
    return heap_malloc(heap, call.nbytes)


cdef void fail(outcome_t *outcome, uint64_t number) noexcept nogil:
    """Count a call that got no memory."""
    if outcome.failed == 0:
        outcome.first = number
    outcome.failed += 1


cdef void perform(Calls calls, heap_t *heap, void **at, bint stop, outcome_t *outcome) noexcept nogil:
    """Every call again; with ``stop``, until one gets no memory."""
    cdef const call_t *call
    cdef void *got
    cdef size_t i
    for i in range(calls.n):
        call = &calls.call[i]
        if call.block == NO_BLOCK or (call.kind == CALL_FREE and at[call.block] == NULL):
            outcome.skipped += 1
            continue
        outcome.calls += 1
        if call.kind == CALL_FREE:
            if heap == NULL:
                free(at[call.block])
            else:
                heap_free(heap, at[call.block])
            at[call.block] = NULL
            continue
        got = by_libc(call, at[call.block]) if heap == NULL else by_heap(heap, call, at[call.block])
        if got != NULL:
            at[call.block] = got
            continue
        fail(outcome, i)
        if stop:
            return


cdef tuple told(Calls calls, outcome_t *outcome, double seconds):
    """What ``Replayed`` is made of."""
    cdef bint any_failed = outcome.failed > 0
    return (
        outcome.calls, outcome.failed, outcome.first + 2 if any_failed else 0,
        calls.call[outcome.first].nbytes if any_failed else 0, outcome.skipped, seconds,
    )


cdef tuple run(Calls calls, heap_t *heap, bint stop):
    """Run them on a heap, or on libc's malloc where there is none."""
    cdef outcome_t outcome = outcome_t(0, 0, 0, 0)
    cdef void **at = <void **>calloc(calls.n + 1, sizeof(void *))
    cdef size_t i
    if at == NULL:
        raise MemoryError
    begun = time.perf_counter()
    with nogil:
        perform(calls, heap, at, stop, &outcome)
    seconds = time.perf_counter() - begun
    with nogil:
        for i in range(calls.n):
            if at[i] != NULL:
                if heap == NULL:
                    free(at[i])
                else:
                    heap_free(heap, at[i])
        free(at)
    return told(calls, &outcome, seconds)


def run_on_glibc(Calls calls):
    """Run them on libc's malloc; what ``Replayed`` is made of."""
    return run(calls, NULL, False)


def run_on_heap(Calls calls, heap, stop=False):
    """Run them on a heap, of mrm or like it; what ``Replayed`` is made of."""
    cdef heap_t *handle
    if not isinstance(heap, Heap):
        return run_by_methods(calls, heap, stop)
    handle = (<Heap>heap).open_one()
    heap_retain(handle)
    try:
        return run(calls, handle, stop)
    finally:
        heap_release(handle)


cdef tuple run_by_methods(Calls calls, object heap, bint stop):
    """The same by methods, for which a million calls take a second or more."""
    cdef outcome_t outcome = outcome_t(0, 0, 0, 0)
    cdef dict at = {}
    cdef const call_t *call
    cdef size_t i
    make, clear, align, change, end = heap.malloc, heap.calloc, heap.aligned, heap.realloc, heap.free
    begun = time.perf_counter()
    for i in range(calls.n):
        call = &calls.call[i]
        block = call.block
        if call.block == NO_BLOCK or (call.kind == CALL_FREE and block not in at):
            outcome.skipped += 1
            continue
        outcome.calls += 1
        try:
            if call.kind == CALL_MALLOC:
                at[block] = make(call.nbytes)
            elif call.kind == CALL_FREE:
                end(at.pop(block))
            elif call.kind == CALL_REALLOC:
                at[block] = change(at.get(block, 0), call.nbytes)
            elif call.kind == CALL_CALLOC:
                at[block] = clear(1, call.nbytes)
            else:
                at[block] = align(call.alignment, call.nbytes)
        except MemoryError:
            fail(&outcome, i)
            if stop:
                break
    seconds = time.perf_counter() - begun
    for block in at.values():
        end(block)
    return told(calls, &outcome, seconds)
