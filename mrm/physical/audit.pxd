"""The frames counted, and the proof that none is lost."""

from mrm.physical.frames cimport frame_counts_t, frames_t


cdef void frames_count(const frames_t *frames, frame_counts_t *counts) noexcept nogil
cdef int frames_audit(frames_t *frames, frame_counts_t *counts) noexcept nogil
