"""One thread's small blocks: in pairs, last in first out, and at random.

What comes back at once, and what comes back in the reverse order, is what an allocator's lists of free
blocks are made for. At random, each block lies among others of every age, and its place has to be found again.
"""

from mrm.tools.bench.heap.lanes cimport (
    Workload, any_size, below, emptied, ended, even_size, lane_t, made, mrm_load32,
)


cdef int pairs(lane_t *lane) noexcept nogil:
    while not mrm_load32(&lane.plan.stop):
        ended(lane, made(lane, even_size(lane)))
        lane.ops += 1
    return 0


cdef int last_in_first_out(lane_t *lane) noexcept nogil:
    cdef size_t i, depth
    while not mrm_load32(&lane.plan.stop):
        depth = 1 + below(lane, lane.plan.slots)
        for i in range(depth):
            lane.slots[i] = made(lane, even_size(lane))
        while depth:
            depth -= 1
            ended(lane, lane.slots[depth])
            lane.slots[depth] = NULL
            lane.ops += 1
    return 0


cdef int filled(lane_t *lane) noexcept nogil:
    cdef size_t i
    for i in range(lane.plan.slots):
        lane.slots[i] = made(lane, any_size(lane))
    return 0


cdef int at_random(lane_t *lane) noexcept nogil:
    cdef size_t i
    while not mrm_load32(&lane.plan.stop):
        i = below(lane, lane.plan.slots)
        ended(lane, lane.slots[i])
        lane.slots[i] = made(lane, any_size(lane))
        lane.ops += 1
    return 0


cdef class Pairs(Workload):
    """A block is allocated and freed at once."""

    cdef int prepare(self) except -1:
        self.plan.work = pairs
        return 0


cdef class Lifo(Workload):
    """Up to ``slots`` blocks are allocated, then freed in the reverse order."""

    cdef int prepare(self) except -1:
        self.plan.work = last_in_first_out
        return 0


cdef class Churn(Workload):
    """Of ``slots`` blocks one after another, at random, is freed and replaced by one of another size."""

    cdef int prepare(self) except -1:
        self.plan.fill, self.plan.work, self.plan.empty = filled, at_random, emptied
        return 0
