"""A heap that finds its callers' mistakes."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from mrm.heap.state cimport heap_t
from mrm.heap.traces cimport text_t


cdef bint debug_wanted(uint32_t flags) noexcept nogil
cdef int debug_open(heap_t *heap) noexcept nogil
cdef int heap_check(heap_t *heap, uint64_t *blocks) noexcept nogil
cdef void debug_explain(heap_t *heap, const void *address, text_t *text) noexcept nogil
