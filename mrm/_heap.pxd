"""A heap as Python sees it."""

from mrm._blocks cimport Blocks


cdef class Heap(Blocks):
    cdef readonly object source         # the Pool or Account that its memory is of, or None
    cdef readonly object name
    cdef object _damage(self)
