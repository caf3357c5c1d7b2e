"""Frames that are held from the pool's first moment on."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from mrm.physical.frames cimport frames_t


cdef void frames_hold_first(frames_t *frames, uint32_t n, const uint32_t *holes, size_t count) noexcept nogil
cdef void frames_bring(frames_t *frames, uint32_t first, uint32_t n) noexcept nogil
