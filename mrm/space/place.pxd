"""What an address is: for signal handlers, and for anyone who holds a pointer."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "mrm/mrm.h" nogil:
    ctypedef struct mrm_place:
        uint32_t kind
        uint32_t state
        uint32_t pool
        uint32_t number
        uint32_t frame
        uint32_t frame_state
        uint32_t slot
        uint32_t protection
        uint64_t offset


cdef void classify(const void *address, mrm_place *place) noexcept nogil
