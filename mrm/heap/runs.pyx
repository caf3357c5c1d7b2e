"""Blocks above a MiB: slots in a row, out of many more addresses than there is memory.

All slots are parted into extents (extents.pyx): free ones, which are addresses without memory, kept ones, which
have memory but no block, and blocks.

A block is served from what is kept, as it is; else at free addresses, with memory from any place. A
freed block is kept, since mapping costs more than finding; when too much is kept, the largest extents are
taken away together, by one commit. A block that grows takes what lies behind it if that is no block; if it
is one, the block moves into the middle of the largest free extent, where it has room to grow: its memory
is shown there, and no byte is copied. As there are many times more addresses than memory, that
happens a few times in a block's life.

One lock guards it all. It is not held while frames are taken, since a taker may call somebody for help, who
may free blocks: what was found before is looked for again afterwards.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport MRM_BAD_BLOCK, MRM_INCONSISTENT, MRM_NO_ADDRESSES, MRM_OK, MRM_OUT_OF_FRAMES
from mrm.heap.extents cimport (
    extent_cut, extent_find, extent_into, extent_largest, extent_live, extent_mark, extent_put, extent_unlink, place_t,
)
from mrm.heap.mapping cimport (
    mapping_give, mapping_hide, mapping_move, mapping_show, mapping_shown, mapping_take, stretch_t,
)
from mrm.heap.page cimport SEGMENT_BYTES, SEGMENT_SHIFT
from mrm.heap.segments cimport heap_charge, heap_uncharge
from mrm.heap.state cimport NO_RUN, RUN_BINS, RUN_FREE, RUN_KEPT, RUN_LIVE, RUN_NONE, runs_t
from mrm.physical.frames cimport frames_available
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    STRETCHES = 64              # that one commit takes away, or one growth takes in


# ---- memory, with the lock held, but for taking ------------------------------------------------

cdef uint32_t put_as_shown(heap_t *heap, uint32_t first, uint32_t n) noexcept nogil:
    """Make slots kept or free, as they have memory or not; how many have."""
    cdef uint32_t slot, found = 0
    cdef bint shown
    for slot in range(first, first + n):
        extent_mark(&heap.runs, slot, 1, RUN_NONE)
    for slot in range(first, first + n):
        shown = mapping_shown(heap, slot)
        extent_put(&heap.runs, slot, 1, RUN_KEPT if shown else RUN_FREE)
        found += shown
    return found


cdef int give_up(heap_t *heap, uint32_t most) noexcept nogil:
    """Take memory away until no more than so many slots are kept, the largest extents first."""
    cdef runs_t *runs = &heap.runs
    cdef stretch_t stretches[STRETCHES]
    cdef size_t count, i
    cdef uint32_t bin, first, n
    # Private memory goes by one call for each stretch: so one at a time, and all of it is gone or none.
    cdef size_t together = <size_t>STRETCHES if heap.pool != NULL else 1
    cdef int status = MRM_OK
    while runs.kept > most and status == MRM_OK:
        count = 0
        n = 0
        bin = RUN_BINS
        while bin and count < together and runs.kept - n > most:
            first = runs.kept_bins[bin - 1]
            if first == NO_RUN:
                bin -= 1
                continue
            stretches[count].first = first
            stretches[count].n = runs.run[first].n
            n += runs.run[first].n
            extent_unlink(runs, first)
            count += 1
        status = mapping_hide(heap, stretches, count)
        for i in range(count):
            if status == MRM_INCONSISTENT:
                n -= put_as_shown(heap, stretches[i].first, stretches[i].n)
            else:
                extent_put(runs, stretches[i].first, stretches[i].n, RUN_FREE if status == MRM_OK else RUN_KEPT)
        if status == MRM_OK or status == MRM_INCONSISTENT:
            runs.kept -= n
            heap_uncharge(heap, <uint64_t>n << SEGMENT_SHIFT)
    return status


cdef void settle(heap_t *heap, place_t *place, const stretch_t *stretches, size_t count) noexcept nogil:
    """Keep what a commit that could neither be carried out nor undone shows of slots that were free.

    The first stretch may lie anywhere in its extent, which ``place`` tells; the others begin one.
    """
    cdef runs_t *runs = &heap.runs
    cdef size_t i
    for i in range(count):
        place.first = stretches[i].first
        if i:
            place.extent = place.first
        place.state = RUN_FREE
        extent_cut(runs, place, stretches[i].n)
        runs.kept += put_as_shown(heap, stretches[i].first, stretches[i].n)


cdef int take(heap_t *heap, uint32_t n, bint zero, uint32_t **frames) noexcept nogil:
    """Charge the heap for n slots, and take frames for them; without the lock.

    What is kept is given up before anybody is told that frames are short.
    """
    cdef int status
    if not heap_charge(heap, <uint64_t>n << SEGMENT_SHIFT):
        return failure().status
    if heap.pool != NULL and n > frames_available(&heap.pool.frames, heap.account, heap.how):
        mrm_lock(&heap.runs.lock)
        give_up(heap, 0)
        mrm_unlock(&heap.runs.lock)
    status = mapping_take(heap, n, zero, frames)
    if status != MRM_OK:
        heap_uncharge(heap, <uint64_t>n << SEGMENT_SHIFT)
    return status


cdef void untake(heap_t *heap, uint32_t *frames, uint32_t n) noexcept nogil:
    """Undo that."""
    mapping_give(heap, frames, n)
    if n:
        heap_uncharge(heap, <uint64_t>n << SEGMENT_SHIFT)


cdef int no_addresses(const heap_t *heap, uint32_t n) noexcept nogil:
    return mrm_fail(
        failure(), MRM_NO_ADDRESSES, 0, 0, heap.runs.base, <size_t>n << SEGMENT_SHIFT,
        b"heap %s has no %u MiB of addresses in a row: blocks lie scattered in its %u GiB; free some, or open another",
        heap.label, n * 2, heap.runs.slots >> 9,
    )


cdef bint too_many(const heap_t *heap, uint32_t n) noexcept nogil:
    """Whether a block needs more slots than there can be, with the failure."""
    if heap.pool != NULL and n > heap.segment_count:
        mrm_fail(
            failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, <size_t>n << SEGMENT_SHIFT,
            b"a block of %u frames is asked of heap %s, whose pool has %u: open a larger pool", n, heap.label,
            heap.segment_count,
        )
        return True
    if n > heap.runs.slots:
        no_addresses(heap, n)
        return True
    return False


cdef int refuse(const heap_t *heap, const void *block, const char *why) noexcept nogil:
    return mrm_fail(failure(), MRM_BAD_BLOCK, 0, 0, block, 0, b"%p is no block of heap %s: %s", block, heap.label, why)


cdef uint32_t live_at(const heap_t *heap, const void *block) noexcept nogil:
    """The first slot of the block that begins there; NO_RUN, with the failure, if none does."""
    cdef uint64_t offset = <uint64_t>(<const char *>block - heap.runs.base)
    cdef uint32_t slot = <uint32_t>(offset >> SEGMENT_SHIFT)
    if offset & (SEGMENT_BYTES - 1) == 0:
        if heap.runs.run[slot].state == RUN_LIVE:
            return slot
        if heap.runs.run[slot].state != RUN_NONE:
            refuse(heap, block, b"it was freed before")
            return NO_RUN
    refuse(heap, block, b"none begins at this address; it was freed before, or it never was one")
    return NO_RUN


cdef inline uint32_t slots_for(size_t nbytes) noexcept nogil:
    return <uint32_t>((nbytes + SEGMENT_BYTES - 1) >> SEGMENT_SHIFT) if nbytes else 1


# ---- malloc --------------------------------------------------------------------------

cdef bint find_place(runs_t *runs, uint32_t n, uint32_t slots_apart, place_t *place) noexcept nogil:
    """Where a new block could lie."""
    place.state = RUN_KEPT
    place.extent = extent_find(runs, RUN_KEPT, n, slots_apart)
    if place.extent == NO_RUN:
        place.state = RUN_FREE
        place.extent = extent_find(runs, RUN_FREE, n, slots_apart)
    if place.extent == NO_RUN:
        return False
    place.first = place.extent + extent_into(runs, place.extent, slots_apart)
    return True


cdef void *runs_allocate(heap_t *heap, size_t nbytes, size_t alignment, bint zero) noexcept nogil:
    """A block of whole slots; NULL, with the failure."""
    cdef runs_t *runs = &heap.runs
    cdef uint32_t n = slots_for(nbytes), have = 0
    cdef uint32_t slots_apart = <uint32_t>(alignment >> SEGMENT_SHIFT) if alignment > SEGMENT_BYTES else 1
    cdef uint32_t *frames = NULL
    cdef place_t place
    cdef stretch_t stretch
    cdef char *block
    cdef int status = MRM_OK
    if too_many(heap, n):
        return NULL
    if <uint64_t>n + slots_apart > runs.slots:
        no_addresses(heap, n)
        return NULL
    while True:
        mrm_lock(&runs.lock)
        if not find_place(runs, n, slots_apart, &place):
            status = no_addresses(heap, n)
            break
        if place.state == RUN_KEPT or have:
            break
        mrm_unlock(&runs.lock)
        status = take(heap, n, zero, &frames)
        if status != MRM_OK:
            return NULL
        have = n
    if status == MRM_OK and place.state == RUN_FREE:
        stretch.first = place.first
        stretch.n = n
        status = mapping_show(heap, &stretch, 1, frames, &have)
        if status == MRM_OK:
            frames = NULL
        elif status == MRM_INCONSISTENT:
            settle(heap, &place, &stretch, 1)
    if status == MRM_OK:
        extent_cut(runs, &place, n)
        extent_live(runs, place.first, n, nbytes)
        runs.live += n
        runs.blocks += 1
        runs.nbytes += nbytes
    mrm_unlock(&runs.lock)
    untake(heap, frames, have)
    if status != MRM_OK:
        return NULL
    block = runs.base + (<uint64_t>place.first << SEGMENT_SHIFT)
    if zero and place.state == RUN_KEPT:
        memset(block, 0, nbytes)
    return block


# ---- free ----------------------------------------------------------------------------

cdef void keep(heap_t *heap, uint32_t first, uint32_t n) noexcept nogil:
    """Keep slots that no block needs any more; and give up what is too much."""
    cdef runs_t *runs = &heap.runs
    extent_put(runs, first, n, RUN_KEPT)
    runs.kept += n
    runs.live -= n
    if runs.kept > runs.most_kept:
        give_up(heap, runs.most_kept >> 1)


cdef int runs_free(heap_t *heap, void *block) noexcept nogil:
    """End a block."""
    cdef runs_t *runs = &heap.runs
    cdef uint32_t first
    mrm_lock(&runs.lock)
    first = live_at(heap, block)
    if first != NO_RUN:
        runs.run[first].state = RUN_NONE
        runs.blocks -= 1
        runs.nbytes -= runs.run[first].nbytes
        keep(heap, first, runs.run[first].n)
    mrm_unlock(&runs.lock)
    return MRM_OK if first != NO_RUN else failure().status


cdef int runs_trim(heap_t *heap, uint64_t *private) noexcept nogil:
    """Give up all that is kept; adds to ``private`` the bytes that the kernel got."""
    cdef runs_t *runs = &heap.runs
    cdef uint32_t before
    cdef int status
    mrm_lock(&runs.lock)
    before = runs.kept
    status = give_up(heap, 0)
    private[0] += <uint64_t>(before - runs.kept) << SEGMENT_SHIFT if heap.pool == NULL else 0
    mrm_unlock(&runs.lock)
    return status


# ---- realloc ---------------------------------------------------------------------------

cdef uint32_t room_behind(runs_t *runs, uint32_t at, uint32_t wanted, stretch_t *fresh, size_t *count) noexcept nogil:
    """Slots from ``at`` on that are no block's, up to ``wanted``; and which of them have no memory."""
    cdef uint32_t found = 0, n
    count[0] = 0
    while found < wanted and at < runs.slots and runs.run[at].state != RUN_LIVE and count[0] < STRETCHES:
        n = min(runs.run[at].n, wanted - found)
        if runs.run[at].state == RUN_FREE:
            fresh[count[0]].first = at
            fresh[count[0]].n = n
            count[0] += 1
        found += n
        at += runs.run[at].n
    return found


