"""The classes that Python sees, for code that has a Store and goes on without the GIL."""

from libc.stdint cimport uint32_t

from larder.layout cimport object_t
from larder.space cimport space_t


cdef class Store:
    cdef space_t *space
    cdef readonly object pool
    cdef unsigned int generation

    cdef space_t *open_one(self) except NULL
    cdef Ref refer(self)


cdef int check(int status) except -1


cdef class Ref:
    cdef Store owner
    cdef uint32_t root

    cdef object_t *here(self) except NULL
    cdef uint32_t index(self, Py_ssize_t i) except? 0xFFFFFFFF
