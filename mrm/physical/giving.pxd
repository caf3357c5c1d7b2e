"""Giving frames back to the free lists."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from mrm.physical.frames cimport frames_t


# Thread-safe; giving one frame takes no lock while its stack is not deep.
cdef int frames_give(frames_t *frames, uint32_t frame, int reuse) noexcept nogil
cdef int frames_give_many(frames_t *frames, const uint32_t *given, size_t n, int reuse) noexcept nogil
