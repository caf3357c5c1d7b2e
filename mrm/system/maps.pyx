"""/proc/self/maps without the GIL: how many mappings there are, and what one range shows.

Read rarely: when a commit may come near vm.max_map_count, and when a call and its
undoing have both failed, so that the tables must be made to agree with the kernel's.
A line takes the kernel about 0.3 us to write.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc, strtoull
from libc.string cimport memchr, memmove

from mrm.system.calls cimport CALL_CLOSE, CALL_OPENAT, CALL_PREAD, call


cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD, O_RDONLY, O_CLOEXEC

cdef extern from "<errno.h>" nogil:
    enum:
        ENOENT, ENOMEM

cdef enum:
    CHUNK = 65536


cdef int64_t _open(const char *path) noexcept nogil:
    return call(CALL_OPENAT, AT_FDCWD, <int64_t>path, O_RDONLY | O_CLOEXEC)


cdef int64_t maps_limit() noexcept nogil:
    """vm.max_map_count, or ``-errno`` where /proc does not tell: then only the kernel knows."""
    cdef char text[32]
    cdef int64_t got = 0
    cdef int64_t fd = _open(b"/proc/sys/vm/max_map_count")
    if fd >= 0:
        got = call(CALL_PREAD, fd, <int64_t>text, sizeof(text) - 1, 0)
        call(CALL_CLOSE, fd)
    if fd < 0 or got <= 0:
        return fd if fd < 0 else -ENOENT
    text[got] = 0
    return <int64_t>strtoull(text, NULL, 10)


cdef int64_t maps_count() noexcept nogil:
    """Mappings that this process has, or ``-errno``."""
    cdef int64_t lines = 0, got, offset = 0
    cdef char *at
    cdef char *end
    cdef int64_t fd = _open(b"/proc/self/maps")
    cdef char *text = <char *>malloc(CHUNK)
    if fd < 0 or text == NULL:
        free(text)
        if fd >= 0:
            call(CALL_CLOSE, fd)
        return fd if fd < 0 else -ENOMEM
    while True:
        got = call(CALL_PREAD, fd, <int64_t>text, CHUNK, offset)
        if got <= 0:
            break
        offset += got
        at = text
        end = text + got
        while True:
            at = <char *>memchr(at, c'\n', end - at)
            if at == NULL:
                break
            lines += 1
            at += 1
    free(text)
    call(CALL_CLOSE, fd)
    return got if got < 0 else lines


cdef mapping_t _parse(char *line) noexcept nogil:
    """One line: ``start-end rwxp offset major:minor inode path``."""
    cdef mapping_t m
    cdef char *at
    m.start = strtoull(line, &at, 16)
    m.end = strtoull(at + 1, &at, 16)
    m.protection = (1 if at[1] == c'r' else 0) | (2 if at[2] == c'w' else 0)
    m.offset = strtoull(at + 6, &at, 16)
    while at[0] == c' ':
        at += 1
    while at[0] != c' ' and at[0] != 0:
        at += 1
    m.inode = strtoull(at, NULL, 10)
    return m


cdef int64_t maps_within(uint64_t start, uint64_t end, mapping_t *found, size_t room) noexcept nogil:
    """The mappings that touch [start, end), lowest first: how many there are, or ``-errno``.

    No more than ``room`` of them are written to ``found``.
    """
    cdef int64_t n = 0, got, offset = 0
    cdef size_t kept = 0
    cdef char *at
    cdef char *newline
    cdef mapping_t m
    cdef int64_t fd = _open(b"/proc/self/maps")
    cdef char *text = <char *>malloc(CHUNK)
    if fd < 0 or text == NULL:
        free(text)
        if fd >= 0:
            call(CALL_CLOSE, fd)
        return fd if fd < 0 else -ENOMEM
    while True:
        got = call(CALL_PREAD, fd, <int64_t>(text + kept), CHUNK - kept, offset)
        if got <= 0:
            break
        offset += got
        kept += got
        at = text
        while True:
            newline = <char *>memchr(at, c'\n', text + kept - at)
            if newline == NULL:
                break
            newline[0] = 0
            m = _parse(at)
            if m.start < end and m.end > start:
                if <size_t>n < room:
                    found[n] = m
                n += 1
            at = newline + 1
        kept = text + kept - at
        memmove(text, at, kept)
    free(text)
    call(CALL_CLOSE, fd)
    return got if got < 0 else n
