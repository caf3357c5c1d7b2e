"""The plan of a commit: what is checked, and the steps that are made of it.

A batch says what slots shall show. Since a frame can be mapped by its number at any
time (it is a place in a file), the order of the changes does not matter and nothing
can depend on anything in a circle: the plan only compares what each slot shows with
what it shall show. claims.pyx checks the batch and makes changes of it, one a slot; here
they are sorted and become steps: changes that are neighbours in slots and frames are one
call. Fills come first, since showing something where nothing was costs no invalidation;
then what takes something away, in as few invalidations as the layout allows.

Lanes, and what decides between them. Costs in microseconds on the machine of
docs/design.md; only their proportions matter:

- fill: one mmap a run (3.2), page tables by one madvise for all neighbouring runs (0.5
  a page), which is cheaper than MAP_POPULATE in each call (1.5 a run).
- move of a run: mremap (14.5 + 0.2 a page, and 1.8 to seal the hole that it leaves), or
  fill and seal the source (one invalidation for all sources that lie together).
- taking away: one seal for slots that lie together, holes included (1.5 + 12 for the
  invalidation). Scattered slots of one kernel mapping: empty the whole mapping's page
  tables first (one invalidation), then seal without, and populate the survivors again
  (1.4 each). A concurrent access in between takes a page fault and goes on.
- protection: mapping the run anew costs one invalidation, mprotect two; for long runs,
  and for small pages, filling the page tables again costs more than that.

mremap is never used where the destination holds a whole aligned GiB (or what one page
table of frames spans on this machine): such a mapping
may share page tables, and there the kernel waits for a lock that it holds itself, for
ever (seen on 6.18: move_hugetlb_page_tables holds i_mmap_rwsem, huge_pmd_share asks
for it). Nor where the kernel places mappings by itself, which could fall into the hole.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_OK, MRM_PROT_NONE, MRM_SLOT_DEFERRED, MRM_SLOT_EMPTY,
)
from mrm.physical.showing cimport frames_settle, frames_unmap
from mrm.physical.stack cimport NO_FRAME
from mrm.space.batch cimport batch_t
from mrm.space.claims cimport (
    CLAIM_FILLED, CLAIM_MOVED, CLAIM_STAYS, CLAIM_VACATED,
    add_change, claim_slots, collect_changes, plan_room, sort_changes, unclaim_slots,
)
from mrm.space.reservation cimport (
    NO_SLOT, change_t, plan_t, reservation_address, reservation_t, slot_t, step_t,
)
from mrm.system.features cimport feature_missing, FEATURE_MREMAP, FEATURE_POPULATE, FEATURE_ZAP
from mrm.system.pages cimport table_span
from mrm.system.ranges cimport range_is_low


cdef extern from "system/atomic.h" nogil:
    void mrm_store8(uint8_t *p, uint8_t v)


cdef enum:
    HOLE = 64                   # empty slots that a seal reaches over, to be one call
    GAP = 8                     # slots that advice reaches over, to be one call
    PROTECT_BY_MAPPING = 16     # pages of a run up to which mapping anew beats mprotect

cdef double COST_MAP = 5.0          # by itself: with population and advice of its own
cdef double COST_MAP_PAGE = 0.4
cdef double COST_SEAL = 1.5
cdef double COST_SEAL_PAGE = 0.2
cdef double COST_SHOOTDOWN = 12.0
cdef double COST_MREMAP = 16.3
cdef double COST_MREMAP_PAGE = 0.2
cdef double COST_PUT_BACK = 1.4


cdef const char *step_name(int kind) noexcept nogil:
    """What explain() calls a step."""
    if kind == STEP_MAP:
        return b"map"
    if kind == STEP_REPLACE:
        return b"replace"
    if kind == STEP_SEAL:
        return b"seal"
    if kind == STEP_MREMAP:
        return b"mremap"
    if kind == STEP_MPROTECT:
        return b"mprotect"
    if kind == STEP_ZAP:
        return b"zap"
    if kind == STEP_POPULATE:
        return b"populate"
    return b"advise"


# ---- steps ---------------------------------------------------------------------

cdef step_t *_add_step(plan_t *plan, uint8_t kind, uint32_t first, uint32_t n) noexcept nogil:
    cdef step_t *step = &plan.steps[plan.step_count]
    plan.step_count += 1
    memset(step, 0, sizeof(step_t))
    step.kind = kind
    step.first = first
    step.n = n
    return step


cdef bint _fills(const reservation_t *r, const change_t *change) noexcept nogil:
    """Shows something where nothing was."""
    return change.frame != NO_FRAME and r.slot[change.slot].state == MRM_SLOT_EMPTY


cdef bint _takes_away(const reservation_t *r, const change_t *change) noexcept nogil:
    """Ends what is shown now, so that the kernel has to invalidate."""
    cdef const slot_t *s = &r.slot[change.slot]
    if s.state == MRM_SLOT_EMPTY or change.deferred or s.claimed & CLAIM_MOVED:
        return False
    return change.frame != s.frame or change.protection != s.protection or s.state == MRM_SLOT_DEFERRED


cdef bint _vacated_now(const reservation_t *r, uint32_t slot) noexcept nogil:
    """The source of a move that is empty after the commit."""
    return (r.slot[slot].claimed & (CLAIM_VACATED | CLAIM_FILLED | CLAIM_STAYS)) == CLAIM_VACATED


cdef size_t _run(const reservation_t *r, size_t i, bint moved) noexcept nogil:
    """How many changes from ``i`` on are one run: slots, frames and protection go on.

    With ``moved``, it is a run only as far as one mremap can carry it: all of it comes
    from slots that go on, lie in one mapping of the kernel, and are left empty.
    """
    cdef const change_t *c = r.plan.changes
    cdef bint fills = _fills(r, &c[i])
    cdef size_t j = i + 1
    while (
        j < r.plan.change_count
        and c[j].slot == c[j - 1].slot + 1
        and c[j].frame == c[j - 1].frame + 1
        and c[j].protection == c[i].protection
        and c[j].counted == c[i].counted        # a change of protection counts nothing
        and _fills(r, &c[j]) == fills
        and (fills or _takes_away(r, &c[j]))
    ):
        if moved and (
            c[j].source == NO_SLOT or c[j].source != c[j - 1].source + 1
            or r.slot[c[j].source].cut or not _vacated_now(r, c[j].source)
        ):
            break
        j += 1
    return j - i


cdef bint _holds_whole_table(const reservation_t *r, uint32_t first, size_t n) noexcept nogil:
    """Whether slots cover all that one page table spans: a GiB, where base pages have 4 KiB."""
    cdef uint64_t span = table_span()
    cdef uint64_t start = <uint64_t>reservation_address(r, first)
    cdef uint64_t end = start + (<uint64_t>n << r.pool.layout.frame_shift)
    return ((start + span - 1) & ~(span - 1)) + span <= end


cdef bint _only_holes(const reservation_t *r, uint32_t first, uint32_t end) noexcept nogil:
    """Whether the slots between two seals show nothing, so that one call does for both."""
    cdef uint32_t s
    if end - first > HOLE:
        return False
    for s in range(first, end):
        if r.slot[s].state != MRM_SLOT_EMPTY or r.slot[s].claimed & CLAIM_FILLED:
            return False
    return True


cdef double _cost_of_sources(const reservation_t *r) noexcept nogil:
    """What taking the sources of moves away costs for each run of a move."""
    cdef const change_t *c = r.plan.changes
    cdef size_t i
    cdef uint32_t end = 0
    cdef double blocks = 0, runs = 0
    cdef uint32_t source = NO_SLOT
    for i in range(r.plan.change_count):
        if c[i].frame == NO_FRAME and not c[i].deferred:
            blocks += blocks == 0 or not _only_holes(r, end, c[i].slot)
            end = c[i].slot + 1
        if c[i].source != NO_SLOT:
            runs += source == NO_SLOT or c[i].source != source + 1
            source = c[i].source
    return (COST_SEAL + COST_SHOOTDOWN) * blocks / max(runs, 1.0)


cdef bint _goes_without(reservation_t *r, int feature) noexcept nogil:
    """Whether the plan, which would use the feature here, has to do without; noted for explain()."""
    # These are about huge pages: small ones were always moved by mremap.
    if feature == FEATURE_MREMAP and r.pool.layout.backing != MRM_BACKING_HUGETLB:
        return False
    if not feature_missing(feature):
        return False
    r.plan.without |= <uint32_t>1 << feature
    return True


cdef bint _better_moved(reservation_t *r, size_t i, size_t n, double source_cost) noexcept nogil:
    """Whether mremap may carry the run from change ``i`` on, and costs less than fill and seal."""
    cdef const change_t *c = &r.plan.changes[i]
    if c.source == NO_SLOT or not _vacated_now(r, c.source):
        return False
    if not range_is_low(r.range) or _holds_whole_table(r, c.slot, n):
        return False
    if COST_MREMAP + COST_MREMAP_PAGE * n >= COST_MAP + (COST_MAP_PAGE + COST_SEAL_PAGE) * n + source_cost:
        return False
    return not _goes_without(r, FEATURE_MREMAP)


cdef void _plan_fills(reservation_t *r) noexcept nogil:
    """Maps and moves: what shows something where nothing was."""
    cdef plan_t *plan = &r.plan
    cdef change_t *c = plan.changes
    cdef step_t *step
    cdef slot_t *s
    cdef size_t i = 0, n, j
    cdef double source_cost = _cost_of_sources(r)
    while i < plan.change_count:
        if not _fills(r, &c[i]):
            i += 1
            continue
        n = _run(r, i, True)
        if _better_moved(r, i, n, source_cost):
            step = _add_step(plan, STEP_MREMAP, c[i].slot, <uint32_t>n)
            step.source = c[i].source
            step.shoots = 1
            for j in range(n):
                s = &r.slot[c[i].source + j]
                mrm_store8(&s.claimed, s.claimed | CLAIM_MOVED)
        else:
            n = _run(r, i, False)
            step = _add_step(plan, STEP_MAP, c[i].slot, <uint32_t>n)
        step.frame = c[i].frame
        step.protection = c[i].protection
        plan.runs += 1
        i += n


cdef size_t _plan_taking(reservation_t *r) noexcept nogil:
    """Seals, replacements and protections, one step a run; the first step's index."""
    cdef plan_t *plan = &r.plan
    cdef change_t *c = plan.changes
    cdef size_t begin = plan.step_count, i = 0, n
    cdef step_t *step = NULL
    cdef bint protects
    cdef uint32_t end, j
    while i < plan.change_count:
        if not _takes_away(r, &c[i]):
            i += 1
            continue
        if c[i].frame == NO_FRAME:
            if step != NULL and step.kind == STEP_SEAL and _only_holes(r, step.first + step.n, c[i].slot):
                step.n = c[i].slot + 1 - step.first
            else:
                step = _add_step(plan, STEP_SEAL, c[i].slot, 1)
                step.shoots = 1
                plan.runs += 1
            i += 1
            continue
        protects = c[i].frame == r.slot[c[i].slot].frame and not c[i].counted
        n = _run(r, i, False)
        if protects and (n > PROTECT_BY_MAPPING or r.pool.layout.backing != MRM_BACKING_HUGETLB):
            step = _add_step(plan, STEP_MPROTECT, c[i].slot, <uint32_t>n)
            step.shoots = 2
            end = c[i].slot + <uint32_t>n
            for j in range(c[i].slot + 1, end):
                if r.slot[j].cut and step.shoots < 254:
                    step.shoots += 2
        else:
            step = _add_step(plan, STEP_REPLACE, c[i].slot, <uint32_t>n)
            step.shoots = 1
            step.populate = c[i].protection != MRM_PROT_NONE
        step.frame = c[i].frame
        step.protection = c[i].protection
        plan.runs += 1
        i += n
    return begin


