"""What an address is, and what shows a frame."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef list mappings(pool_t *pool, uint32_t f)
