"""The load barrier: how mutators and a relocator share objects that move, without waiting.

The words
    A reference is an address in a view; the view's number is its colour. `current` is the
    view in `heap.now`, `old` the one before it. A mutator loads a reference from a handle
    at the start of an operation, uses it, and drops it before its next checkpoint.

A cycle (relocator.pyx)
    1. mark     walk every handle: bring it to the current colour, mark its object
    2. settle   wait for everyone's checkpoint; let go of old forwarding and of empty frames
    3. flip     open the next view, publish it with the evacuation set, all PENDING; wait for
                everyone's checkpoint
    4. retire   the old view: from now on a stale reference that is used as an address traps
    5. relocate for each batch: ACTIVE; copy every marked object; wait for everyone's
                checkpoint; DONE; give the frames away

What a mutator does with a reference of the old colour
    The frame is not being evacuated: recolour it. PENDING: use it in place through the
    current view, and leave the handle stale. ACTIVE or DONE: follow the forwarding, or,
    if there is none yet, make it: freeze the object, copy it, install the copy by
    compare-and-swap. The handle is healed by compare-and-swap.

Why no write is lost
    a. Counters, the only words that change, are written by a compare-and-swap that fails
       once the word is frozen (objects.pxd), and are frozen before anyone copies them. So
       a copy holds every write that was made to the old place, and all copies are equal:
       it does not matter whose is installed, and the others are thrown away.
    b. A write that fails so begins its operation anew, passing a checkpoint, since it holds
       nothing. The freezer had seen ACTIVE, so the writer sees it now, and follows.
    c. Writes go to a copy only after it was installed, as only then anyone learns of it.
    d. Dropping an object kills its counters and so learns their last values. One that is
       frozen is killed in the copy; copies of dead counters are dead. The dropper passes no
       checkpoint meanwhile, so the copy it looks for stays where the forwarding says.

Why no one reads what is not an object
    e. An address is used only between two checkpoints. The old view is retired after every
       mutator has passed one since the flip, so none holds an address in it. A frame that
       was emptied is given away after every mutator has passed one since its last object
       was forwarded, so nobody reads, or freezes, in it: not even one whose copy was lost.
    f. The frame may then be filled at once, with objects of the current colour. A reference
       of the old colour to the same frame means the objects that were there before: view and
       frame together tell them apart. That is why one spare frame is enough.
    g. Forwarding is let go when marking has walked all handles (none is stale) and everyone
       has passed a checkpoint since (none holds a stale reference).
    h. Every reference that can be loaded stale was marked: its frame was closed before
       marking began, so it was in its handle before, and stayed there until it was loaded.
       What is not marked is not reachable: a frame without marks is free after `settle`.

Why no one waits
    A mutator's longest detour is to copy one object (4 KiB at the most). It repeats an
    operation only if another thread made progress: froze, healed or replaced the object.
    There is room for the copy: see heap.pyx. Only the relocator ever waits.
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm.tools.demo.heap cimport (
    ACTIVE, FLAW_NO_ROOM, FLAW_STAMP, FLAW_UNMARKED, PENDING, SABOTAGE_BARRIER, SABOTAGE_FREEZE,
    address_in, evacuation_t, frame_of, heap_flaw, heap_t, mutator_t, offset_of, recolour, room_t, room_take,
)
from mrm.tools.demo.objects cimport GRANULE_SHIFT, object_copy, object_freeze, object_granules, object_stamped


cdef extern from "system/atomic.h" nogil:
    void *mrm_load_ptr(void **p)
    uint32_t mrm_load32(const uint32_t *p)
    int mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)

cdef extern from *:
    int popcount "__builtin_popcountll"(unsigned long long x) noexcept nogil


cdef uint64_t *_entry(const evacuation_t *gone, uint32_t offset) noexcept nogil:
    """Where the forwarding of the object at ``offset`` is kept; NULL when it was not marked.

    Entries are numbered by the marks before them, so an evacuation has one per live object.
    """
    cdef uint32_t word = offset >> GRANULE_SHIFT >> 6
    cdef uint64_t bit = <uint64_t>1 << (offset >> GRANULE_SHIFT & 63)
    if not gone.marks[word] & bit:
        return NULL
    return gone.forward + gone.ranks[word] + popcount(gone.marks[word] & (bit - 1))


cdef uint64_t follow(
    heap_t *heap, room_t *room, uint32_t who, uint32_t view, evacuation_t *gone, uint64_t reference
) noexcept nogil:
    """The reference to an object's copy, which is made here if nobody has made it yet.

    0 after a flaw was noted.
    """
    cdef uint32_t offset = offset_of(heap, reference)
    cdef uint64_t *entry = _entry(gone, offset)
    cdef uint64_t there, source, granules, target
    if entry == NULL:
        heap_flaw(heap, FLAW_UNMARKED, who, 0, heap.cycles, 0, reference)
        return 0
    there = mrm_load64(entry)
    if there:
        return there
    source = address_in(heap, view, gone.frame) + offset
    if not object_stamped(<uint64_t *>source):
        heap_flaw(heap, FLAW_STAMP, who, 0, heap.cycles, 0, reference)
        return 0
    if heap.sabotage != SABOTAGE_FREEZE:
        object_freeze(<uint64_t *>source, heap.mutator_count)
    granules = object_granules(<uint64_t *>source)
    target = room_take(heap, room, view, granules << GRANULE_SHIFT)
    if target == 0:
        heap_flaw(heap, FLAW_NO_ROOM, who, 0, heap.cycles, granules, heap.claimed)
        return 0
    object_copy(<uint64_t *>target, <uint64_t *>source, heap.mutator_count)
    target |= granules << 56
    if mrm_cas64(entry, &there, target):
        room.copied += 1
        room.bytes += granules << GRANULE_SHIFT
        return target
    room.at -= granules << GRANULE_SHIFT
    room.lost += 1
    return there


cdef uint64_t load_stale(heap_t *heap, mutator_t *m, uint32_t handle, uint64_t reference) noexcept nogil:
    """The slow half of the barrier, for a reference that is not of the mutator's colour.

    It has the old colour, or the next one, if another mutator has seen a flip before this
    one, or has none of them, if it was copied off and healed: AGAIN settles those.
    """
    cdef evacuation_t *gone
    cdef uint64_t fresh
    if mrm_load64(&heap.now) != m.now:
        m.again += 1
        return AGAIN
    gone = <evacuation_t *>mrm_load_ptr(<void **>&heap.evacuating[frame_of(heap, reference)])
    if gone == NULL:
        fresh = recolour(heap, reference, m.view)
    elif mrm_load32(&gone.state) == PENDING:
        m.in_place += 1
        return recolour(heap, reference, m.view)
    elif heap.sabotage == SABOTAGE_BARRIER and gone.state == ACTIVE:
        fresh = recolour(heap, reference, m.view)
    else:
        fresh = follow(heap, &m.room, m.number, m.view, gone, reference)
        if fresh == 0:
            return AGAIN
    if mrm_cas64(&heap.handle[handle], &reference, fresh):
        m.healed += 1
    return fresh
