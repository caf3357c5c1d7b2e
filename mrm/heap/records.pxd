"""What is known of each block of a heap that looks for mistakes."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from mrm.heap.traces cimport trace_t


cdef enum:
    RECORD_LIVE = 1             # in use
    RECORD_BUSY                 # a thread has it in hand: it is being moved, freed, or let go
    RECORD_HELD                 # freed, in the quarantine
    RECORD_GONE                 # freed, and its memory may be another block's by now


cdef struct record_t:
    char *block                 # what the caller has
    char *raw                   # what it lies in: a block of the allocator below
    size_t nbytes               # asked for; 1 at the least
    const trace_t *allocated    # where ...
    const trace_t *freed
    uint32_t allocator          # ... and the thread that did
    uint32_t freer
    uint32_t state              # RECORD_...
    record_t *next              # in its bucket
    record_t *newer             # in a queue
    record_t *older


cdef struct queue_t:
    record_t *oldest
    record_t *newest
    uint64_t weight             # of all in it; see record_weight


cdef struct table_t:
    record_t **buckets
    size_t room                 # buckets: a power of two
    size_t count                # records


cdef int table_open(table_t *table) noexcept nogil
cdef void table_close(table_t *table) noexcept nogil
cdef record_t *table_find(const table_t *table, const void *block) noexcept nogil
cdef bint table_near(const table_t *table, const void *address, record_t *found) noexcept nogil
cdef void table_add(table_t *table, record_t *record) noexcept nogil
cdef void table_remove(table_t *table, record_t *record) noexcept nogil

cdef uint64_t record_weight(const record_t *record) noexcept nogil
cdef void queue_push(queue_t *queue, record_t *record) noexcept nogil
cdef void queue_remove(queue_t *queue, record_t *record) noexcept nogil
