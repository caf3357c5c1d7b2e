"""What is live, and which frames are sparse enough to be emptied.

Marking walks the handles once: it heals what is stale and marks what is live. Mutators go
on meanwhile. An object that is dropped after it was seen counts as live until the next
cycle; one that is made after marking began lies in a frame that this cycle leaves alone.
So in the frames that may be chosen, what is marked is at least what can be reached.

Since the walk brings every handle to the current colour, it also completes the cycle
before: after it (and a checkpoint) no reference of an older colour exists, and both the
forwarding and the addresses of the retired view can go.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort
from libc.string cimport memcpy, memset

from mrm.tools.demo.barrier cimport follow
from mrm.tools.demo.heap cimport (
    CHUNK, FLAW_ENGINE, FRAME_CLOSED, PENDING, cleared, cycle_t, evacuation_t, frame_of, heap_flaw, heap_t,
    offset_of, recolour, room_bound, view_of,
)
from mrm.tools.demo.objects cimport GRANULE_SHIFT


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    uint64_t mrm_load64(const uint64_t *p)
    int mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)

cdef extern from *:
    int popcount "__builtin_popcountll"(unsigned long long x) noexcept nogil


cdef enum:
    SHARE = 16                  # a cycle empties a sixteenth of the frames at the most, so that cycles are short


cdef uint64_t _heal(heap_t *heap, uint32_t handle, uint64_t reference) noexcept nogil:
    """Bring a stale handle to the current colour; what it then holds.

    Evacuation is over, so every live object has been forwarded: this copies none.
    """
    cdef evacuation_t *gone = heap.evacuating[frame_of(heap, reference)]
    cdef uint64_t fresh
    if gone == NULL:
        fresh = recolour(heap, reference, heap.view.number)
    else:
        fresh = follow(heap, &heap.room, heap.mutator_count, heap.view.number, gone, reference)
        if fresh == 0:
            return 0
    if mrm_cas64(&heap.handle[handle], &reference, fresh):
        return fresh
    return reference


cdef void mark(heap_t *heap, cycle_t *cycle) noexcept nogil:
    """Heal every handle, mark its object, and add up what is live in each frame."""
    cdef uint32_t frames = heap.layout.frame_count
    cdef size_t granules = heap.layout.frame_size >> GRANULE_SHIFT
    cdef uint32_t handle, frame, granule
    cdef uint64_t reference
    for frame in range(frames):
        heap.candidate[frame] = mrm_load8(&heap.use[frame]) == FRAME_CLOSED
    memset(heap.marks, 0, frames * granules // 8)
    memset(heap.live, 0, frames * sizeof(uint32_t))
    memset(heap.objects, 0, frames * sizeof(uint32_t))
    for handle in range(heap.handle_count):
        reference = mrm_load64(&heap.handle[handle])
        if view_of(heap, reference) != heap.view.number:
            reference = _heal(heap, handle, reference)
        if reference == 0:
            return                      # a flaw was noted
        frame = frame_of(heap, reference)
        granule = offset_of(heap, reference) >> GRANULE_SHIFT
        heap.marks[frame * (granules >> 6) + (granule >> 6)] |= <uint64_t>1 << (granule & 63)
        heap.live[frame] += <uint32_t>(reference >> 56 << GRANULE_SHIFT)
        heap.objects[frame] += 1
        cycle.live += reference >> 56 << GRANULE_SHIFT
    cycle.live_objects = heap.handle_count


cdef int _sparser(const void *a, const void *b) noexcept nogil:
    cdef uint32_t x = (<const evacuation_t *>a).live
    cdef uint32_t y = (<const evacuation_t *>b).live
    return (x > y) - (x < y)


cdef uint64_t *_forwarding(heap_t *heap, size_t nbytes) noexcept nogil:
    """Zeroed memory for a cycle's forwarding, the last cycle's if it is enough; NULL: there is none.

    It is kept, as giving it back to the kernel would cost a shootdown each time.
    """
    if nbytes > heap.forwarding_size:
        free(heap.forwarding)
        heap.forwarding = cleared(2 * nbytes)
        heap.forwarding_size = 2 * nbytes if heap.forwarding != NULL else 0
    else:
        memset(heap.forwarding, 0, nbytes)
    return <uint64_t *>heap.forwarding


cdef bint choose(heap_t *heap) noexcept nogil:
    """Fill ``heap.set`` with the sparsest frames, and give each its forwarding, still empty.

    A frame is worth it when a quarter of it or more is garbage, and may be chosen when what
    lives in it surely fits into one empty frame. Frames without a live object are not in the
    set: they need no copying.
    """
    cdef uint64_t most = min(heap.layout.frame_size * 3 // 4, room_bound(heap, heap.layout.frame_size // CHUNK))
    cdef size_t words = heap.layout.frame_size >> GRANULE_SHIFT >> 6
    cdef uint64_t objects = 0
    cdef uint32_t frame, i, w, count = 0
    cdef evacuation_t *gone
    cdef uint64_t *memory
    cdef uint16_t *ranks
    for frame in range(heap.layout.frame_count):
        if heap.candidate[frame] and 0 < heap.live[frame] <= most:
            gone = &heap.set[count]
            gone.frame = frame
            gone.state = PENDING
            gone.live = heap.live[frame]
            gone.objects = heap.objects[frame]
            count += 1
    qsort(heap.set, count, sizeof(evacuation_t), _sparser)
    heap.set_count = min(count, max(heap.layout.frame_count // SHARE, <uint32_t>4))
    for i in range(heap.set_count):
        objects += heap.set[i].objects
    # Marks and entries of 8 bytes, then ranks of 2.
    memory = _forwarding(heap, heap.set_count * words * 10 + objects * 8 + 8)
    if memory == NULL:
        heap.set_count = 0
        heap_flaw(heap, FLAW_ENGINE, heap.mutator_count, 0, heap.cycles, 0, 0)
        return False
    ranks = <uint16_t *>(memory + heap.set_count * words + objects)
    for i in range(heap.set_count):
        gone = &heap.set[i]
        gone.marks = memory
        gone.ranks = ranks
        memory += words
        ranks += words
        memcpy(gone.marks, heap.marks + gone.frame * words, words * sizeof(uint64_t))
        for w in range(1, <uint32_t>words):
            gone.ranks[w] = gone.ranks[w - 1] + popcount(gone.marks[w - 1])
    for i in range(heap.set_count):
        heap.set[i].forward = memory
        memory += heap.set[i].objects
    return True
