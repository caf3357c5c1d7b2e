"""A block of a heap that Python owns: bytes that can be looked at, and grow in place."""

from libc.stddef cimport size_t

from mrm._bytes cimport Bytes
from mrm.heap.state cimport heap_t


cdef class Buffer(Bytes):
    pass                                # a field more, and the free list of Bytes would serve it no longer


cdef Buffer make_buffer(heap_t *heap, size_t nbytes, bint zero)
