"""Inflating, with what old addresses still show retired first."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef int pool_inflate(pool_t *pool, uint32_t n, int flags, uint32_t *done) noexcept nogil
