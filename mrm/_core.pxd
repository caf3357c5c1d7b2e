"""The pool as Python sees it; what ``cimport mrm`` gives."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef class Pool:
    cdef object __weakref__
    cdef pool_t *pool                   # NULL once closed
    cdef readonly object name
    cdef object funded                  # what funding told: Funded
    cdef readonly object numa_node      # what it was asked to be on, or None
    cdef object scaler                  # an Autoscaler, or None
    cdef object keeper                  # of settings that were changed for it, or None
    cdef dict pinned                    # exports by frame
    cdef pool_t *open_one(self) except NULL
    cdef list _mappings(self, pool_t *pool, uint32_t f)
    cdef int _check_unpinned(self, uint32_t *frames, size_t n) except -1
