"""How much of this process lies on huge pages, looked at before memory is given back.

When a program has ended, most of what it used is gone, and what lay on huge pages cannot be
told any more. So whoever is about to give memory back says how much there is, and if that is a quarter more than
when somebody last looked, /proc/self/smaps_rollup (Linux 4.14) is read first: the same figures as
smaps, added up. A program that grows to a GiB is looked at a dozen times, for a fraction of a
millisecond each where its pages are huge. Off unless asked for, as by ``mrm run``.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport strtoull
from libc.string cimport strlen, strstr

from mrm.system.calls cimport CALL_CLOSE, CALL_OPENAT, CALL_PREAD, call


cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD, O_RDONLY, O_CLOEXEC

cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    bint mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)


cdef enum:
    TEXT = 2048                 # bytes: it has some 25 lines of 28

cdef uint32_t watching = 0
cdef uint64_t last_looked = 0   # at so many bytes
cdef uint64_t most = 0          # resident, when most was
cdef uint64_t most_huge = 0     # ... and of these on huge pages


cdef uint64_t figure(const char *text, const char *name) noexcept nogil:
    """A line's figure, in bytes; 0 when there is none."""
    cdef const char *at = strstr(text, name)
    return strtoull(at + strlen(name), NULL, 10) << 10 if at != NULL else 0


cdef void look() noexcept nogil:
    """Read the figures, and keep them if there was never more."""
    global most, most_huge
    cdef char text[TEXT]
    cdef uint64_t resident, huge
    cdef const char *path = b"/proc/self/smaps_rollup"
    cdef int64_t got
    cdef int64_t fd = call(CALL_OPENAT, AT_FDCWD, <int64_t>path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return
    got = call(CALL_PREAD, fd, <int64_t>text, TEXT - 1, 0)
    call(CALL_CLOSE, fd)
    if got <= 0:
        return
    text[got] = 0
    huge = figure(text, b"\nShared_Hugetlb:") + figure(text, b"\nPrivate_Hugetlb:")
    resident = figure(text, b"\nRss:") + huge
    huge += figure(text, b"\nAnonHugePages:") + figure(text, b"\nShmemPmdMapped:") + figure(text, b"\nFilePmdMapped:")
    if resident > most:
        most = resident
        most_huge = huge


cdef void rollup_before_less(uint64_t nbytes) noexcept nogil:
    """Somebody who has so many bytes is about to give some back."""
    cdef uint64_t before = mrm_load64(&last_looked)
    if watching and nbytes > before + before // 4 and mrm_cas64(&last_looked, &before, nbytes):
        look()


def watch():
    """Look from now on."""
    global watching
    watching = 1


def largest():
    """Bytes resident when most was, and of these on huge pages: now, or at one of the looks."""
    look()
    return most, most_huge
