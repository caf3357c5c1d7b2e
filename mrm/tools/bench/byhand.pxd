"""The kernel's own calls, made by hand: what lanes.c does, with no funnel and no books.

The lanes that others are compared with must not go through mrm, or its costs would
be on both sides of the comparison.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from mrm.system.pages cimport frame_bytes, sharing_span


cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, PROT_READ, PROT_WRITE
        MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED, MAP_POPULATE, MAP_HUGETLB
        MREMAP_MAYMOVE, MREMAP_FIXED
        MADV_DONTNEED, MADV_HUGEPAGE
    void *MAP_FAILED
    void *mmap(void *at, size_t nbytes, int prot, int flags, int fd, int64_t offset)
    int munmap(void *at, size_t nbytes)
    void *mremap(void *old, size_t old_size, size_t new_size, int flags, void *new)
    int madvise(void *at, size_t nbytes, int advice)

cdef extern from "<time.h>" nogil:
    enum:
        CLOCK_MONOTONIC
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int clock_gettime(int clock, timespec *time)


cdef inline size_t linked_span() noexcept nogil:
    """What one touch links in a view: all that a page table spans (a GiB), or a frame where none is shared."""
    return sharing_span() if sharing_span() else frame_bytes()


cdef inline int64_t now() noexcept nogil:
    """Nanoseconds."""
    cdef timespec time
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1000000000 + time.tv_nsec


cdef inline char *reserve(size_t nbytes, size_t past) noexcept nogil:
    """Addresses that trap, ``past`` bytes past a multiple of ``linked_span()``; NULL when there are none.

    They are never given back: a stale pointer of one lane then cannot fall into another.
    """
    cdef size_t span = linked_span()
    cdef void *start = mmap(
        NULL, nbytes + 2 * span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if start == MAP_FAILED:
        return NULL
    return <char *>(((<uintptr_t>start + span - 1) & ~<uintptr_t>(span - 1)) + past)


cdef inline int map_file(void *at, size_t nbytes, int fd, uint64_t offset, int extra) noexcept nogil:
    """Show a part of the file; 0 or ``-errno``."""
    cdef int flags = MAP_FIXED | MAP_SHARED | MAP_NORESERVE | extra
    return 0 if mmap(at, nbytes, PROT_READ | PROT_WRITE, flags, fd, offset) != MAP_FAILED else -errno


cdef inline int seal(void *at, size_t nbytes) noexcept nogil:
    """Make a range trap, in one invalidation, and keep its addresses; 0 or ``-errno``."""
    cdef int flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
    return 0 if mmap(at, nbytes, PROT_NONE, flags, -1, 0) != MAP_FAILED else -errno


cdef extern from *:
    """
    /* volatile, so that the compiler leaves no touch out; one that writes is for memory that is
     * nobody's yet. */
    static void mrm_touch(volatile char *at, size_t nbytes, size_t step, int write) {
        for (size_t i = 0; i < nbytes; i += step) {
            if (write) at[i] = 1;
            else (void)at[i];
        }
    }
    """
    # Read, or write, a byte every ``step`` bytes, so that the kernel links what is there.
    void touch "mrm_touch"(char *at, size_t nbytes, size_t step, bint write) nogil
