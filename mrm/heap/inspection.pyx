"""Looking at all of a heap that looks for mistakes: when it is asked to, trimmed, or closed.

Each block's fences are looked at, and each pattern of the quarantine. What is found is mended, so that it is told
once. Of blocks that are still in use when the heap is closed it tells if MRM_DEBUG says ``leaks``.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from mrm cimport MRM_BAD_ARGUMENT
from mrm.heap.debug cimport debug_of, debug_t
from mrm.heap.fences cimport DAMAGES, damage_t, fences_mend
from mrm.heap.held cimport debug_reachable, held_empty, held_poisoned
from mrm.heap.records cimport RECORD_HELD, RECORD_LIVE, record_t, table_near
from mrm.heap.reports cimport (
    report_begin, report_damage, report_end, report_more, say_history, say_leaks, say_place,
)
from mrm.heap.traces cimport say, trace_t, trace_take
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    TOLD = 8                    # damaged blocks that one report tells of


cdef uint64_t look(debug_t *debug, const char *when) noexcept nogil:
    """Look at all blocks, and at what is in the quarantine, and add what is damaged to the report; how many."""
    cdef damage_t damages[TOLD + DAMAGES]
    cdef record_t *record
    cdef uint64_t blocks = 0
    cdef size_t i
    cdef uint32_t n = 0
    mrm_lock(&debug.lock)
    for i in range(debug.table.room):
        record = debug.table.buckets[i]
        while record != NULL:
            if record.state == RECORD_LIVE or record.state == RECORD_HELD:
                blocks += 1
                if n < TOLD:
                    n += fences_mend(
                        record, held_poisoned(debug, record) if record.state == RECORD_HELD else 0, &damages[n]
                    )
            record = record.next
    mrm_unlock(&debug.lock)
    for i in range(n):
        report_damage(debug.heap, &damages[i], when)
    if n >= TOLD:
        report_more()
    return blocks


cdef int heap_check(heap_t *heap, uint64_t *blocks) noexcept nogil:
    """Look at all blocks of a heap that looks for mistakes; MRM_BAD_BLOCK, and a report, if one is damaged."""
    cdef const trace_t *here
    if heap.debug == NULL:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"heap %s keeps nothing to check its blocks by: open it with debug (MRM_HEAP_DEBUG), or run the program "
            b"with MRM_DEBUG=1", heap.label,
        )
    here = trace_take()
    if not debug_reachable(heap):
        return failure().status
    report_begin()
    blocks[0] = look(debug_of(heap), b"the heap was checked")
    return report_end(here, debug_of(heap).ends)


cdef void inspect_trim(heap_t *heap) noexcept nogil:
    """Give back what is in the quarantine."""
    cdef debug_t *debug = debug_of(heap)
    report_begin()
    held_empty(debug, b"the heap was trimmed")
    report_end(trace_take(), debug.ends)


cdef void tell_leaks(debug_t *debug) noexcept nogil:
    """Tell of all blocks in use."""
    cdef const record_t **records = <const record_t **>malloc(debug.table.count * sizeof(record_t *) + 1)
    cdef record_t *record
    cdef size_t i, n = 0
    if records == NULL:
        return
    for i in range(debug.table.room):
        record = debug.table.buckets[i]
        while record != NULL:
            if record.state == RECORD_LIVE:
                records[n] = record
                n += 1
            record = record.next
    if n:
        say_leaks(debug.heap, records, n)
    free(<void *>records)


cdef void inspect_ending(heap_t *heap) noexcept nogil:
    """The heap is about to be closed: a last look at its memory, by its last user."""
    cdef debug_t *debug = debug_of(heap)
    if not debug_reachable(heap):
        return
    report_begin()
    look(debug, b"the heap was closed")
    report_end(trace_take(), debug.ends)
    if debug.leaks:
        tell_leaks(debug)


cdef void debug_explain(heap_t *heap, const void *address, text_t *text) noexcept nogil:
    """Add to a text what an address is, and where the block there was allocated and freed."""
    cdef debug_t *debug = debug_of(heap)
    cdef record_t found
    cdef bint known
    mrm_lock(&debug.lock)
    known = table_near(&debug.table, address, &found)
    mrm_unlock(&debug.lock)
    say_place(text, heap, address, &found if known else NULL, b"")
    say(text, b"\n")
    if known:
        say_history(text, &found)
