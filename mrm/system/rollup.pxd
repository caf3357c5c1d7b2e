"""How much of this process lies on huge pages, looked at before memory is given back."""

from libc.stdint cimport uint64_t


cdef void rollup_before_less(uint64_t nbytes) noexcept nogil
