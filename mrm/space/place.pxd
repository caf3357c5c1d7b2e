"""What an address is: for signal handlers, and for anyone who holds a pointer."""

from libc.stdint cimport uint32_t, uint64_t

from mrm cimport mrm_place


cdef void classify(const void *address, mrm_place *place) noexcept nogil
