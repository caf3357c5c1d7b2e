"""The thread that clears free frames ahead of those who want zeros."""

from libc.stdint cimport uint32_t

from mrm.physical.frames cimport frames_t


cdef int zeroing_keep(frames_t *frames, uint32_t n) noexcept nogil
cdef void zeroing_end(frames_t *frames) noexcept nogil
