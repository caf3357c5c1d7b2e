"""A heap that finds its callers' mistakes."""

from libc.stdint cimport uint32_t, uint64_t

from mrm.heap.records cimport queue_t, table_t
from mrm.heap.state cimport checks_t, heap_t


cdef struct debug_t:
    checks_t checks             # first, so that heap_t.debug is this
    heap_t *heap
    debug_t *next               # of the process
    debug_t *previous
    uint64_t most_held          # bytes
    bint leaks                  # are told
    bint ends                   # the process, at the first mistake
    uint32_t lock               # of what follows
    table_t table
    queue_t held                # RECORD_HELD
    queue_t gone                # RECORD_GONE


cdef inline debug_t *debug_of(heap_t *heap) noexcept nogil:
    return <debug_t *>heap.debug


cdef bint debug_wanted(uint32_t flags) noexcept nogil
cdef int debug_open(heap_t *heap) noexcept nogil
# Around a fork: after the locks of the heaps, whose holders may take these.
cdef void debug_prepare() noexcept nogil
cdef void debug_parent() noexcept nogil
cdef void debug_child() noexcept nogil
