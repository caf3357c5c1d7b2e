"""Freed blocks of a heap that looks for mistakes: held back, so that a late write to one is seen.

A block that is freed is filled with a pattern, and waits in the quarantine for as long as that has room. The
oldest leave: they are looked at once more, and what was written to them is told; their memory goes back to the
allocator below, and their records are kept for a while, so that a second free can be told from one of a foreign
address.

The lock of the records is not held while memory is filled, looked at or given back: whoever does that has marked
the record (RECORD_BUSY), and others leave it alone.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from mrm cimport MRM_OK
from mrm.heap.fences cimport DAMAGES, damage_t, fences_mend, fences_poison
from mrm.heap.local cimport local_find
from mrm.heap.records cimport (
    RECORD_BUSY, RECORD_GONE, RECORD_HELD, queue_push, queue_remove, table_remove,
)
from mrm.heap.reports cimport report_damage
from mrm.heap.slow cimport raw_free
from mrm.heap.traces cimport thread_number
from mrm.physical.pool cimport pool_usable


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef bint debug_reachable(heap_t *heap) noexcept nogil:
    """Whether the heap's memory can be looked at; if not, with the failure."""
    return local_find(heap) != NULL and (heap.pool == NULL or pool_usable(heap.pool) == MRM_OK)


cdef record_t *taken_out(debug_t *debug, uint64_t most) noexcept nogil:
    """Take the oldest blocks out of the quarantine, until it has no more bytes than that; the lock is held."""
    cdef record_t *first = NULL
    cdef record_t *last = NULL
    cdef record_t *record
    while debug.held.weight > most:
        record = debug.held.oldest
        queue_remove(&debug.held, record)
        record.state = RECORD_BUSY
        if last != NULL:
            last.newer = record
        else:
            first = record
        last = record
    return first


cdef size_t held_poisoned(const debug_t *debug, const record_t *record) noexcept nogil:
    """Bytes of a freed block that have the pattern: none of one that the quarantine has no room for."""
    return record.nbytes if record.nbytes <= debug.most_held else 0


cdef void let_go(debug_t *debug, record_t *record, const char *when) noexcept nogil:
    """Give the memory of blocks back that were taken out of the quarantine, after a last look."""
    cdef damage_t damages[DAMAGES]
    cdef record_t *next
    cdef record_t *forgotten
    cdef char *raw
    cdef uint32_t n, i
    while record != NULL:
        next = record.newer
        n = fences_mend(record, held_poisoned(debug, record), damages)
        for i in range(n):
            report_damage(debug.heap, &damages[i], when)
        raw = record.raw
        mrm_lock(&debug.lock)
        record.state = RECORD_GONE
        queue_push(&debug.gone, record)
        while debug.gone.weight > debug.most_held:      # as many as small ones can be held
            forgotten = debug.gone.oldest
            queue_remove(&debug.gone, forgotten)
            table_remove(&debug.table, forgotten)
            free(forgotten)
        mrm_unlock(&debug.lock)
        # Only now, as the next block may lie there at once.
        raw_free(debug.heap, raw)
        record = next


cdef bint held_empty(debug_t *debug, const char *when) noexcept nogil:
    """Empty the quarantine; whether there was something in it."""
    cdef record_t *record
    mrm_lock(&debug.lock)
    record = taken_out(debug, 0)
    mrm_unlock(&debug.lock)
    let_go(debug, record, when)
    return record != NULL


cdef void held_put(debug_t *debug, record_t *record, const trace_t *here) noexcept nogil:
    """Put a claimed block into the quarantine; others may have to leave."""
    cdef record_t *leaving
    fences_poison(record, held_poisoned(debug, record))
    mrm_lock(&debug.lock)
    record.freer = thread_number()
    record.freed = here
    record.state = RECORD_HELD
    queue_push(&debug.held, record)
    leaving = taken_out(debug, debug.most_held)
    mrm_unlock(&debug.lock)
    let_go(debug, leaving, b"it left the quarantine")
