"""Extents: the slots of a heap, parted into those that are free, kept, or a block's.

*Free* extents are addresses without memory, *kept* ones have memory but no block, *live* ones are blocks. An extent's
size is noted at both of its ends, and free and kept ones are in bins by the logarithm of their size: so
what is freed is joined with its neighbours, and what is wanted is found, by a few looks.

All of this is books only, under the lock of the runs: what is shown where, runs.pyx sees to.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mrm.heap.page cimport SEGMENT_SHIFT
from mrm.heap.state cimport NO_RUN, RUN_BINS, RUN_FREE, RUN_KEPT, RUN_LIVE, RUN_NONE, run_t


cdef extern from "heap/bits.h" nogil:
    int mrm_log2(uint64_t v)


cdef enum:
    LOOKS = 16                  # extents of one bin that are tried


cdef inline uint32_t *bins_of(runs_t *runs, uint32_t state) noexcept nogil:
    return &runs.free_bins[0] if state == RUN_FREE else &runs.kept_bins[0]


cdef void extent_mark(runs_t *runs, uint32_t first, uint32_t n, uint32_t state) noexcept nogil:
    """Note an extent at both ends."""
    runs.run[first + n - 1].n = n
    runs.run[first + n - 1].state = RUN_NONE
    runs.run[first].n = n
    runs.run[first].state = <uint8_t>state


cdef void extent_link(runs_t *runs, uint32_t first, uint32_t n, uint32_t state) noexcept nogil:
    """Make slots a free or kept extent, in its bin."""
    cdef uint32_t *head = &bins_of(runs, state)[mrm_log2(n)]
    extent_mark(runs, first, n, state)
    runs.run[first].previous = NO_RUN
    runs.run[first].next = head[0]
    if head[0] != NO_RUN:
        runs.run[head[0]].previous = first
    head[0] = first


cdef void extent_unlink(runs_t *runs, uint32_t first) noexcept nogil:
    """Take a free or kept extent out of its bin."""
    cdef run_t *run = &runs.run[first]
    if run.next != NO_RUN:
        runs.run[run.next].previous = run.previous
    if run.previous != NO_RUN:
        runs.run[run.previous].next = run.next
    else:
        bins_of(runs, run.state)[mrm_log2(run.n)] = run.next
    run.state = RUN_NONE


cdef void extent_put(runs_t *runs, uint32_t first, uint32_t n, uint32_t state) noexcept nogil:
    """Make slots free or kept ones, joined with neighbours that are the same."""
    cdef uint32_t other
    if n == 0:
        return
    if first > 0:
        other = first - runs.run[first - 1].n
        if runs.run[other].state == state:
            extent_unlink(runs, other)
            n += first - other
            first = other
    other = first + n
    if other < runs.slots and runs.run[other].state == state:
        extent_unlink(runs, other)
        n += runs.run[other].n
    extent_link(runs, first, n, state)


cdef uint32_t extent_into(const runs_t *runs, uint32_t first, uint32_t slots_apart) noexcept nogil:
    """Slots from a slot to the next one whose address is a multiple of so many."""
    cdef uint64_t number = (<uint64_t>runs.base >> SEGMENT_SHIFT) + first
    return <uint32_t>(-number & (slots_apart - 1))


cdef uint32_t extent_find(runs_t *runs, uint32_t state, uint32_t n, uint32_t slots_apart) noexcept nogil:
    """The first slot of an extent that has n slots, the first at a multiple of so many; or NO_RUN."""
    cdef uint32_t *bins = bins_of(runs, state)
    cdef uint32_t bin = <uint32_t>mrm_log2(n), first, looks
    while bin < RUN_BINS:
        first = bins[bin]
        looks = 0
        while first != NO_RUN and looks < LOOKS:
            if n + extent_into(runs, first, slots_apart) <= runs.run[first].n:
                return first
            first = runs.run[first].next
            looks += 1
        bin += 1
    return NO_RUN


cdef uint32_t extent_largest(const runs_t *runs) noexcept nogil:
    """The largest of some large free extents; or NO_RUN."""
    cdef uint32_t bin = RUN_BINS, first, best = NO_RUN, looks = 0
    while bin and best == NO_RUN:
        bin -= 1
        first = runs.free_bins[bin]
        while first != NO_RUN and looks < LOOKS:
            if best == NO_RUN or runs.run[first].n > runs.run[best].n:
                best = first
            first = runs.run[first].next
            looks += 1
    return best


cdef void extent_cut(runs_t *runs, const place_t *place, uint32_t n) noexcept nogil:
    """Cut n slots out of an extent; what is left of it stays what it was."""
    cdef uint32_t end = place.extent + runs.run[place.extent].n
    extent_unlink(runs, place.extent)
    if place.first > place.extent:
        extent_link(runs, place.extent, place.first - place.extent, place.state)
    if place.first + n < end:
        extent_link(runs, place.first + n, end - place.first - n, place.state)
    if place.state == RUN_KEPT:
        runs.kept -= n


cdef void extent_live(runs_t *runs, uint32_t first, uint32_t n, size_t nbytes) noexcept nogil:
    """Make slots, which are in no bin, a block of so many bytes."""
    extent_mark(runs, first, n, RUN_LIVE)
    runs.run[first].nbytes = nbytes


cdef void extents_open(runs_t *runs) noexcept nogil:
    """Begin with one free extent of all slots; the table is there, and zero."""
    cdef uint32_t i
    for i in range(<uint32_t>RUN_BINS):
        runs.free_bins[i] = runs.kept_bins[i] = NO_RUN
    extent_link(runs, 0, runs.slots, RUN_FREE)
