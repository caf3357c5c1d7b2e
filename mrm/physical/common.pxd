"""The common list: free frames that no account is charged for."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from mrm.physical.books cimport account_t
from mrm.physical.frames cimport frames_t


cdef enum:
    SOMEBODY = 0xFFFF           # a stack number that is no account's: contents that everybody has cleared


# Not thread-safe: frames_t.lock is held around each of these.
cdef void books_begin(frames_t *frames, account_t *account) noexcept nogil
cdef void books_end(frames_t *frames, account_t *account) noexcept nogil
cdef uint32_t common_take(
    frames_t *frames, uint32_t account, uint32_t *taken, uint32_t least, uint32_t n
) noexcept nogil
cdef int64_t common_take_run(frames_t *frames, uint32_t account, uint32_t n) noexcept nogil
# ... and what follows a take from the bitmap or the stock, by whoever else takes from there.
cdef void common_charge(frames_t *frames, uint32_t account, const uint32_t *taken, uint32_t n) noexcept nogil
cdef void common_charge_run(frames_t *frames, uint32_t account, uint32_t first, uint32_t n) noexcept nogil
cdef void common_give(frames_t *frames, const uint32_t *given, size_t n, bint is_run, bint is_one_owners) noexcept nogil
cdef void common_refill(frames_t *frames) noexcept nogil
cdef void common_add(frames_t *frames, const uint32_t *free, size_t n) noexcept nogil
cdef void common_return(frames_t *frames, uint32_t account, uint32_t *popped, size_t n) noexcept nogil
cdef uint32_t common_exchange(frames_t *frames, uint32_t account, uint32_t popped) noexcept nogil
cdef uint32_t flush_stacks(frames_t *frames, uint32_t account) noexcept nogil
cdef uint32_t in_stacks(const frames_t *frames, uint32_t account) noexcept nogil
