"""Large blocks: allocated, written whole and freed; and one that grows until it is very large.

Growing is by an eighth each time, as CPython's lists do it, and vectors in their own ways: a program that appends does
not know how much will come. What a block holds must be there after it has grown, which is looked at.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memset

from mrm.tools.bench.heap.allocator cimport block_realloc, mark_of
from mrm.tools.bench.heap.lanes cimport Workload, below, emptied, ended, even_size, lane_t, made, mrm_load32


cdef int written(lane_t *lane) noexcept nogil:
    cdef size_t i, nbytes
    cdef void *block
    while not mrm_load32(&lane.plan.stop):
        i = below(lane, lane.plan.slots)
        ended(lane, lane.slots[i])
        nbytes = even_size(lane)
        block = made(lane, nbytes)
        if block != NULL:
            memset(<char *>block + sizeof(uint64_t), <int>lane.ops & 0xff, nbytes - sizeof(uint64_t))
        lane.slots[i] = block
        lane.ops += 1
    return 0


cdef bint grows(lane_t *lane, bint whole) noexcept nogil:
    """Once from the least to the most; what is new is marked at its beginning, or written ``whole``."""
    cdef size_t nbytes = lane.plan.least, target, last = 0
    cdef char *block = <char *>made(lane, nbytes)
    cdef char *grown
    if block == NULL:
        return False
    if whole:
        memset(block + sizeof(uint64_t), 1, nbytes - sizeof(uint64_t))
    lane.ops += 1
    while nbytes < lane.plan.most:
        target = min((nbytes + nbytes // 8 + 15) & ~<size_t>15, lane.plan.most)
        (<uint64_t *>block)[0] = lane.number
        grown = <char *>block_realloc(&lane.plan.functions, block, target)
        if grown == NULL:
            lane.refused += 1
            (<uint64_t *>block)[0] = mark_of(block)
            break
        block = grown
        if (<uint64_t *>block)[0] != lane.number or (last and (<uint64_t *>(block + last))[0] != last):
            lane.damaged += 1
        if whole:
            memset(block + nbytes, 1, target - nbytes)
        last = nbytes
        (<uint64_t *>(block + last))[0] = last
        (<uint64_t *>block)[0] = mark_of(block)
        nbytes = target
        lane.ops += 1
    ended(lane, block)
    return True


cdef int grown_only(lane_t *lane) noexcept nogil:
    while grows(lane, False) and not mrm_load32(&lane.plan.stop):
        pass
    return 0


cdef int grown_and_written(lane_t *lane) noexcept nogil:
    while grows(lane, True) and not mrm_load32(&lane.plan.stop):
        pass
    return 0


cdef class Large(Workload):
    """One of ``slots`` blocks, at random, is freed and replaced by another, which is written whole."""

    cdef int prepare(self) except -1:
        self.plan.work, self.plan.empty = written, emptied
        return 0


cdef class Grow(Workload):
    """A block grows from ``least`` to ``most``; of what is new, the first word is written."""

    cdef int prepare(self) except -1:
        self.plan.work = grown_only
        return 0


cdef class GrowWritten(Workload):
    """The same, and all that is new is written."""

    cdef int prepare(self) except -1:
        self.plan.work = grown_and_written
        return 0
