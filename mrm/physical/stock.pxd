"""The stock: free frames that a thread clears ahead of those who want zeros."""

from libc.stdint cimport uint32_t

from mrm.physical.frames cimport frames_t


cdef int stock_open(frames_t *frames) noexcept nogil
cdef void stock_close(frames_t *frames) noexcept nogil

# Not thread-safe: frames_t.lock is held around each of these. Pause and withdraw let it go
# for as long as the thread has a frame in hand, and want a resume.
cdef void stock_refill(frames_t *frames, bint whole) noexcept nogil
# place is that of a node in frames.nodes, or 0 where there are none.
cdef uint32_t stock_take(frames_t *frames, uint32_t place, uint32_t *taken, uint32_t n) noexcept nogil
cdef uint32_t stock_take_clean(frames_t *frames, uint32_t place) noexcept nogil
cdef uint32_t stock_place(const frames_t *frames, uint32_t frame) noexcept nogil
cdef void stock_pause(frames_t *frames) noexcept nogil
cdef void stock_withdraw(frames_t *frames) noexcept nogil
cdef void stock_resume(frames_t *frames) noexcept nogil

# The thread's own, without the lock: a dirty frame in its hand, or NO_FRAME, and back.
cdef uint32_t stock_begin(frames_t *frames) noexcept nogil
cdef void stock_end(frames_t *frames, uint32_t frame, bint cleared) noexcept nogil
