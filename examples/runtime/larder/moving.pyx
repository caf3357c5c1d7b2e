"""A cycle: mark, choose the sparse pages, move what lives in them together, retire their addresses.

The order is such that a cycle either does not begin to move, or ends:

1. *Plan.* Sparse pages are emptied in order, the sparsest first, into fresh ones. How much
   lives in each is known, so that it is known beforehand where each object will be.
   The first fresh page is the collector's reserve. Each further one is a page that has
   been emptied by then: that page itself, at another address. So one frame in reserve is
   enough, however much is moved.
2. *Batch.* All of that goes to the kernel at once: the first fresh page is mapped, emptied
   pages that serve again are moved, the others are unmapped; all of it deferred, so
   that old addresses go on showing what they did. What the kernel refuses it refuses
   here, as a whole, and nothing has changed.
3. *Copy.* From old addresses to new ones. Nothing of it can fail.
4. *Retire.* All old addresses are taken away together, by an invalidation for each stretch
   of them; from then on they trap. If the kernel refuses, they go on showing
   frames, where nobody looks, and the next cycle begins by retiring them.
5. *Give.* The frames that are left over go back to the pool, and the reserve's promise to the
   collector.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from mrm cimport (
    MRM_DEFERRED, MRM_OK, MRM_PROT_READ_WRITE, MRM_REUSE_NOW, api, mrm_batch, mrm_import,
)

from larder.barrier cimport heal, popcount
from larder.layout cimport object_t
from larder.marking cimport free_blocks, is_marked, mark
from larder.space cimport (
    GRANULE_SHIFT, HISTORY, LINE, NONE, PAGE_FREE, PAGE_MOVED, PAGE_USED, RESERVE, cycle_t, page_address, page_bits,
    page_t, ref_t, slot_take,
)

mrm_import()


cdef extern from *:
    int lowest_bit "__builtin_ctzll"(unsigned long long bits) noexcept nogil

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)


cdef struct plan_t:
    uint32_t victims            # pages to be emptied: so many of space.victim
    uint32_t fresh              # pages that they are emptied into: so many of space.fresh


cdef uint64_t _now() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


# ---- plan -----------------------------------------------------------------------------

cdef int _ascending(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t *>a)[0]
    cdef uint64_t y = (<const uint64_t *>b)[0]
    return (x > y) - (x < y)


cdef uint32_t _candidates(space_t *space) noexcept nogil:
    """Pages that are sparse or empty, the sparsest first; how many. Not the one that objects are made in."""
    cdef uint32_t slot, n = 0
    for slot in range(space.slot_count):
        if space.page[slot].state == PAGE_USED and slot != space.open and space.page[slot].live <= space.sparse:
            space.victim[n] = <uint64_t>space.page[slot].live << 32 | slot
            n += 1
    qsort(space.victim, n, sizeof(uint64_t), _ascending)
    return n


cdef uint32_t _what_fits(const space_t *space, uint32_t slot, uint32_t room) noexcept nogil:
    """Granules of the first live objects of a page that fit into so many, whole objects only."""
    cdef uint32_t granule = 0, taken = 0
    cdef const object_t *object
    while granule < space.page[slot].top:
        object = <const object_t *>(page_address(space, slot) + (<uint64_t>granule << GRANULE_SHIFT))
        if is_marked(space, <ref_t>object):
            if taken + object.granules > room:
                break
            taken += object.granules
        granule += object.granules
    return taken


cdef void _count(space_t *space, uint32_t slot) noexcept nogil:
    """Write down how many granules live before each stretch of a page, for `forward`."""
    cdef const uint64_t *bits = page_bits(space, slot)
    cdef uint32_t *counts = space.counts + <uint64_t>slot * space.lines
    cdef uint32_t i, before = 0
    for i in range(space.words):
        if i % (LINE // 64) == 0:
            counts[i // (LINE // 64)] = before
        before += popcount(bits[i])


cdef void _forget(space_t *space, plan_t *plan) noexcept nogil:
    """Leave everything where it is."""
    cdef uint32_t i
    for i in range(plan.fresh):
        space.page[space.fresh[i]].state = PAGE_FREE
    plan.victims = plan.fresh = 0


cdef plan_t _plan(space_t *space) noexcept nogil:
    """Say for each page to be emptied where what lives in it goes. Fresh pages have a slot each, and no frame yet."""
    cdef uint32_t candidates = _candidates(space)
    cdef uint32_t i, slot, room = 0
    cdef page_t *page
    cdef page_t *last = NULL
    cdef ref_t to = 0
    cdef plan_t plan
    plan.victims = plan.fresh = 0
    for i in range(candidates):
        slot = <uint32_t>space.victim[i]
        page = &space.page[slot]
        page.first = to
        page.split = page.live
        if page.live > room:
            # A further fresh page has to be one that was emptied before what goes there is copied.
            if plan.fresh > i:
                break
            page.split = _what_fits(space, slot, room)
            if last != NULL:
                last.top += page.split
            space.fresh[plan.fresh] = slot_take(space)
            last = &space.page[space.fresh[plan.fresh]]
            page.second = page_address(space, space.fresh[plan.fresh])
            plan.fresh += 1
            last.top = page.live - page.split
            room = space.granules - last.top
            to = page.second + (<uint64_t>last.top << GRANULE_SHIFT)
        elif page.live:
            last.top += page.live
            room -= page.live
            to += <uint64_t>page.live << GRANULE_SHIFT
        plan.victims += 1
    if plan.victims <= plan.fresh:              # nothing would be gained
        _forget(space, &plan)
    return plan


# ---- batch, copy, retire --------------------------------------------------------------

cdef int _commit(space_t *space, const plan_t *plan, cycle_t *cycle) noexcept nogil:
    """Have the kernel show the fresh pages; old addresses show theirs until they are retired."""
    cdef uint32_t again = plan.fresh - 1 if plan.fresh else 0       # emptied pages that are filled
    cdef uint32_t i
    cdef mrm_batch *batch
    cdef int status
    for i in range(plan.victims):
        space.slot[i] = <uint32_t>space.victim[i]
    status = api.batch_begin(space.slots, &batch)
    if status != MRM_OK:
        return status
    if plan.fresh:
        status = api.batch_map_from(batch, space.objects, 0, space.fresh, 1, MRM_PROT_READ_WRITE, space.frame)
        if status == MRM_OK and again:
            status = api.batch_move(batch, space.slot, space.fresh + 1, again, MRM_DEFERRED)
    if status == MRM_OK:
        status = api.batch_unmap(batch, space.slot + again, plan.victims - again, MRM_DEFERRED)
    if status == MRM_OK:
        status = api.batch_commit(batch, &cycle.batch)
    api.batch_abort(batch)
    if status == MRM_OK:
        for i in range(plan.fresh):
            space.page[space.fresh[i]].frame = space.page[space.slot[i - 1]].frame if i else space.frame[0]
    return status


cdef void _copy(space_t *space, uint32_t slot) noexcept nogil:
    """Copy what lives in a page to where it is to be: stretch by stretch, in order."""
    cdef const page_t *page = &space.page[slot]
    cdef const uint64_t *bits = page_bits(space, slot)
    cdef ref_t source = page_address(space, slot)
    cdef ref_t to = page.first if page.split else page.second
    cdef uint32_t granule = 0, done = 0, n
    cdef uint64_t rest
    while done < page.live:
        rest = bits[granule // 64] >> granule % 64
        if rest == 0:
            granule = (granule // 64 + 1) * 64
            continue
        granule += lowest_bit(rest)
        rest = ~(bits[granule // 64] >> granule % 64)
        n = min(64 - granule % 64, lowest_bit(rest) if rest else 64)
        if done < page.split:
            n = min(n, page.split - done)       # the stretch may go on on the second page
        memcpy(<void *>to, <void *>(source + (<uint64_t>granule << GRANULE_SHIFT)), <size_t>n << GRANULE_SHIFT)
        granule += n
        done += n
        to += <uint64_t>n << GRANULE_SHIFT
        if done == page.split:
            to = page.second


cdef int _retire(space_t *space, cycle_t *cycle) noexcept nogil:
    """Let all old addresses trap from now on."""
    cdef int status = api.reservation_retire(space.slots, &cycle.retire)
    space.unretired = status != MRM_OK
    return status


cdef int _move(space_t *space, cycle_t *cycle) noexcept nogil:
    """Empty what is sparse. A status other than MRM_OK: nothing was moved."""
    cdef plan_t plan = _plan(space)
    cdef uint32_t i, slot, kept
    cdef uint64_t owner
    cdef int status
    if plan.victims == 0:
        return MRM_OK
    for i in range(plan.victims):
        _count(space, <uint32_t>space.victim[i])
    status = api.account_transfer(space.pool, space.collector, space.objects, RESERVE) if plan.fresh else MRM_OK
    if status == MRM_OK:
        status = _commit(space, &plan, cycle)
        if status != MRM_OK and plan.fresh:
            api.account_transfer(space.pool, space.objects, space.collector, RESERVE)
    if status != MRM_OK:
        _forget(space, &plan)
        return status
    for i in range(plan.victims):
        slot = space.slot[i]
        _copy(space, slot)
        space.page[slot].state = PAGE_MOVED
        cycle.copied += <uint64_t>space.page[slot].live << GRANULE_SHIFT
    for owner in range(space.owner_count):
        heal(space, &space.owner[owner])
    _retire(space, cycle)
    # Emptied pages that were not filled again are free, and the promises that they were held on.
    kept = plan.fresh - 1 if plan.fresh else 0
    for i in range(kept, plan.victims):
        space.frame[i - kept] = space.page[space.slot[i]].frame
    api.give_many(space.pool, space.frame, plan.victims - kept, MRM_REUSE_NOW)
    if plan.fresh:
        api.account_transfer(space.pool, space.objects, space.collector, RESERVE)
        slot = space.fresh[plan.fresh - 1]
        if space.open == <uint32_t>NONE or space.page[slot].top < space.page[space.open].top:
            space.open = slot                   # it has more room
    api.account_fund(space.pool, space.objects, -<int64_t>(plan.victims - plan.fresh))
    space.used -= plan.victims - plan.fresh
    cycle.emptied = plan.victims
    cycle.filled = plan.fresh
    return MRM_OK


cdef int collect(space_t *space) noexcept nogil:
    """One cycle. A status other than MRM_OK: the kernel refused, and everything is where it was."""
    cdef cycle_t *cycle = &space.cycle[space.cycles % HISTORY]
    cdef uint64_t begun = _now()
    cdef int status = MRM_OK
    memset(cycle, 0, sizeof(cycle_t))
    if space.unretired:
        status = _retire(space, cycle)
    if status != MRM_OK:
        return status
    cycle.pages = space.used
    mark(space, cycle)
    free_blocks(space, cycle)
    cycle.mark_ns = _now() - begun
    # Pages that were mapped ahead are empty ones, and go with them: somebody is short of frames.
    space.ahead_count = 0
    status = _move(space, cycle)
    cycle.pause_ns = _now() - begun
    cycle.move_ns = cycle.pause_ns - cycle.mark_ns
    space.cycles += 1
    return status