cdef void take_in(runs_t *runs, uint32_t at, uint32_t wanted) noexcept nogil:
    """Cut ``wanted`` slots from ``at`` on out of the extents that they are in."""
    cdef place_t place
    cdef uint32_t n
    while wanted:
        place.first = place.extent = at
        place.state = runs.run[at].state
        n = min(runs.run[at].n, wanted)
        extent_cut(runs, &place, n)
        at += n
        wanted -= n


cdef bint find_larger(runs_t *runs, uint32_t n, place_t *place) noexcept nogil:
    """Where a block that grows could go: with room behind it to grow on."""
    cdef uint32_t spare
    place.state = RUN_FREE
    place.extent = extent_largest(runs)
    if place.extent == NO_RUN or runs.run[place.extent].n < n:
        return False
    spare = runs.run[place.extent].n - n
    place.first = place.extent + min(spare >> 1, n << 2)
    return True


cdef uint32_t fresh_slots(const stretch_t *fresh, size_t count) noexcept nogil:
    cdef size_t i
    cdef uint32_t n = 0
    for i in range(count):
        n += fresh[i].n
    return n


cdef void *runs_resize(heap_t *heap, void *block, size_t nbytes) noexcept nogil:
    """Make a block larger or smaller without copying; NULL, with the failure, leaves it as it was."""
    cdef runs_t *runs = &heap.runs
    cdef uint32_t first, had = 0, needed = 0, n = slots_for(nbytes), have = 0
    cdef uint32_t *frames = NULL
    cdef stretch_t fresh[STRETCHES]
    cdef size_t count = 0
    cdef place_t place
    cdef bint moves = False
    cdef int status = MRM_OK
    if too_many(heap, n):
        return NULL
    while True:
        mrm_lock(&runs.lock)
        first = live_at(heap, block)
        if first == NO_RUN:
            status = failure().status
            break
        had = runs.run[first].n
        if n <= had:
            needed = 0
            moves = False
            count = 0
            break
        moves = room_behind(runs, first + had, n - had, fresh, &count) < n - had
        if moves:
            if not find_larger(runs, n, &place):
                status = no_addresses(heap, n)
                break
            fresh[0].first = place.first + had
            fresh[0].n = n - had
            count = 1
        needed = fresh_slots(fresh, count)
        if needed == have:
            break
        # What lies behind the block may be another's by the time that frames are there.
        mrm_unlock(&runs.lock)
        untake(heap, frames, have)
        frames = NULL
        have = 0
        status = take(heap, needed, False, &frames)
        if status != MRM_OK:
            return NULL
        have = needed
    if status == MRM_OK and count:
        status = mapping_show(heap, fresh, count, frames, &have)
        if status == MRM_INCONSISTENT:
            if not moves:
                place.extent = fresh[0].first
            settle(heap, &place, fresh, count)
        if status == MRM_OK:
            frames = NULL
            if moves:
                status = mapping_move(heap, first, place.first, had)
                if status != MRM_OK:
                    if mapping_hide(heap, fresh, 1) == MRM_OK:
                        heap_uncharge(heap, <uint64_t>needed << SEGMENT_SHIFT)
                    else:
                        # They have memory, and are charged for: as good as freed.
                        place.first = fresh[0].first
                        extent_cut(runs, &place, needed)
                        extent_put(runs, fresh[0].first, needed, RUN_KEPT)
                        runs.kept += needed
    if status == MRM_OK:
        runs.nbytes += nbytes - runs.run[first].nbytes
        resize_live(heap, first, had, n, nbytes, moves, &place)
    mrm_unlock(&runs.lock)
    untake(heap, frames, have)
    if status != MRM_OK:
        return NULL
    return runs.base + (<uint64_t>(place.first if moves else first) << SEGMENT_SHIFT)


