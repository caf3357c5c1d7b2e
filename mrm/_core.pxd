"""The pool as Python sees it; what ``cimport mrm`` gives."""

from mrm._economy cimport Economy


cdef class Pool(Economy):
    cdef readonly object numa_node      # what it was asked to be on, or None