cdef bint _one_mapping(const reservation_t *r, uint32_t first, uint32_t end) noexcept nogil:
    """Whether the kernel has [first, end) as (part of) one mapping."""
    cdef uint32_t s
    for s in range(first + 1, end):
        if r.slot[s].cut:
            return False
    return True


cdef bint _zap_joins(const reservation_t *r, const step_t *a, const step_t *b) noexcept nogil:
    """Whether emptying what lies between two steps is cheaper than an invalidation."""
    if a.kind == STEP_MPROTECT or b.kind == STEP_MPROTECT:
        return False
    if COST_PUT_BACK * (b.first - a.first - a.n) >= COST_SHOOTDOWN:
        return False
    return _one_mapping(r, a.first, b.first + b.n)


cdef void _plan_zaps(reservation_t *r, size_t begin) noexcept nogil:
    """Puts one zap in front of neighbours that it makes free of invalidations.

    The steps from ``begin`` on are copied behind the end, with the zaps among them,
    and moved down again: there is room for as many once more.
    """
    cdef plan_t *plan = &r.plan
    cdef size_t end = plan.step_count, i, j, k
    cdef step_t *step
    cdef step_t *old = plan.steps
    cdef bint zaps = False
    if r.pool.layout.backing != MRM_BACKING_HUGETLB:
        return      # putting back 512 small pages a frame, or more, costs more than it saves
    i = begin
    while i < end:
        j = i + 1
        while j < end and _zap_joins(r, &old[j - 1], &old[j]) and not _goes_without(r, FEATURE_ZAP):
            j += 1
        if j - i > 1:
            zaps = True
            step = _add_step(plan, STEP_ZAP, old[i].first, old[j - 1].first + old[j - 1].n - old[i].first)
            step.shoots = 1
        for k in range(i, j):
            step = &plan.steps[plan.step_count]
            plan.step_count += 1
            step[0] = old[k]
            if j - i > 1:
                step.shoots = 0
        for k in range(i + 1, j):
            # The survivors between two steps get their page tables back at once, or by their next touch.
            if old[k].first > old[k - 1].first + old[k - 1].n and not _goes_without(r, FEATURE_POPULATE):
                step = _add_step(
                    plan, STEP_POPULATE, old[k - 1].first + old[k - 1].n, old[k].first - old[k - 1].first - old[k - 1].n
                )
                step.protection = r.slot[step.first].protection
        i = j
    if not zaps:
        plan.step_count = end
        return
    for k in range(end, plan.step_count):
        old[begin + k - end] = old[k]
    plan.step_count -= end - begin


