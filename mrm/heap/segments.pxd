"""Where segments come from, and go back to."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mrm.heap.page cimport segment_t
from mrm.heap.state cimport heap_t


cdef segment_t *segment_take(heap_t *heap) noexcept nogil
cdef void segment_give(heap_t *heap, segment_t *segment) noexcept nogil
cdef uint64_t segments_trim(heap_t *heap) noexcept nogil
cdef bint heap_charge(heap_t *heap, uint64_t nbytes) noexcept nogil
cdef void heap_uncharge(heap_t *heap, uint64_t nbytes) noexcept nogil
