"""Cycle after cycle: mark, flip to the next view, empty the sparse frames hand over hand.

The order, and why it is safe while mutators run, is argued at the top of barrier.pyx.

One spare frame serves a heap of any size. What lives in the sparsest frames is copied into
what is left of the last destination, and then into the spare. As soon as frames are emptied
and everyone has passed a checkpoint they are given away, their old addresses trapping since
the flip: the first is the next spare, the others go to the pool, where mutators take them
at once. Frames are emptied in batches that surely fit, since each batch costs a checkpoint.

The relocator is the only one that waits, and only for checkpoints: a mutator passes one
after every operation, so it waits for the longest operation, or until the system gives the
processor back to a mutator that it took it from.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mrm cimport MRM_OK, MRM_REUSE_NOW
from mrm.physical.taking cimport pool_give
from mrm.space.views cimport view_close, view_open, view_retire, view_t
from mrm.system.calls cimport calls_made
from mrm.tools.demo.barrier cimport follow
from mrm.tools.demo.heap cimport (
    ACTIVE, CHUNK, DONE, FLAW_ENGINE, FLAW_NO_ROOM, FLAW_NO_TRAP, FRAME_CLOSED, FRAME_FREE, FRAME_OPEN, GONE, HISTORY,
    NONE, address_in, cycle_t, evacuation_t, heap_flaw, heap_t, room_bound,
)
from mrm.tools.demo.latency cimport now
from mrm.tools.demo.marking cimport choose, mark
from mrm.tools.demo.objects cimport GRANULE_SHIFT


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    void mrm_store8(uint8_t *p, uint8_t v)
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)
    void mrm_store_ptr(void **p, void *v)
    void mrm_pause()

cdef extern from *:
    """
    #include <errno.h>
    #include <sys/prctl.h>
    #include <time.h>
    #include <unistd.h>
    static inline void demo_sleep(long ns) {
        struct timespec t = {0, ns};
        nanosleep(&t, NULL);
    }
    /* Sleep as long as asked, not 50 us more. */
    static inline void demo_precise_sleep(void) { prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0); }
    /* Whether reading at `address` traps, found out by the kernel, which says EFAULT
     * where a load would die of SIGSEGV. */
    static inline int demo_traps(int *ends, const void *address) {
        char byte;
        ssize_t n = write(ends[1], address, 1);
        if (n == 1 && read(ends[0], &byte, 1) == 1) return 0;
        return n < 0 && errno == EFAULT;
    }
    """
    void sleep_ns "demo_sleep"(long ns) noexcept nogil
    void precise_sleep "demo_precise_sleep"() noexcept nogil
    bint traps "demo_traps"(int *ends, const void *address) noexcept nogil
    int lowest_bit "__builtin_ctzll"(unsigned long long x) noexcept nogil


cdef enum:
    POLLS = 50                  # looks at a mutator before the processor is left to it
    NAP = 20000                 # ns


# ---- checkpoints ------------------------------------------------------------------

cdef uint64_t _settle(heap_t *heap, uint32_t view) noexcept nogil:
    """Publish the next moment and wait until every mutator has passed a checkpoint in it; ns."""
    cdef uint64_t begun = now()
    cdef uint64_t moment = ((heap.now >> 32) + 1) << 32 | view
    cdef uint64_t passed, took
    cdef uint32_t i, polls
    mrm_store64(&heap.now, moment)
    for i in range(heap.mutator_count):
        polls = 0
        while True:
            passed = mrm_load64(&heap.mutator[i].passed)
            if passed == moment or passed == GONE:
                break
            polls += 1
            if polls < POLLS:
                mrm_pause()
            else:
                sleep_ns(NAP)
    took = now() - begun
    heap.checkpoints += 1
    heap.slowest = max(heap.slowest, took)
    return took


# ---- frames -----------------------------------------------------------------------

cdef void _let_go(heap_t *heap, uint32_t frame) noexcept nogil:
    """A frame that nobody looks at any more: the next spare, if there is none, or the pool's."""
    cdef uint32_t i
    for i in range(2):
        if heap.into[i] == NONE:
            heap.into[i] = frame
            mrm_store8(&heap.use[frame], FRAME_OPEN)
            return
    mrm_store8(&heap.use[frame], FRAME_FREE)
    if pool_give(heap.pool, frame, MRM_REUSE_NOW) != MRM_OK:
        heap_flaw(heap, FLAW_ENGINE, heap.mutator_count, frame, heap.cycles, 0, 0)


cdef uint32_t _let_empty_go(heap_t *heap) noexcept nogil:
    """Give away the frames in which nothing lived; how many."""
    cdef uint32_t frame, count = 0
    for frame in range(heap.layout.frame_count):
        if heap.candidate[frame] and heap.live[frame] == 0:
            _let_go(heap, frame)
            count += 1
    return count


cdef void _close_full(heap_t *heap) noexcept nogil:
    """Go on with the spare when the first destination is full. Nobody may be copying."""
    cdef uint64_t chunks = heap.layout.frame_size // CHUNK
    while heap.into[0] != NONE and heap.claimed >= chunks:
        mrm_store8(&heap.use[heap.into[0]], FRAME_CLOSED)
        heap.into[0] = heap.into[1]
        heap.into[1] = NONE
        mrm_store64(&heap.claimed, heap.claimed - chunks)


