"""What the threads of a workload have in common: how they begin together, end, and are counted.

Threads are pthreads, and hold no GIL. Each fills what it needs, then works for a while unmeasured, so that what
an allocator fetches from the kernel once is there; then the clock begins for all of them. Whoever has begun tells
them when to stop, and meanwhile looks at the process's memory. A lane counts its blocks and its
time by itself: one that cannot stop at once, as in the middle of writing a gibibyte, is asked for its
rate over the time that it took.

A thread may end and have another go on with its lane. The next one begins by joining it, so what it leaves
to the allocator at its end has been left by then.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memset

from mrm import errors
from mrm.tools.bench.byhand cimport now


cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*begin)(void *) noexcept nogil, void *lane)
    int pthread_join(pthread_t thread, void **result)
    pthread_t pthread_self()

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int nanosleep(const timespec *wanted, timespec *left)


cdef enum:
    WAIT_NS = 50000             # between two looks of a thread that waits for the others
    UNMEASURED = 1              # phases: filling is 0
    MEASURED = 2


cdef void nap() noexcept nogil:
    cdef timespec wanted
    wanted.tv_sec = 0
    wanted.tv_nsec = WAIT_NS
    nanosleep(&wanted, NULL)


cdef void await_phase(lane_t *lane) noexcept nogil:
    """Wait until all lanes are done with what was before, and the next phase has begun."""
    lane.phase += 1
    mrm_add32(&lane.plan.ready, 1)
    while mrm_load32(&lane.plan.phase) < lane.phase:
        nap()


cdef void emptied(lane_t *lane) noexcept nogil:
    """Free what a lane has in its slots."""
    cdef size_t i
    for i in range(lane.plan.slots):
        ended(lane, lane.slots[i])
        lane.slots[i] = NULL


cdef void *live(void *begun) noexcept nogil:
    """A thread's life."""
    cdef lane_t *lane = <lane_t *>begun
    cdef plan_t *plan = lane.plan
    if lane.generation:
        pthread_join(lane.before, NULL)
    else:
        if plan.fill != NULL:
            plan.fill(lane)
        await_phase(lane)
    while True:
        if plan.work(lane) and not mrm_load32(&plan.stop):
            lane.before = pthread_self()
            lane.generation += 1
            if pthread_create(&lane.thread, NULL, live, lane) == 0:
                return NULL
            lane.refused += 1
        if lane.phase == MEASURED:
            break
        await_phase(lane)
        lane.ops = 0
        lane.begin = now()
    lane.end = now()
    if plan.empty != NULL:
        plan.empty(lane)
    mrm_store32(&lane.ended, 1)
    return NULL


