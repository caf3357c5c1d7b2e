"""A mix of sizes and of orders, with a few blocks that live on, and are another thread's in the end.

What sh6bench and sh8bench of MicroQuill's are known for, put together anew: rounds in which many small blocks and few
large ones are allocated; part of them is freed in the order they came in, part in the reverse
one; and some survive the round, to be freed much later, in the neighbouring thread.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc

from mrm.tools.bench.heap.lanes cimport Workload, any_size, ended, lane_t, made, mrm_load32, plan_t


cdef extern from *:
    """
    static inline void *mrm_exchange_block(void **slot, void *block) {
        return __atomic_exchange_n(slot, block, __ATOMIC_ACQ_REL);
    }
    """
    void *exchanged "mrm_exchange_block"(void **slot, void *block) nogil


cdef enum:
    SURVIVES = 16               # one in so many
    MAILBOXES = 1024            # of each thread: how long survivors live


cdef void **mailbox(plan_t *plan, uint64_t thread, uint64_t at) noexcept nogil:
    return &(<void **>plan.shared)[thread % plan.threads * MAILBOXES + at % MAILBOXES]


cdef void survived(lane_t *lane, void *block) noexcept nogil:
    """Leave a block to the neighbour, and free what has been left here."""
    cdef uint64_t at = lane.at
    lane.at += 1
    ended(lane, exchanged(mailbox(lane.plan, lane.number + 1, at), block))
    if lane.plan.threads > 1:
        ended(lane, exchanged(mailbox(lane.plan, lane.number, at + MAILBOXES // 2), NULL))


cdef int mixed(lane_t *lane) noexcept nogil:
    cdef size_t i, half = lane.plan.slots // 2
    cdef void *block
    while not mrm_load32(&lane.plan.stop):
        for i in range(lane.plan.slots):
            block = made(lane, any_size(lane))
            if i % SURVIVES == 0:
                survived(lane, block)
                block = NULL
            lane.slots[i] = block
        for i in range(half):
            ended(lane, lane.slots[i])
        for i in range(lane.plan.slots - half):
            ended(lane, lane.slots[lane.plan.slots - 1 - i])
        lane.ops += lane.plan.slots
    return 0


cdef class Mixed(Workload):
    """Rounds of ``slots`` blocks, of which one in 16 lives on."""

    cdef int prepare(self) except -1:
        self.plan.shared = calloc(self.plan.threads * MAILBOXES, sizeof(void *))
        if self.plan.shared == NULL:
            raise MemoryError
        self.plan.work = mixed
        return 0

    cdef void finish(self) noexcept:
        cdef uint64_t at
        for at in range(<uint64_t>self.plan.threads * MAILBOXES):
            ended(self.plan.lanes, exchanged(&(<void **>self.plan.shared)[at], NULL))
