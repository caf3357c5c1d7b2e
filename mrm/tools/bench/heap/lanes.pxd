"""The threads of a workload. Each is a lane: what one thread after another does, by itself."""

from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

from mrm.tools.bench.heap.allocator cimport (
    LEAST_BLOCK, Allocator, block_free, block_malloc, functions_t, mark_of,
)


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)
    void mrm_pause()

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t


cdef enum:
    SMALL_PAGE = 4096           # where pages are larger they are touched more than once, which costs nothing

# What all lanes share. `stop` is read for every block, so it shares its cache line with nothing that changes.
cdef struct plan_t:
    functions_t functions
    int (*fill)(lane_t *lane) noexcept nogil        # before the clock
    int (*work)(lane_t *lane) noexcept nogil        # until `stop`; other than 0: another thread goes on
    void (*empty)(lane_t *lane) noexcept nogil      # after the clock
    void *shared                                    # what lanes hand to each other through
    lane_t *lanes
    uint32_t threads
    size_t slots                                    # blocks that a lane has at a time
    size_t least                                    # bytes of a block
    size_t most
    uint32_t doublings                              # of the least, until it is the most
    size_t turn                                     # blocks until something else begins, such as another thread
    char unused[64]
    uint32_t stop
    char unused_too[64]
    uint32_t ready                                  # lanes that wait for the next phase
    uint32_t phase                                  # the one that lanes may be in


cdef struct lane_t:
    plan_t *plan
    void **slots
    uint64_t random
    uint64_t ops
    uint64_t refused                                # calls that returned NULL
    uint64_t damaged                                # blocks that were not as they had been left
    uint64_t at                                     # a workload's own
    uint32_t number
    uint32_t generation
    uint32_t phase
    uint32_t ended
    int64_t begin                                   # ns
    int64_t end
    pthread_t thread                                # the last one
    pthread_t before
    char unused[64]


cdef void emptied(lane_t *lane) noexcept nogil


cdef class Workload:
    cdef plan_t plan
    cdef Allocator allocator
    cdef uint32_t made_for      # how many lanes there is room for
    cdef bint begun
    cdef void go_on(self, uint32_t phase) noexcept nogil
    cdef void end(self)
    cdef int prepare(self) except -1
    cdef void finish(self) noexcept


cdef inline uint64_t drawn(lane_t *lane) noexcept nogil:
    """The next random number: xorshift, of which the high bits are the better ones."""
    cdef uint64_t x = lane.random
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    lane.random = x
    return x


cdef inline size_t below(lane_t *lane, size_t bound) noexcept nogil:
    """A random number below ``bound``, which is less than 2**32, without a division."""
    return ((drawn(lane) >> 32) * bound) >> 32


cdef inline size_t even_size(lane_t *lane) noexcept nogil:
    """A size from the plan's least to its most, each as likely as the other."""
    return lane.plan.least + below(lane, lane.plan.most - lane.plan.least + 1)


cdef inline size_t any_size(lane_t *lane) noexcept nogil:
    """A size from the plan's least to below its most, each doubling of it as likely as the other."""
    cdef size_t base = lane.plan.least << below(lane, lane.plan.doublings)
    return base + below(lane, base)


cdef inline void *made(lane_t *lane, size_t nbytes) noexcept nogil:
    """A block, marked as somebody's, with every page of it touched; NULL, and counted, if it is refused."""
    cdef char *block = <char *>block_malloc(&lane.plan.functions, nbytes)
    cdef size_t at = SMALL_PAGE
    if block == NULL:
        lane.refused += 1
        return NULL
    while at < nbytes:
        block[at] = 1
        at += SMALL_PAGE
    block[nbytes - 1] = 1
    (<uint64_t *>block)[0] = mark_of(block)
    return block


cdef inline void ended(lane_t *lane, void *block) noexcept nogil:
    """Free a block, be it NULL, that must be as it was left."""
    if block == NULL:
        return
    if (<uint64_t *>block)[0] != mark_of(block):
        lane.damaged += 1
    (<uint64_t *>block)[0] = 0
    block_free(&lane.plan.functions, block)


cdef inline void waited(uint32_t *looks) noexcept nogil:
    """Between two looks at what another thread is to do: pause at first, then let it run."""
    looks[0] += 1
    if looks[0] < 64:
        mrm_pause()
    else:
        sched_yield()
