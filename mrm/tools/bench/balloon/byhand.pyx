"""The kernel's own rate: a file like a pool's, filled and punched by the plain calls.

What ours is compared with must be the best that the kernel has to offer, or the comparison
flatters: so there are several ways to fill (MADV_POPULATE_WRITE, which brings page tables too,
or fallocate, which brings the pages alone and lets in one thread at a time), and parts of
several sizes; the run tries them all, and takes what is fastest. Threads are of the C
library, the caller is one of them, and between two parts there is no Python, no lock and
no book: an atomic addition says which part is next.
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint64_t, uintptr_t
from posix.types cimport off_t

from mrm.tools.bench.byhand cimport MADV_HUGEPAGE, madvise, map_file, now, reserve, seal


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)

cdef extern from "<fcntl.h>" nogil:
    int fallocate(int fd, int mode, off_t offset, off_t nbytes)

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, const void *attributes, void *(*start)(void *) noexcept, void *given)
    int pthread_join(pthread_t thread, void **result)


cdef enum:
    ADVICE_POPULATE_WRITE = 23  # older headers do not know it
    KEEP_SIZE = 1               # FALLOC_FL_...
    PUNCH_HOLE = 2
    MOST_THREADS = 64
    WAY_POPULATE = 1
    WAY_FALLOCATE = 2
    WAY_PUNCH = 3

#: Ways to fill the file.
POPULATE = WAY_POPULATE
FALLOCATE = WAY_FALLOCATE


# What the threads of one job share.
cdef struct job_t:
    char *at
    int fd
    int way
    uint64_t nbytes
    uint64_t part
    uint64_t next               # offset of the part that nobody has begun yet
    uint64_t error              # errno of one that failed, which ends the others


cdef int do_part(const job_t *job, uint64_t offset, uint64_t nbytes) noexcept nogil:
    """One call; 0 or -1 with errno."""
    if job.way == WAY_POPULATE:
        return madvise(job.at + offset, nbytes, ADVICE_POPULATE_WRITE)
    return fallocate(
        job.fd, PUNCH_HOLE | KEEP_SIZE if job.way == WAY_PUNCH else 0, <off_t>offset, <off_t>nbytes
    )


cdef void *work(void *given) noexcept nogil:
    """A thread's side of a job."""
    cdef job_t *job = <job_t *>given
    cdef uint64_t offset
    while not mrm_load64(&job.error):
        offset = mrm_add64(&job.next, job.part) - job.part
        if offset >= job.nbytes:
            break
        while do_part(job, offset, min(job.part, job.nbytes - offset)) != 0:
            if errno != EINTR:
                mrm_store64(&job.error, errno)
                break
    return NULL


cdef class KernelFile:
    """A memory file of ``nbytes``, mapped, without a page at first; a context manager.

    Parameters
    ----------
    nbytes : int
        Whole huge pages.
    page_shift : int
        Of huge pages of 2**page_shift bytes; 0 for ordinary memory.
    advised : bool
        Ask for transparent huge pages.
    """

    cdef readonly int fd
    cdef readonly size_t nbytes
    cdef char *at

    def __init__(self, size_t nbytes, int page_shift=0, bint advised=False):
        cdef int error
        self.fd = -1
        huge = huge_flags(page_shift) if page_shift else 0
        self.nbytes = nbytes
        self.at = reserve(nbytes, 0)
        if self.at == NULL:
            raise MemoryError("no address space for the kernel's own rate")
        self.fd = os.memfd_create("mrm-bench", os.MFD_CLOEXEC | huge)
        try:
            os.ftruncate(self.fd, nbytes)
            error = map_file(self.at, nbytes, self.fd, 0, 0)
            if error < 0:
                raise OSError(-error, f"{os.strerror(-error)}: mmap of a file by hand")
        except BaseException:
            self.close()
            raise
        if advised:
            madvise(self.at, nbytes, MADV_HUGEPAGE)

    def close(self):
        """Give all of it back, and make its addresses trap."""
        if self.fd >= 0:
            seal(self.at, self.nbytes)
            os.close(self.fd)
            self.fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def fill(self, size_t part, int threads=1, int way=WAY_POPULATE):
        """Fetch all pages, ``part`` bytes a call: seconds."""
        return self.do(way, part, threads)

    def punch(self, size_t part):
        """Take all pages away, ``part`` bytes a call: seconds."""
        return self.do(WAY_PUNCH, part, 1)

    @property
    def address(self):
        """Where it is shown, for as long as it is open."""
        return <uintptr_t>self.at

    @property
    def filled(self):
        """Bytes that there is memory for, as the kernel says."""
        return os.fstat(self.fd).st_blocks * 512

    cdef object do(self, int way, size_t part, int threads):
        cdef job_t job
        cdef pthread_t others[MOST_THREADS]
        cdef int started = 0, refused = 0, i
        cdef int64_t begin, end
        if self.fd < 0:
            raise ValueError("a file that is closed")
        if part == 0 or not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"parts of a byte at least and 1 to {MOST_THREADS} threads, not {part} and {threads}")
        job.at, job.fd, job.way = self.at, self.fd, way
        job.nbytes, job.part, job.next, job.error = self.nbytes, part, 0, 0
        with nogil:
            begin = now()
            while started < threads - 1:
                refused = pthread_create(&others[started], NULL, work, &job)
                if refused:
                    mrm_store64(&job.error, refused)
                    break
                started += 1
            work(&job)
            for i in range(started):
                pthread_join(others[i], NULL)
            end = now()
        if job.error:
            name = "pthread_create" if refused else "madvise" if way == WAY_POPULATE else "fallocate"
            raise OSError(job.error, f"{os.strerror(job.error)}: {name} by hand")
        return (end - begin) / 1e9


def huge_flags(int page_shift):
    """What memfd_create wants for huge pages of 2**page_shift bytes."""
    return os.MFD_HUGETLB | (page_shift << os.MFD_HUGE_SHIFT)