cdef void resize_live(
    heap_t *heap, uint32_t first, uint32_t had, uint32_t n, size_t nbytes, bint moves, const place_t *place
) noexcept nogil:
    """Have the extents say what became of a block of ``had`` slots that has ``n`` now."""
    cdef runs_t *runs = &heap.runs
    if moves:
        extent_cut(runs, place, n)
        runs.run[first].state = RUN_NONE
        extent_put(runs, first, had, RUN_FREE)
        extent_live(runs, place.first, n, nbytes)
    elif n >= had:
        take_in(runs, first + had, n - had)
        extent_live(runs, first, n, nbytes)
    else:
        extent_live(runs, first, n, nbytes)
        keep(heap, first + n, had - n)
        return
    runs.live += n - had


# ---- looking -------------------------------------------------------------------------

cdef size_t runs_usable(heap_t *heap, const void *block) noexcept nogil:
    """Bytes of the slots of a block; 0, with the failure, if none begins there."""
    cdef uint32_t first
    cdef size_t nbytes = 0
    mrm_lock(&heap.runs.lock)
    first = live_at(heap, block)
    if first != NO_RUN:
        nbytes = <size_t>heap.runs.run[first].n << SEGMENT_SHIFT
    mrm_unlock(&heap.runs.lock)
    return nbytes


cdef bint runs_contain(const heap_t *heap, const void *address) noexcept nogil:
    """Whether an address lies among the slots."""
    return <uint64_t>(<const char *>address - heap.runs.base) < <uint64_t>heap.runs.slots << SEGMENT_SHIFT
