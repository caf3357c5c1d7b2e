"""One mapping of a whole file of frames, as the window, every view and every attachment are."""

from libc.stddef cimport size_t


cdef size_t whole_bytes(size_t nbytes, bint huge) noexcept nogil
cdef int map_whole_file(int fd, char *at, size_t nbytes, size_t whole, bint writable, bint dumped) noexcept nogil
