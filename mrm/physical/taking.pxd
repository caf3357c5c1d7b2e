"""Taking and giving, as callers do it: whose the pool is, who pays, and what is done about a shortage."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef int pool_take(pool_t *pool, uint32_t *frame) noexcept nogil
cdef int pool_take_many(pool_t *pool, uint32_t *frames, size_t n) noexcept nogil
cdef int pool_take_run(pool_t *pool, uint32_t n, uint32_t *first) noexcept nogil
cdef int pool_give(pool_t *pool, uint32_t frame, int reuse) noexcept nogil
cdef int pool_give_many(pool_t *pool, const uint32_t *frames, size_t n, int reuse) noexcept nogil
cdef int account_take(pool_t *pool, uint32_t account, int how, uint32_t *frame) noexcept nogil
cdef int account_take_many(pool_t *pool, uint32_t account, int how, uint32_t *frames, size_t n) noexcept nogil
cdef int account_take_run(pool_t *pool, uint32_t account, int how, uint32_t n, uint32_t *first) noexcept nogil
cdef int pool_keep_zeroed(pool_t *pool, uint32_t n) noexcept nogil
cdef int pool_on_shortage(pool_t *pool, void *call, void *context) noexcept nogil
