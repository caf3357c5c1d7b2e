"""Accounts: opened, funded, limited, and looked at."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from mrm cimport mrm_account_options, mrm_account_stats
from mrm.physical.pool cimport pool_t


cdef int account_open(pool_t *pool, const mrm_account_options *options, uint32_t *account) noexcept nogil
cdef int account_find(pool_t *pool, const char *name, uint32_t *account) noexcept nogil
cdef int account_name(pool_t *pool, uint32_t account, char *name) noexcept nogil
cdef int account_close(pool_t *pool, uint32_t account) noexcept nogil
cdef int account_fund(pool_t *pool, uint32_t account, int64_t n) noexcept nogil
cdef int account_transfer(pool_t *pool, uint32_t source, uint32_t to, uint32_t n) noexcept nogil
cdef int account_limit(pool_t *pool, uint32_t account, uint64_t limit) noexcept nogil
cdef int account_credits(pool_t *pool, uint32_t account, const uint32_t *accounts, size_t n) noexcept nogil
cdef int account_flush(pool_t *pool, uint32_t account, int flags, uint32_t *flushed) noexcept nogil
cdef int account_stats(pool_t *pool, uint32_t account, mrm_account_stats *stats) noexcept nogil
cdef int account_reset_watermarks(pool_t *pool, uint32_t account) noexcept nogil
cdef int account_of(pool_t *pool, uint32_t frame, uint32_t *account) noexcept nogil
