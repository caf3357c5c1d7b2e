"""What mrm.Buffer and an adaptor's Block have in common: bytes that can be looked at, and stay while they are."""

from cpython.exc cimport PyErr_Clear
from libc.stddef cimport size_t

from mrm.heap.state cimport heap_t


cdef extern from "Python.h":
    Py_ssize_t PyLong_AsSsize_t(object n) noexcept      # what is wrong is told by size_checked

cdef class Bytes:
    cdef heap_t *heap                   # retained, or NULL
    cdef void *block
    cdef Py_ssize_t nbytes
    cdef Py_ssize_t exports             # buffers that look at it: it neither moves nor goes; -1: it is moving

    # What each kind says for itself.
    cdef str _title(self)
    cdef bint _gone(self) noexcept
    cdef int _change(self, size_t nbytes) except -1
    cdef int _end(self) except -1

    cdef str _word(self)
    cdef int _check(self) except -1
    cdef int _check_unseen(self, str what) except -1


cdef void give_back(Bytes self) noexcept nogil
cdef size_t size_checked(object n) except? 0xFFFFFFFFFFFFFFFF


# In the caller's module: a call between modules is much of what a small block costs.
cdef inline size_t size_of(object n) except? 0xFFFFFFFFFFFFFFFF:
    """Bytes, checked."""
    cdef Py_ssize_t nbytes
    if type(n) is int:
        nbytes = PyLong_AsSsize_t(n)
        if nbytes >= 0:
            return <size_t>nbytes
        PyErr_Clear()           # OverflowError, where it is out of all bounds
    return size_checked(n)
