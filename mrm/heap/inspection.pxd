"""Looking at all of a heap that looks for mistakes."""

from libc.stdint cimport uint64_t

from mrm.heap.state cimport heap_t
from mrm.heap.traces cimport text_t


cdef int heap_check(heap_t *heap, uint64_t *blocks) noexcept nogil
cdef void inspect_trim(heap_t *heap) noexcept nogil
cdef void inspect_ending(heap_t *heap) noexcept nogil
cdef void debug_explain(heap_t *heap, const void *address, text_t *text) noexcept nogil
