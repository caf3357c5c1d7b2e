"""Frames whose memory is broken: found, and kept out of use."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef int pool_quarantine(pool_t *pool, uint32_t frame) noexcept nogil
cdef int pool_scan(pool_t *pool, uint32_t *broken, size_t *n) noexcept nogil
