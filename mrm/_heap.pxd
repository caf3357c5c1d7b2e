"""A heap as Python sees it."""

from mrm._core cimport Pool
from mrm.heap.state cimport heap_t


cdef class Heap:
    cdef object __weakref__
    cdef heap_t *heap                   # NULL once closed
    cdef readonly object source         # the Pool or Account that its memory is of, or None
    cdef readonly object name
    cdef heap_t *open_one(self) except NULL
    cdef object _damage(self)
