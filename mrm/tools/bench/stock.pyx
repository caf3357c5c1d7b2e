"""The lanes that an unmodified kernel offers to anybody, and lanes.c's better ones by hand.

Every class is one lane; none of them uses mrm. They are the yardstick.
"""

import os

from libc.errno cimport errno
from libc.stdint cimport int64_t

from mrm.system.pages cimport base_page, frame_bytes
from mrm.tools.bench.byhand cimport (
    MADV_DONTNEED, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_HUGETLB, MAP_NORESERVE,
    MAP_POPULATE, MAP_PRIVATE, MREMAP_FIXED, MREMAP_MAYMOVE, PROT_READ, PROT_WRITE,
    linked_span, madvise, map_file, mmap, mremap, munmap, reserve, seal, touch,
)
from mrm.tools.bench.lanes cimport Lane


cdef int check(int64_t status) except -1:
    """Raise OSError for ``-errno``."""
    if status < 0:
        raise OSError(-status, os.strerror(-status))
    return 0


cdef class Stock(Lane):
    """What these lanes have in common: two ranges, one that shows the frames and one to move to."""

    cdef char *source
    cdef char *target
    cdef size_t nbytes

    cdef int place(self, size_t past) except -1:
        """Reserve both, each ``past`` bytes past a multiple of ``linked_span()``; once, for the lane's life."""
        cdef size_t span
        if self.source == NULL:
            self.nbytes = self.frames * frame_bytes()
            span = (self.nbytes + linked_span() - 1) & ~<size_t>(linked_span() - 1)
            self.source = reserve(2 * span, past)
            if self.source == NULL:
                self.nbytes = 0
                raise MemoryError("no address space for two ranges")
            self.target = self.source + span
        return 0

    cdef void settle(self) noexcept nogil:
        # mremap leaves nothing where it moved from: the next malloc could lie there.
        seal(self.target, self.nbytes)

    def close(self):
        """Make the frames unreachable through this lane."""
        if self.source != NULL:
            seal(self.source, self.nbytes)


cdef class Kernel(Lane):
    """munmap and mmap(MAP_HUGETLB | MAP_POPULATE), a page a call: the kernel clears each.

    Needs one huge page of the system's pool that no file has; without one it runs on
    ordinary memory, and says so.
    """

    cdef int extra

    def open(self):
        self.extra = MAP_HUGETLB
        if self.cycle() < 0:
            self.extra = 0
            check(self.cycle())

    def note(self):
        return None if self.extra else "no huge page is free: the kernel lane runs on small pages"

    cdef int64_t cycle(self) noexcept nogil:
        cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | self.extra
        cdef void *page
        for _ in range(32):
            page = mmap(NULL, frame_bytes(), PROT_READ | PROT_WRITE, flags, -1, 0)
            if page == MAP_FAILED or munmap(page, frame_bytes()):
                return -errno
        return 32


cdef class Mremap(Stock):
    """mremap, a page a call."""

    def open(self):
        self.place(0)
        check(map_file(self.source, self.nbytes, self.fd, 0, MAP_POPULATE))

    cdef int64_t cycle(self) noexcept nogil:
        cdef size_t i, size = frame_bytes()
        for i in range(self.frames):
            if mremap(
                self.source + i * size, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, self.target + i * size
            ) == MAP_FAILED:
                return -errno
        self.source, self.target = self.target, self.source
        return self.frames


cdef class MremapRangeHugetlb(Stock):
    """mremap of the whole range of huge pages in one call.

    The range starts half a GiB past an aligned GiB (what a page table spans), so that it
    covers no aligned GiB whole. Otherwise Linux 6.18 hangs for ever, unkillable, when the destination is a
    shared hugetlb mapping that does: move_hugetlb_page_tables() holds the file's
    i_mmap_rwsem for writing and calls huge_pte_alloc(), which finds page tables that
    could be shared and takes the same lock for reading in huge_pmd_share().
    """

    def open(self):
        cdef size_t span = linked_span()
        if span == frame_bytes():
            span = 0        # no table is shared
        elif self.frames * frame_bytes() > span:
            raise ValueError(f"a range of more than {span >> 30} GiB covers a whole page table, which hangs Linux 6.18")
        self.place(span // 2)
        check(map_file(self.source, self.nbytes, self.fd, 0, MAP_POPULATE))

    cdef int64_t cycle(self) noexcept nogil:
        if mremap(
            self.source, self.nbytes, self.nbytes, MREMAP_MAYMOVE | MREMAP_FIXED, self.target
        ) == MAP_FAILED:
            return -errno
        self.source, self.target = self.target, self.source
        return self.frames


def _bytes_on_huge_pages(address):
    """Bytes on transparent huge pages in the mapping that begins at ``address``, from smaps."""
    with open("/proc/self/smaps") as rows:
        for row in rows:
            if row.startswith(f"{address:x}-"):
                break
        for row in rows:
            if row.startswith("AnonHugePages:"):
                return int(row.split()[1]) * 1024
    return 0


cdef class MremapRangeThp(Stock):
    """mremap of a whole range of ordinary memory with transparent huge pages, in one call.

    It is aligned to 1 GiB, where the kernel moves whole subtrees of the page table: the
    most that mremap can do. It moves a range as it is, and never a scattered page; the
    old addresses are gone at once, so every processor is told in every call.
    """

    def open(self):
        self.place(0)
        flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        if mmap(self.source, self.nbytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED:
            check(-errno)
        madvise(self.source, self.nbytes, MADV_HUGEPAGE)
        touch(self.source, self.nbytes, base_page(), True)

    def note(self):
        huge = _bytes_on_huge_pages(<size_t>self.source)
        if huge >= self.nbytes:
            return None
        return f"only {huge >> 20} of {self.nbytes >> 20} MiB are on transparent huge pages"

    cdef int64_t cycle(self) noexcept nogil:
        if mremap(
            self.source, self.nbytes, self.nbytes, MREMAP_MAYMOVE | MREMAP_FIXED, self.target
        ) == MAP_FAILED:
            return -errno
        self.source, self.target = self.target, self.source
        return self.frames


cdef class Fresh(Stock):
    """lanes.c's better lane by hand: each scattered page to a fresh address by one mmap, one bulk unmap."""

    def open(self):
        self.place(0)

    cdef int64_t cycle(self) noexcept nogil:
        cdef int64_t status
        cdef size_t i, size = frame_bytes()
        for i in range(self.frames):
            status = map_file(
                self.source + i * size, size, self.fd, (i * 37) % self.frames * size, MAP_POPULATE
            )
            if status < 0:
                return status
        # Costs what munmap does; and the addresses stay ours, so nothing can come to lie there.
        status = seal(self.source, self.nbytes)
        return status if status < 0 else <int64_t>self.frames


cdef class ViewByHand(Stock):
    """lanes.c's best lane by hand: link every page in a view that shares page tables, one bulk zap."""

    def open(self):
        self.place(0)
        check(map_file(self.source, self.nbytes, self.fd, 0, MAP_POPULATE))
        check(map_file(self.target, self.nbytes, self.fd, 0, 0))

    cdef void settle(self) noexcept nogil:
        # Both ranges stay mapped from one cycle to the next.
        pass

    def close(self):
        super().close()
        if self.target != NULL:
            seal(self.target, self.nbytes)

    cdef int64_t cycle(self) noexcept nogil:
        touch(self.target, self.nbytes, self.step, False)
        if madvise(self.target, self.nbytes, MADV_DONTNEED):
            return -errno
        return self.frames
