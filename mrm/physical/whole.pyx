"""One mapping of a whole file of frames, as the window, every view and every attachment are.

The kernel shares page tables only between mappings that cover whole aligned spans (a GiB, where
base pages have 4 KiB), and links such a span by one entry. So a mapping ends on one, even if the
file does not. The part beyond the file traps (SIGBUS). A writable mapping of hugetlbfs would
make the file longer, up to the mapping's end, and a touch there would take a huge page
that nobody funded; so such a mapping is made read-only and made writable afterwards,
which does not lengthen the file.

All carry the same advice, since only mappings with the same flags share page tables: not copied
by fork, and not in core dumps. NORESERVE, as the frames are funded.
"""

from libc.stdint cimport int64_t

from mrm cimport MRM_OK, MRM_SYSTEM_CALL
from mrm.system.calls cimport CALL_MADVISE, CALL_MMAP, CALL_MPROTECT, advise, call, map_file
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.pages cimport sharing_span
from mrm.system.room cimport ROOM_TEXT, why_refused


cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ, PROT_WRITE, MAP_SHARED, MAP_FIXED, MAP_NORESERVE, MADV_DONTFORK, MADV_DONTDUMP

cdef extern from "<string.h>" nogil:
    char *strerror(int error)


cdef size_t whole_bytes(size_t nbytes, bint huge) noexcept nogil:
    """How long a mapping of so many bytes of frames is, so that it can share page tables."""
    cdef size_t span = sharing_span() if huge else 0
    return (nbytes + span - 1) & ~(span - 1) if span else nbytes


cdef int map_whole_file(int fd, char *at, size_t nbytes, size_t whole, bint writable, bint dumped) noexcept nogil:
    """Show all ``nbytes`` of a file at ``at``, by a mapping of ``whole`` bytes."""
    cdef int protection = PROT_READ | PROT_WRITE if writable else PROT_READ
    cdef int what = CALL_MMAP
    cdef char text[ROOM_TEXT]
    cdef int64_t got = map_file(
        at, whole, protection if whole == nbytes else PROT_READ, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0
    )
    if got > 0 and writable and whole != nbytes:
        what = CALL_MPROTECT
        got = call(CALL_MPROTECT, <int64_t>at, <int64_t>whole, protection)
    if got >= 0:
        what = CALL_MADVISE
        got = advise(at, whole, MADV_DONTFORK)
    if got >= 0 and not dumped:
        got = advise(at, whole, MADV_DONTDUMP)
    if got >= 0:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_SYSTEM_CALL, what, <int>-got, at, whole,
        b"cannot map all frames, %zu bytes at %p (%s).%s", whole, at, strerror(<int>-got),
        why_refused(<int>-got, 0, text),
    )
