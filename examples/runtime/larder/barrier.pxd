"""The load barrier: a reference that was read is a good one, and is put right where it lay.

Moving objects does not look for the references to them. Whoever loads one asks whether
its page was moved (one load from a table that is small and warm); if so, computes where
the object is now and writes that back, so that the next load of it costs nothing more:
references heal as they are used, and the next marking heals the rest. Then no reference
to the page is left, and its slot may show something else.

Where an object went is not written down. Live objects were moved in their order, without
gaps, so that it follows from how many live granules lay before it on its page: a count
for each stretch of 512, and the bits of the stretch itself. They may have gone to two pages,
as a page may be filled up on the way. So an emptied page's memory is free at once, and
serves the same cycle again.

That a load was forgotten does not go unnoticed: the old addresses trap.
"""

from libc.stdint cimport uint32_t, uint64_t

from larder.space cimport (
    GRANULE_SHIFT, LINE, PAGE_MOVED, granule_of, page_bits, page_t, ref_t, slot_of, space_t,
)


cdef extern from *:
    int popcount "__builtin_popcountll"(unsigned long long bits) noexcept nogil


cdef inline ref_t forward(const space_t *space, ref_t ref) noexcept nogil:
    """Where an object is that lay on a page that was moved."""
    cdef uint32_t slot = slot_of(space, ref)
    cdef uint32_t granule = granule_of(space, ref)
    cdef const page_t *page = &space.page[slot]
    cdef const uint64_t *bits = page_bits(space, slot)
    cdef uint32_t before = space.counts[<uint64_t>slot * space.lines + granule // LINE]
    cdef uint32_t i
    for i in range(granule // LINE * (LINE // 64), granule // 64):
        before += popcount(bits[i])
    before += popcount(bits[granule // 64] & ((<uint64_t>1 << granule % 64) - 1))
    if before < page.split:
        return page.first + (<uint64_t>before << GRANULE_SHIFT)
    return page.second + (<uint64_t>(before - page.split) << GRANULE_SHIFT)


cdef inline ref_t heal(const space_t *space, ref_t *where) noexcept nogil:
    """Load a reference; if its object was moved, the new one, which is stored back. 0 stays 0."""
    if where[0] and space.page[slot_of(space, where[0])].state == PAGE_MOVED:
        where[0] = forward(space, where[0])
    return where[0]
