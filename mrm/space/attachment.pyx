"""Addresses of another process's frames: one mapping of the whole file, and no books.

It is mapped as a view is: in a range of its own at low addresses, aligned and lengthened so
that page tables can be shared, with the same advice. So writable attachments to a pool of
huge pages can share its page tables, as those for reading only can among themselves: the
kernel asks for the same flags, not for the same process. What is touched are pages that are
there, so no touch can fail, as long as the owner gives none back.

NORESERVE, as the frames are funded by their owner. Never longer than the file and
writable at once, which would lengthen a file of huge pages (pool.pyx).

No descriptor is kept: the mapping holds the file open, and the locks of that open file.

After fork the child has no attachment, as it has no pool: the range is sealed.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from mrm cimport MRM_NO_MEMORY, MRM_OK, MRM_SYSTEM_CALL
from mrm.system.calls cimport CALL_MADVISE, CALL_MMAP, CALL_MPROTECT, advise, call, map_file
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.pages cimport base_page, sharing_span
from mrm.system.ranges cimport RANGE_ATTACHED, STATE_FORKED, STATE_OPEN, range_release, range_reserve
from mrm.system.room cimport ROOM_TEXT, why_refused


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ, PROT_WRITE, MAP_SHARED, MAP_FIXED, MAP_NORESERVE, MADV_DONTFORK, MADV_DONTDUMP

cdef extern from "<string.h>" nogil:
    char *strerror(int error)


cdef int _map(attachment_t *a, int fd, size_t nbytes, size_t whole) noexcept nogil:
    """Show every frame."""
    cdef int protection = PROT_READ | PROT_WRITE if a.writable else PROT_READ
    cdef int what = CALL_MMAP
    cdef char text[ROOM_TEXT]
    cdef int64_t got = map_file(
        a.base, whole, protection if whole == nbytes else PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0
    )
    if got > 0 and a.writable and whole != nbytes:
        what = CALL_MPROTECT
        got = call(CALL_MPROTECT, <int64_t>a.base, <int64_t>whole, protection)
    if got >= 0:
        what = CALL_MADVISE
        got = advise(a.base, whole, MADV_DONTFORK)
    if got >= 0:
        got = advise(a.base, whole, MADV_DONTDUMP)
    if got >= 0:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_SYSTEM_CALL, what, <int>-got, a.base, whole,
        b"cannot map the %zu bytes of the frames that are attached to at %p (%s).%s",
        whole, a.base, strerror(<int>-got), why_refused(<int>-got, 0, text),
    )


cdef int attachment_open(
    attachment_t **opened, int fd, bint huge, uint32_t frame_count, uint32_t frame_shift, bint writable
) noexcept nogil:
    """Map the frames in ``fd``, which stays the caller's and may be closed afterwards."""
    cdef size_t nbytes = <size_t>frame_count << frame_shift
    cdef size_t span = sharing_span() if huge else 0
    cdef size_t whole = (nbytes + span - 1) & ~(span - 1) if span else nbytes
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
    status = _map(a, fd, nbytes, whole)
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