cdef void _plan_population(reservation_t *r, size_t begin) noexcept nogil:
    """Page tables for the runs mapped from ``begin`` on: one call for neighbours."""
    cdef plan_t *plan = &r.plan
    cdef step_t *steps = plan.steps
    cdef step_t *populate
    cdef size_t end = plan.step_count, i = begin, j
    while i < end:
        if steps[i].kind != STEP_MAP or steps[i].protection == MRM_PROT_NONE:
            i += 1
            continue
        j = i + 1
        while (
            j < end and steps[j].kind == STEP_MAP and steps[j].protection == steps[i].protection
            and steps[j].first == steps[j - 1].first + steps[j - 1].n
            and not _goes_without(r, FEATURE_POPULATE)
        ):
            j += 1
        if j - i == 1:
            steps[i].populate = 1
        else:
            populate = _add_step(
                plan, STEP_POPULATE, steps[i].first, steps[j - 1].first + steps[j - 1].n - steps[i].first
            )
            populate.protection = steps[i].protection
        i = j


cdef void _plan_advice(reservation_t *r, size_t begin) noexcept nogil:
    """Advice for what was mapped from ``begin`` on, reaching over small gaps."""
    cdef plan_t *plan = &r.plan
    cdef step_t *steps = plan.steps
    cdef size_t end = plan.step_count, i
    cdef uint32_t first = 0, stop = 0
    for i in range(begin, end):
        if steps[i].kind != STEP_MAP and steps[i].kind != STEP_REPLACE:
            continue
        if stop and steps[i].first >= stop and steps[i].first - stop <= GAP:
            stop = steps[i].first + steps[i].n
            continue
        if stop:
            _add_step(plan, STEP_ADVISE, first, stop - first)
        first = steps[i].first
        stop = first + steps[i].n
    if stop:
        _add_step(plan, STEP_ADVISE, first, stop - first)


