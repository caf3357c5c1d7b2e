"""A heap that finds its callers' mistakes."""

from mrm.heap.state cimport heap_t


cdef int debug_open(heap_t *heap) noexcept nogil
