"""What a lane is: one way to relocate pages, driven for a given time."""

from libc.stdint cimport int64_t


cdef class Lane:
    cdef readonly int fd            # file of the frames that are relocated
    cdef readonly size_t frames     # how many there are
    cdef readonly size_t step       # bytes between touches that link everything

    cdef int64_t cycle(self) noexcept nogil
    cdef void settle(self) noexcept nogil
