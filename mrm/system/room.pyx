"""Which limit on a process's address space refused a mapping, in words.

mmap, mremap, mprotect and munmap say ENOMEM for two limits (RLIMIT_AS and
vm.max_map_count) and EAGAIN for a third (RLIMIT_MEMLOCK, after mlockall(MCL_FUTURE)).
For private memory that can be written to there is one more, which says ENOMEM too (RLIMIT_DATA,
since 4.7). Here they are looked at, and those that stand in the way are named with their
figures and the way out. It is asked after a refusal, so it may take its time; it makes
no call that could fail for the same reason. Where /proc is hidden the figures that only
it has are left out, and the limit is named as one that may be the one.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport strtoull

from mrm.system.calls cimport CALL_CLOSE, CALL_OPENAT, CALL_PREAD, call
from mrm.system.maps cimport maps_count, maps_limit
from mrm.system.pages cimport base_page


cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD, O_RDONLY, O_CLOEXEC

cdef extern from "<errno.h>" nogil:
    enum:
        EACCES, EAGAIN, ENOMEM, ENOSYS, EPERM

cdef extern from "<sys/resource.h>" nogil:
    struct rlimit:
        uint64_t rlim_cur
        uint64_t rlim_max
    enum:
        RLIMIT_AS, RLIMIT_DATA, RLIMIT_MEMLOCK
    uint64_t RLIM_INFINITY
    int getrlimit(int resource, rlimit *limit)


cdef enum:
    NEAR = 1024                 # mappings: closer to the limit than this, it is one to be named


cdef uint64_t _used(int field) noexcept nogil:
    """Bytes that this process has mapped, by a field of statm: 0, all; 5, private memory that can be written to, with
    the stack. 0 where /proc does not tell."""
    cdef char text[160]
    cdef char *at = text
    cdef const char *path = b"/proc/self/statm"
    cdef int64_t got
    cdef int64_t fd = call(CALL_OPENAT, AT_FDCWD, <int64_t>path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return 0
    got = call(CALL_PREAD, fd, <int64_t>text, sizeof(text) - 1, 0)
    call(CALL_CLOSE, fd)
    if got <= 0:
        return 0
    text[got] = 0
    while field:
        strtoull(at, &at, 10)
        field -= 1
    return <uint64_t>strtoull(at, NULL, 10) * base_page()


cdef int _say_limit(int which, size_t nbytes, char *text, size_t room) noexcept nogil:
    """RLIMIT_AS or RLIMIT_DATA, if it leaves less than ``nbytes``; how long the sentence is."""
    cdef rlimit limit
    cdef uint64_t used
    cdef const char *name = b"RLIMIT_AS" if which == RLIMIT_AS else b"RLIMIT_DATA"
    cdef const char *what = b"addresses" if which == RLIMIT_AS else b"private memory"
    cdef const char *way = b"ulimit -v" if which == RLIMIT_AS else b"ulimit -d"
    if getrlimit(which, &limit) != 0 or limit.rlim_cur == RLIM_INFINITY:
        return 0
    used = _used(0 if which == RLIMIT_AS else 5)
    if used and used <= limit.rlim_cur and limit.rlim_cur - used >= nbytes:
        return 0
    if used == 0:
        return snprintf(
            text, room, b" %s allows %llu MiB of %s: raise it (%s), or ask for less.",
            name, <unsigned long long>(limit.rlim_cur >> 20), what, way,
        )
    return snprintf(
        text, room, b" %s allows %llu MiB of %s, %llu MiB of them in use: raise it (%s), or ask for less.",
        name, <unsigned long long>(limit.rlim_cur >> 20), what, <unsigned long long>(used >> 20), way,
    )


cdef int _say_mappings(char *text, size_t room) noexcept nogil:
    """vm.max_map_count, if the process is near it or nobody can tell; how long the sentence is."""
    cdef int64_t count = maps_count(), limit = maps_limit()
    if count >= 0 and limit >= 0 and limit - count > NEAR:
        return 0
    if count < 0 or limit < 0:
        return snprintf(
            text, room, b" It may have as many mappings as vm.max_map_count allows (/proc is hidden, which would "
            b"tell): raise it, or map runs of contiguous frames.",
        )
    return snprintf(
        text, room, b" The process has %lld of the %lld mappings that vm.max_map_count allows: raise it "
        b"(sysctl vm.max_map_count=%lld), or map runs of contiguous frames.",
        <long long>count, <long long>limit, <long long>(2 * limit),
    )


cdef const char *why_refused(int error, size_t nbytes, char *text) noexcept nogil:
    """Sentences, each after a blank, in ``text`` of ``ROOM_TEXT`` bytes; "" when there is nothing to say.

    ``nbytes`` is how many addresses more were asked for; 0 for those that are there already.
    """
    cdef rlimit limit
    cdef int used = 0
    text[0] = 0
    if error == ENOMEM:
        if nbytes:
            used = _say_limit(RLIMIT_AS, nbytes, text, ROOM_TEXT)
        if used < ROOM_TEXT - 1:
            used += _say_mappings(text + used, <size_t>(ROOM_TEXT - used))
        if used == 0:
            snprintf(
                text, ROOM_TEXT, b" Neither RLIMIT_AS nor vm.max_map_count is near: the kernel is short of memory for "
                b"its own tables, on this machine or in this control group (memory.max).",
            )
    elif error == EAGAIN and getrlimit(RLIMIT_MEMLOCK, &limit) == 0:
        snprintf(
            text, ROOM_TEXT, b" The process locks what it maps (mlockall with MCL_FUTURE), and RLIMIT_MEMLOCK allows "
            b"%llu KiB of that: raise it (ulimit -l), or lock what is there only (MCL_CURRENT).",
            <unsigned long long>(limit.rlim_cur >> 10),
        )
    elif error == EPERM or error == EACCES or error == ENOSYS:
        snprintf(
            text, ROOM_TEXT, b" A filter of system calls (seccomp) or a security module refuses it: allow the call.",
        )
    return text


cdef const char *why_private_refused(int error, size_t nbytes, char *text) noexcept nogil:
    """The same of private memory that is to be written to."""
    if error == ENOMEM and _say_limit(RLIMIT_DATA, nbytes, text, ROOM_TEXT):
        return text
    return why_refused(error, nbytes, text)
