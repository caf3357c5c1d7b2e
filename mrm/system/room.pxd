"""Which limit on a process's address space refused a mapping, in words."""


cdef enum:
    ROOM_TEXT = 400


cdef const char *why_refused(int error, size_t nbytes, char *text) noexcept nogil
cdef const char *why_private_refused(int error, size_t nbytes, char *text) noexcept nogil
