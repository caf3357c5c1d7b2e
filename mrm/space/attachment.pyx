"""Addresses of another process's frames: one mapping of the whole file, and no books.

It is mapped as a view is (physical/whole.pyx): in a range of its own at low addresses, aligned and
lengthened so that page tables can be shared, with the same advice. So writable attachments to a pool of
huge pages can share its page tables, as those for reading only can among themselves: the
kernel asks for the same flags, not for the same process. What is touched are pages that are
there, so no touch can fail, as long as the owner gives none back.

No descriptor is kept: the mapping holds the file open, and the locks of that open file.

After fork the child has no attachment, as it has no pool: the range is sealed.
"""

from libc.stdlib cimport calloc, free

from mrm cimport MRM_NO_MEMORY, MRM_OK
from mrm.physical.whole cimport map_whole_file, whole_bytes
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.pages cimport base_page, sharing_span
from mrm.system.ranges cimport RANGE_ATTACHED, STATE_FORKED, STATE_OPEN, range_release, range_reserve


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)


cdef int attachment_open(
    attachment_t **opened, int fd, bint huge, uint32_t frame_count, uint32_t frame_shift, bint writable
) noexcept nogil:
    """Map the frames in ``fd``, which stays the caller's and may be closed afterwards."""
    cdef size_t nbytes = <size_t>frame_count << frame_shift
    cdef size_t whole = whole_bytes(nbytes, huge)
    cdef size_t span = sharing_span() if huge else 0
    cdef int status
    cdef attachment_t *a = <attachment_t *>calloc(1, sizeof(attachment_t))
    if a == NULL:
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(attachment_t), b"no memory for an attachment's own tables"
        )
    a.state = STATE_OPEN
    a.frame_count = frame_count
    a.frame_shift = frame_shift
    a.writable = writable
    a.arena = range_reserve(
        whole, max(span, <size_t>1 << frame_shift, <size_t>base_page()), 0, RANGE_ATTACHED, &a.state, NULL, a
    )
    if a.arena == NULL:
        status = failure().status
        free(a)
        return status
    a.base = <char *>a.arena.base
    status = map_whole_file(fd, a.base, nbytes, whole, writable, False)
    if status != MRM_OK:
        if range_release(a.arena) == MRM_OK:
            free(a)
        return status
    opened[0] = a
    return MRM_OK


cdef int attachment_close(attachment_t *a) noexcept nogil:
    """Give the addresses back; if that fails, nothing is changed. In a child they stay sealed."""
    cdef int status
    if mrm_load32(&a.state) == STATE_FORKED:
        return MRM_OK
    status = range_release(a.arena)
    if status == MRM_OK:
        free(a)
    return status
