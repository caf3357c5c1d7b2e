"""A server: threads come and go, and what one has allocated the next one frees.

After Larson and Krishnan (Memory Allocation for Long-Running Server Applications, ISMM 1998): a thread
replaces blocks at random among those it was handed, and after a number of them ends, and
hands all of them to a new thread. Nearly every block is freed by another thread than the
one that allocated it, which in most cases has ended by then.
"""

from mrm.tools.bench.heap.lanes cimport Workload, below, emptied, ended, even_size, lane_t, made, mrm_load32


cdef int filled(lane_t *lane) noexcept nogil:
    cdef size_t i
    for i in range(lane.plan.slots):
        lane.slots[i] = made(lane, even_size(lane))
    return 0


cdef int generation(lane_t *lane) noexcept nogil:
    cdef size_t i, left = lane.plan.turn
    while left and not mrm_load32(&lane.plan.stop):
        i = below(lane, lane.plan.slots)
        ended(lane, lane.slots[i])
        lane.slots[i] = made(lane, even_size(lane))
        left -= 1
    lane.ops += lane.plan.turn - left
    return 1


cdef class Larson(Workload):
    """``slots`` blocks, replaced at random; after ``turn`` of them another thread goes on."""

    cdef int prepare(self) except -1:
        self.plan.fill, self.plan.work, self.plan.empty = filled, generation, emptied
        return 0
