"""Every system call that mrm makes, by one funnel that a script can make fail."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    CALL_NONE = 0
    CALL_MMAP
    CALL_MUNMAP
    CALL_MREMAP
    CALL_MPROTECT
    CALL_MADVISE
    CALL_MEMFD_CREATE
    CALL_OPENAT
    CALL_CLOSE
    CALL_FTRUNCATE
    CALL_FALLOCATE
    CALL_FSTATFS
    CALL_PREAD
    CALL_MBIND
    CALL_GET_MEMPOLICY
    CALL_SET_MEMPOLICY
    CALL_MOVE_PAGES
    CALL_PERF_EVENT_OPEN
    CALL_IOCTL
    CALL_USERFAULTFD
    CALL_PKEY_ALLOC
    CALL_PKEY_FREE
    CALL_UNLINKAT
    CALL_MINCORE
    CALL_SCHED_SETSCHEDULER
    CALL_FLOCK
    CALL_FCNTL
    CALL_FCHMOD
    CALL_WRITE
    CALL_RT_SIGPROCMASK
    CALL_PRCTL
    CALLS


# The result of the call, or -errno.
cdef int64_t call(
    int which, int64_t a=*, int64_t b=*, int64_t c=*, int64_t d=*, int64_t e=*, int64_t f=*
) noexcept nogil

# The calls of address space, with types.
cdef int64_t map_file(void *at, size_t nbytes, int prot, int flags, int fd, uint64_t offset) noexcept nogil
cdef int64_t seal(void *at, size_t nbytes) noexcept nogil
cdef int64_t advise(void *at, size_t nbytes, int advice) noexcept nogil
# ... and of files; interrupted by a signal, it goes on.
cdef int64_t fallocate(int fd, int mode, uint64_t offset, uint64_t nbytes) noexcept nogil

cdef const char *call_name(int which) noexcept nogil
cdef uint64_t calls_made() noexcept nogil
cdef bint is_fake() noexcept nogil