cdef void _plan_steps(reservation_t *r) noexcept nogil:
    cdef size_t begin
    r.plan.without = 0
    _plan_fills(r)
    _plan_population(r, 0)
    _plan_advice(r, 0)
    begin = _plan_taking(r)
    _plan_zaps(r, begin)
    _plan_advice(r, begin)


# ---- the plan ------------------------------------------------------------------

cdef int plan_batch(batch_t *batch) noexcept nogil:
    """Check the whole batch and plan it; under the reservation's lock.

    On success frames are counted as mapped and deferred as the plan will leave them:
    ``plan_withdraw`` takes that back.
    """
    cdef reservation_t *r = batch.reservation
    cdef int status = plan_room(&r.plan, 2 * batch.count)
    if status != MRM_OK:
        return status
    status = claim_slots(batch)
    if status == MRM_OK:
        status = collect_changes(batch)
        if status == MRM_OK:
            sort_changes(&r.plan)
            _plan_steps(r)
        else:
            plan_withdraw(r)
    unclaim_slots(batch)
    return status


cdef void plan_withdraw(reservation_t *r) noexcept nogil:
    """Take back what planning counted."""
    cdef change_t *c
    cdef size_t i
    for i in range(r.plan.change_count):
        c = &r.plan.changes[i]
        if c.counted:
            frames_unmap(&r.pool.frames, c.frame)
        if c.deferred:
            frames_settle(&r.pool.frames, r.slot[c.slot].frame)
    r.plan.change_count = r.plan.step_count = 0


