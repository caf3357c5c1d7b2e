"""What a pool is, its frames, and what is in them: the base of mrm.Pool that all others stand on."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef class Frames:
    cdef object __weakref__
    cdef pool_t *pool                   # NULL once closed
    cdef readonly object name
    cdef object funded                  # what funding told: Funded
    cdef dict pinned                    # exports by frame
    cdef pool_t *open_one(self) except NULL
    cdef int _check_unpinned(self, uint32_t *frames, size_t n) except -1


cdef dict FRAME_STATES                  # names by numbers
cdef uint32_t frame_of(Frames pool, object frame) except? 0xFFFFFFFF
cdef uint32_t number_of_frames(object n) except? 0xFFFFFFFF
