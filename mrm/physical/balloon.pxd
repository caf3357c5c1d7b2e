"""The balloon: frames whose memory went back to the kernel, and how it comes again."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef uint32_t balloon_frames(pool_t *pool) noexcept nogil
cdef int balloon_inflate(pool_t *pool, uint32_t n, uint32_t *done) noexcept nogil
cdef int balloon_refuse(pool_t *pool, uint32_t n, uint32_t done) noexcept nogil
cdef int pool_deflate(pool_t *pool, uint32_t n, uint32_t *done) noexcept nogil
