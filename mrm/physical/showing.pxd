"""What reservations do to frames: counts of the slots that show one, and what strict frames wait for."""

from libc.stdint cimport uint32_t, uint64_t

from mrm.physical.frames cimport ONE_MAPPING, frames_t


cdef enum:
    MAX_MAPPINGS = 0xFFFF       # live mappings of one frame
    MAX_PENDING = 0xFFFF        # deferred aliases of one frame


# What a reservation does to a frame that it shows, which therefore cannot be given. A
# deferred alias is counted from defer to settle, the slot until unmap. Thread-safe.
cdef int frames_map(frames_t *frames, uint32_t frame) noexcept nogil
cdef void frames_unmap(frames_t *frames, uint32_t frame) noexcept nogil
cdef int frames_defer(frames_t *frames, uint32_t frame) noexcept nogil
cdef int frames_look(frames_t *frames, uint32_t frame, bint *counted) noexcept nogil
cdef void frames_settle(frames_t *frames, uint32_t frame) noexcept nogil

# Around an invalidation of all that was unmapped before `begin`; a retire that fails
# leaves out `end`.
cdef uint64_t frames_retire_begin(frames_t *frames) noexcept nogil
cdef void frames_retire_end(frames_t *frames, uint64_t begun) noexcept nogil