cdef int plan_retire(reservation_t *r) noexcept nogil:
    """Plan to take every deferred alias away; under the reservation's lock."""
    cdef uint32_t s
    cdef int status = plan_room(&r.plan, r.deferred)
    if status != MRM_OK:
        return status
    for s in range(r.deferred_first, r.deferred_end):
        if r.slot[s].state == MRM_SLOT_DEFERRED:
            add_change(r, s, NO_FRAME, 0, NO_SLOT)
    _plan_steps(r)
    return MRM_OK


cdef int64_t plan_growth(const reservation_t *r) noexcept nogil:
    """Mappings that the plan adds to the kernel's, at the most."""
    cdef int64_t growth = 0
    cdef uint32_t previous = NO_SLOT
    cdef const step_t *step
    cdef size_t i
    for i in range(r.plan.step_count):
        step = &r.plan.steps[i]
        if step.kind == STEP_ZAP or step.kind == STEP_POPULATE or step.kind == STEP_ADVISE:
            continue
        growth += step.first != 0 and step.first != previous and not r.slot[step.first].cut
        previous = step.first + step.n
        growth += previous < r.slots and not r.slot[previous].cut
        if step.kind == STEP_MREMAP:
            growth += step.source != 0 and not r.slot[step.source].cut
            growth += step.source + step.n < r.slots and not r.slot[step.source + step.n].cut
    return growth