cdef class Workload:
    """So many threads at work on an allocator.

    Parameters
    ----------
    allocator : Allocator
        Whose functions they call.
    threads : int
        How many.
    slots, least, most, turn : int
        Blocks that each has at a time, their bytes, and how many there are until something else
        begins; what that is, is the workload's.
    """

    def __init__(
        self, Allocator allocator, uint32_t threads, *, size_t slots, size_t least, size_t most, size_t turn=1
    ):
        cdef uint32_t i
        if threads < 1 or slots < 1 or turn < 1 or least < LEAST_BLOCK or most < least:
            raise errors.ArgumentError(
                f"{threads} threads with {slots} blocks of {least} to {most} bytes, {turn} at a turn: there must be "
                f"one at least of each, and {LEAST_BLOCK} bytes"
            )
        self.allocator = allocator
        self.plan.functions = allocator.functions
        self.plan.threads = threads
        self.plan.slots, self.plan.least, self.plan.most, self.plan.turn = slots, least, most, turn
        self.plan.doublings = 1
        while least << (self.plan.doublings + 1) <= most:
            self.plan.doublings += 1
        self.plan.lanes = <lane_t *>calloc(threads, sizeof(lane_t))
        if self.plan.lanes == NULL:
            raise MemoryError
        self.made_for = threads
        for i in range(threads):
            lane = &self.plan.lanes[i]
            lane.plan = &self.plan
            lane.number = i
            lane.random = <uint64_t>0x2545f4914f6cdd1d * (i + 1)
            lane.slots = <void **>calloc(slots, sizeof(void *))
            if lane.slots == NULL:
                raise MemoryError
            # All of it is there before anyone looks at the process's memory.
            memset(lane.slots, 0xff, slots * sizeof(void *))
            memset(lane.slots, 0, slots * sizeof(void *))
        self.prepare()

    cdef int prepare(self) except -1:
        """Set the plan's functions, and make what lanes share."""
        # What threads do is a workload's own: this class by itself has nothing that they could call.
        raise NotImplementedError

    cdef void finish(self) noexcept:
        """Free what lanes have left to each other; no thread runs any more."""

    def __dealloc__(self):
        if self.begun:
            self.end()
        if self.plan.lanes != NULL:
            for i in range(self.made_for):
                free(self.plan.lanes[i].slots)
        free(self.plan.lanes)
        free(self.plan.shared)

    def begin(self):
        """Start the threads; they are at work, unmeasured, when it returns."""
        cdef uint32_t i
        cdef int refused
        self.begun = True
        for i in range(self.plan.threads):
            refused = pthread_create(&self.plan.lanes[i].thread, NULL, live, &self.plan.lanes[i])
            if refused:
                self.plan.threads = i
                self.end()
                raise errors.SystemCallError(
                    f"thread {i + 1} of the workload cannot be started", call="pthread_create", error=refused
                )
        with nogil:
            self.go_on(UNMEASURED)

    def pause(self):
        """Have every lane come to an end of what it does unmeasured."""
        mrm_store32(&self.plan.stop, 1)

    @property
    def paused(self):
        """Whether all of them have."""
        return mrm_load32(&self.plan.ready) >= MEASURED * self.plan.threads

    def measure(self):
        """Have the clock begin, as soon as all lanes are paused."""
        self.pause()
        with nogil:
            self.go_on(MEASURED)

    cdef void go_on(self, uint32_t phase) noexcept nogil:
        """Wait for all lanes, and let them go on."""
        while mrm_load32(&self.plan.ready) < phase * self.plan.threads:
            nap()
        mrm_store32(&self.plan.stop, 0)
        mrm_store32(&self.plan.phase, phase)

    cdef void end(self):
        """Have all lanes end, whatever phase they are in."""
        mrm_store32(&self.plan.stop, 1)
        mrm_store32(&self.plan.phase, MEASURED)
        self.wait()

    def stop(self):
        """Have every lane end as soon as it can."""
        mrm_store32(&self.plan.stop, 1)

    @property
    def ended(self):
        """Whether all of them have."""
        return all(mrm_load32(&self.plan.lanes[i].ended) for i in range(self.plan.threads))

    def wait(self):
        """Wait until all have ended, and free what is left."""
        cdef uint32_t i
        if not self.begun:
            return
        self.begun = False
        with nogil:
            for i in range(self.plan.threads):
                while not mrm_load32(&self.plan.lanes[i].ended):
                    nap()
                pthread_join(self.plan.lanes[i].thread, NULL)
        self.finish()

    @property
    def ops_per_s(self):
        """Blocks a second, of all lanes together."""
        cdef uint32_t i
        total = 0.0
        for i in range(self.plan.threads):
            lane = &self.plan.lanes[i]
            total += lane.ops * 1e9 / max(1, lane.end - lane.begin)
        return total

    @property
    def refused(self):
        """Calls that returned no block."""
        return sum(self.plan.lanes[i].refused for i in range(self.plan.threads))

    @property
    def damaged(self):
        """Blocks that were not as they had been left."""
        return sum(self.plan.lanes[i].damaged for i in range(self.plan.threads))

    @property
    def generations(self):
        """Threads that there have been."""
        return sum(self.plan.lanes[i].generation + 1 for i in range(self.plan.threads))
