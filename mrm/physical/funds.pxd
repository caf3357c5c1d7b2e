"""Funds: made, moved between, and looked at."""

from libc.stdint cimport uint32_t

from mrm cimport mrm_fund_stats
from mrm.physical.frames cimport frames_t
from mrm.physical.pool cimport pool_t


cdef enum:
    NONE = 0xFFFFFFFF           # no fund, or no account, of that name


cdef int refuse_number(const char *what, uint32_t number) noexcept nogil
cdef int check_name(const char *what, const char *name) noexcept nogil

cdef int fund_open(pool_t *pool, const char *name, uint32_t *fund) noexcept nogil
cdef const char *fund_name(pool_t *pool, uint32_t fund) noexcept nogil
cdef int fund_transfer(pool_t *pool, uint32_t source, uint32_t to, uint32_t n) noexcept nogil
cdef int fund_stats(pool_t *pool, uint32_t number, mrm_fund_stats *stats) noexcept nogil

# Not thread-safe: frames_t.lock is held around each of these.
cdef uint32_t find_fund(const frames_t *frames, const char *name) noexcept nogil
cdef void free_promises(frames_t *frames, uint32_t fund, uint32_t wanted) noexcept nogil
cdef int refuse_fund(const frames_t *frames, uint32_t number, uint32_t n, uint32_t has) noexcept nogil
