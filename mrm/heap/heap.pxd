"""A heap: opened, closed, and known to fork."""

from libc.stdint cimport uint32_t

from mrm cimport mrm_heap_options
from mrm.heap.state cimport heap_t
from mrm.physical.pool cimport pool_t


cdef int heap_open(pool_t *pool, const mrm_heap_options *options, heap_t **opened) noexcept nogil
cdef void heap_retain(heap_t *heap) noexcept nogil
cdef int heap_release(heap_t *heap) noexcept nogil
cdef bint heap_owns(heap_t *heap, const void *address) noexcept nogil
