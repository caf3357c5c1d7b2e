"""A log as an array of calls."""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    CALL_MALLOC
    CALL_CALLOC
    CALL_ALIGNED
    CALL_REALLOC
    CALL_FREE
    CALL_KINDS

cdef enum:
    NO_BLOCK = 0xFFFFFFFF


cdef struct call_t:
    uint64_t address            # of the block; 0: there was no memory
    uint64_t nbytes             # asked for; of a free, what it had
    uint64_t was                # where a realloc found it
    uint64_t alignment
    double seconds              # since the log was opened
    uint64_t line               # offset of its line in the file
    uint32_t thread
    uint32_t block              # number of the block that it is about, by books
    uint8_t kind                # CALL_...


cdef class Calls:
    cdef call_t *call
    cdef readonly size_t n
    cdef readonly bint cut_off
    cdef bytes text
    cdef str name
    cdef str where(self, size_t i)
