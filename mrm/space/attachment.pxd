"""Addresses of another process's frames."""

from libc.stdint cimport uint32_t

from mrm.system.ranges cimport range_t


cdef struct attachment_t:
    uint32_t state              # STATE_OPEN, or STATE_FORKED in a child
    uint32_t frame_count
    uint32_t frame_shift
    bint writable
    char *base                  # address of frame 0
    range_t *arena


cdef int attachment_open(
    attachment_t **opened, int fd, bint huge, uint32_t frame_count, uint32_t frame_shift, bint writable
) noexcept nogil
cdef int attachment_close(attachment_t *a) noexcept nogil
