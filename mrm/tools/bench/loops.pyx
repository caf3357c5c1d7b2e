"""Loops around take and give, from C: what a runtime's allocator would pay.

Through the table of mrm.h, as a C program calls them, with all that they check.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc

from mrm cimport MRM_REUSE_NOW, api, mrm_import, mrm_pool
from mrm import errors
from mrm.system.pages cimport frame_bytes
from mrm.tools.bench.byhand cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_HUGETLB, MAP_POPULATE, MAP_PRIVATE, PROT_READ, PROT_WRITE,
    mmap, munmap, now,
)

mrm_import()


cdef class Loops:
    """``pool`` through its C handle."""

    cdef mrm_pool *pool

    def __init__(self, pool):
        self.pool = api.pool_from_object(<void *>pool)
        if self.pool == NULL:
            raise TypeError(f"not a pool: {pool!r}")

    def __dealloc__(self):
        if self.pool != NULL:
            api.pool_release(self.pool)

    def take_give(self, int64_t n):
        """Take a frame and give it back, ``n`` times without the GIL: nanoseconds in all."""
        cdef int64_t begin
        cdef uint32_t frame
        cdef int status = 0
        with nogil:
            begin = now()
            for _ in range(n):
                status = api.take(self.pool, &frame)
                if status == 0:
                    status = api.give(self.pool, frame, MRM_REUSE_NOW)
                if status < 0:
                    break
            begin = now() - begin
        self.need(status)
        return begin

    def take_give_many(self, int64_t n, size_t frames):
        """The same with ``frames`` at once: nanoseconds in all."""
        cdef int64_t begin
        cdef int status = 0
        cdef uint32_t *held = <uint32_t *>malloc(frames * sizeof(uint32_t))
        if held == NULL:
            raise MemoryError
        with nogil:
            begin = now()
            for _ in range(n):
                status = api.take_many(self.pool, held, frames)
                if status == 0:
                    status = api.give_many(self.pool, held, frames, MRM_REUSE_NOW)
                if status < 0:
                    break
            begin = now() - begin
        free(held)
        self.need(status)
        return begin

    cdef int need(self, int status) except -1:
        if status < 0:
            raise errors.Error(api.failure().text.decode())
        return 0


def kernel_cycle(int64_t n):
    """Get a huge page from the kernel and give it back, ``n`` times: nanoseconds in all, or None."""
    cdef int64_t begin
    cdef void *page
    cdef bint refused = False
    with nogil:
        begin = now()
        for _ in range(n):
            page = mmap(
                NULL, frame_bytes(), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0,
            )
            if page == MAP_FAILED or munmap(page, frame_bytes()):
                refused = True
                break
        begin = now() - begin
    return None if refused else begin