cdef uint64_t _room(const heap_t *heap) noexcept nogil:
    """Bytes that surely fit into what is left of the destination and into the spare."""
    cdef uint64_t frames = (heap.into[0] != NONE) + (heap.into[1] != NONE)
    return room_bound(heap, frames * (heap.layout.frame_size // CHUNK) - heap.claimed)


# ---- a cycle ----------------------------------------------------------------------

cdef void _forget(heap_t *heap) noexcept nogil:
    """Forget the last cycle's forwarding, and give back the addresses that it kept reserved."""
    cdef uint32_t i
    for i in range(heap.set_count):
        mrm_store_ptr(<void **>&heap.evacuating[heap.set[i].frame], NULL)
    heap.set_count = 0
    if heap.retired != NULL:
        if view_close(heap.retired) != MRM_OK:
            heap_flaw(heap, FLAW_ENGINE, heap.mutator_count, 0, heap.cycles, 0, 0)
        heap.retired = NULL


cdef bint _flip(heap_t *heap, cycle_t *cycle) noexcept nogil:
    """Open the next view, move everyone to it, and retire the old one."""
    cdef view_t *next = NULL
    cdef uint64_t begun = now()
    cdef uint32_t i
    if view_open(heap.pool, &next) != MRM_OK:
        heap_flaw(heap, FLAW_ENGINE, heap.mutator_count, 0, heap.cycles, 0, 0)
        return False
    for i in range(heap.layout.frame_count):
        # The first touch links the page tables of a whole GiB; better here than in a mutator.
        (<volatile uint64_t *>address_in(heap, next.number, i))[0]
    for i in range(heap.set_count):
        mrm_store_ptr(<void **>&heap.evacuating[heap.set[i].frame], &heap.set[i])
    cycle.open = now() - begun
    cycle.flip = _settle(heap, next.number)
    begun = now()
    heap.retired = heap.view
    heap.view = next
    if view_retire(heap.retired) != MRM_OK:
        heap_flaw(heap, FLAW_ENGINE, heap.mutator_count, 0, heap.cycles, 0, 0)
        return False
    cycle.retire = now() - begun
    if not traps(heap.trap, <void *>address_in(heap, heap.retired.number, heap.cycles % heap.layout.frame_count)):
        heap_flaw(heap, FLAW_NO_TRAP, heap.mutator_count, 0, heap.cycles, 0, heap.retired.number)
        return False
    heap.traps += 1
    heap.flips += 1
    return True


cdef bint _empty(heap_t *heap, evacuation_t *gone) noexcept nogil:
    """Copy every marked object of a frame that no mutator has copied yet."""
    cdef uint32_t word, granule
    cdef uint64_t bits
    for word in range(<uint32_t>(heap.layout.frame_size >> GRANULE_SHIFT >> 6)):
        bits = gone.marks[word]
        while bits:
            granule = word * 64 + lowest_bit(bits)
            bits &= bits - 1
            if not follow(
                heap, &heap.room, heap.mutator_count, heap.view.number, gone, <uint64_t>granule << GRANULE_SHIFT
            ):
                return False
    return True


cdef bint _relocate(heap_t *heap, cycle_t *cycle) noexcept nogil:
    """Empty the frames of the set, batch by batch; each batch surely fits where it goes."""
    cdef uint32_t first = 0, end, i
    cdef uint64_t room, bytes
    while first < heap.set_count:
        room = _room(heap)
        end = first
        bytes = 0
        while end < heap.set_count and bytes + heap.set[end].live <= room:
            bytes += heap.set[end].live
            end += 1
        if end == first:
            heap_flaw(heap, FLAW_NO_ROOM, heap.mutator_count, 0, heap.cycles, heap.set[first].live, room)
            return False
        for i in range(first, end):
            mrm_store32(&heap.set[i].state, ACTIVE)
        for i in range(first, end):
            if not _empty(heap, &heap.set[i]):
                return False
        cycle.slowest = max(cycle.slowest, _settle(heap, heap.view.number))
        _close_full(heap)
        for i in range(first, end):
            mrm_store32(&heap.set[i].state, DONE)
            _let_go(heap, heap.set[i].frame)
        cycle.copied += bytes
        cycle.batches += 1
        first = end
    return True


cdef void _cycle(heap_t *heap, cycle_t *cycle) noexcept nogil:
    """One cycle; ends early when a flaw was noted."""
    cdef uint64_t begun
    cycle.begun = now()
    mark(heap, cycle)
    cycle.mark = now() - cycle.begun
    if mrm_load32(&heap.flaw.kind):
        return
    cycle.settle = _settle(heap, heap.view.number)
    _forget(heap)
    cycle.empty = _let_empty_go(heap)
    if not choose(heap) or not _flip(heap, cycle):
        return
    begun = now()
    cycle.slowest = max(cycle.settle, cycle.flip)
    cycle.sparse = heap.set_count
    _relocate(heap, cycle)
    cycle.relocate = now() - begun
    heap.cycles += 1
    heap.empty += cycle.empty
    heap.sparse += cycle.sparse
    heap.batches += cycle.batches
    heap.copied += cycle.copied


cdef void relocator_run(heap_t *heap) noexcept nogil:
    """Cycle until told to finish; a cycle that was begun is completed."""
    cdef uint64_t calls = calls_made()
    cdef cycle_t unkept
    cdef cycle_t *cycle
    precise_sleep()
    while not mrm_load32(&heap.finish):
        cycle = &heap.history[heap.cycles] if heap.cycles < HISTORY else &unkept
        cycle[0] = cycle_t(
            begun=0, mark=0, settle=0, open=0, flip=0, retire=0, relocate=0, slowest=0, live_objects=0, sparse=0,
            empty=0, batches=0, copied=0, live=0,
        )
        _cycle(heap, cycle)
        heap.calls = calls_made() - calls
