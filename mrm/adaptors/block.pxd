"""A block with the buffer protocol, and what lies below a stack of adaptors."""

from mrm.heap.state cimport heap_t


cdef heap_t *heap_below(object heap) except? NULL
