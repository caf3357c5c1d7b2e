"""A block of a heap that Python owns: bytes that can be looked at, and grow in place."""

from mrm.heap.state cimport heap_t


cdef class Buffer:
    cdef heap_t *heap                   # retained; NULL once freed
    cdef void *block
    cdef Py_ssize_t nbytes
    cdef Py_ssize_t exports             # buffers that look at it: it neither moves nor goes; -1: it is moving
    cdef int _check(self) except -1
    cdef int _check_still(self) except -1
    cdef int _check_unseen(self, what) except -1


cdef size_t size_of(object n) except? 0xFFFFFFFFFFFFFFFF
cdef Buffer make_buffer(heap_t *heap, size_t nbytes, bint zero)
