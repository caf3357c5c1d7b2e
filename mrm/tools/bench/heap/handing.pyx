"""Producers and consumers: who allocates a block is never who frees it.

After xmalloc (Lever and Boreham, malloc() Performance in a Multithreaded Linux Environment, USENIX 2000).
The first half of the threads allocate, ``turn`` blocks at a time, and the others free them; with an odd number
one more allocates. A single thread does both in turn. Blocks go by a ring of each
producer's, which one consumer reads: there is no lock to wait for, and the rings are short, so that
neither runs far ahead.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from mrm.tools.bench.heap.lanes cimport (
    Workload, any_size, ended, lane_t, made, mrm_load32, mrm_load64, mrm_store64, plan_t, waited,
)


cdef enum:
    ROUNDS = 16                 # turns that a ring has room for


# Who writes `put` does not write `got`: each is on cache lines of its own.
cdef struct ring_t:
    uint64_t put                # turns
    char unused[120]
    uint64_t got
    char unused_too[120]
    void **blocks               # ROUNDS times plan.turn


cdef uint32_t producers(const plan_t *plan) noexcept nogil:
    return (plan.threads + 1) // 2


cdef void put(lane_t *lane, ring_t *ring) noexcept nogil:
    """Allocate a turn of blocks."""
    cdef size_t i
    cdef uint64_t turn = ring.put
    cdef void **blocks = &ring.blocks[turn % ROUNDS * lane.plan.turn]
    for i in range(lane.plan.turn):
        blocks[i] = made(lane, any_size(lane))
    mrm_store64(&ring.put, turn + 1)


cdef void got(lane_t *lane, ring_t *ring) noexcept nogil:
    """Free a turn of blocks."""
    cdef size_t i
    cdef uint64_t turn = ring.got
    cdef void **blocks = &ring.blocks[turn % ROUNDS * lane.plan.turn]
    for i in range(lane.plan.turn):
        ended(lane, blocks[i])
    lane.ops += lane.plan.turn
    mrm_store64(&ring.got, turn + 1)


cdef int handed_on(lane_t *lane) noexcept nogil:
    cdef ring_t *rings = <ring_t *>lane.plan.shared
    cdef ring_t *ring
    cdef uint32_t count = producers(lane.plan), others = lane.plan.threads - count, i, looks = 0
    cdef bint idle
    while not mrm_load32(&lane.plan.stop):
        if lane.plan.threads == 1:
            put(lane, rings)
            got(lane, rings)
        elif lane.number < count:
            ring = &rings[lane.number]
            if ring.put - mrm_load64(&ring.got) < ROUNDS:
                put(lane, ring)
                looks = 0
            else:
                waited(&looks)
        else:
            idle = True
            i = lane.number - count
            while i < count:
                if mrm_load64(&rings[i].put) != rings[i].got:
                    got(lane, &rings[i])
                    idle = False
                i += others
            if idle:
                waited(&looks)
            else:
                looks = 0
    return 0


cdef class HandedOn(Workload):
    """Half of the threads allocate, and the others free."""

    cdef int prepare(self) except -1:
        cdef uint32_t i
        cdef ring_t *rings = <ring_t *>calloc(producers(&self.plan), sizeof(ring_t))
        cdef size_t room = ROUNDS * self.plan.turn * sizeof(void *)
        if rings == NULL:
            raise MemoryError
        self.plan.shared = rings
        for i in range(producers(&self.plan)):
            rings[i].blocks = <void **>calloc(1, room)
            if rings[i].blocks == NULL:
                raise MemoryError
            memset(rings[i].blocks, 0xff, room)     # it is there before the process's memory is looked at
        self.plan.work = handed_on
        return 0

    cdef void finish(self) noexcept:
        cdef ring_t *rings = <ring_t *>self.plan.shared
        cdef uint32_t i
        cdef lane_t *lane = self.plan.lanes
        cdef uint64_t counted = lane.ops
        for i in range(producers(&self.plan)):
            while rings[i].put != rings[i].got:
                got(lane, &rings[i])
        lane.ops = counted

    def __dealloc__(self):
        cdef ring_t *rings = <ring_t *>self.plan.shared
        cdef uint32_t i
        if rings != NULL:
            for i in range((self.made_for + 1) // 2):
                free(rings[i].blocks)
