"""What a batch may do to slots, checked and marked; and the changes that come of it.

Two passes of the plan (plan.pyx makes its steps of what comes out):

1. *claim*: every slot is checked and marked, first those that the batch vacates, then
   those that it fills. A slot may be both, so that a row of pages can slide by one.
2. *collect*: what each marked slot shall show becomes a change, and frames are counted
   as mapped and deferred as the commit will leave them. The first objection is the
   batch's end; ``plan_withdraw`` takes back what was counted until then.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport qsort, realloc

from mrm cimport (
    MRM_BAD_SLOT, MRM_DEFERRED, MRM_MISSING_OK, MRM_NO_MEMORY, MRM_OK, MRM_SLOT_DEFERRED, MRM_SLOT_SHOWN,
)
from mrm.physical.showing cimport frames_defer, frames_map
from mrm.physical.stack cimport NO_FRAME
from mrm.space.batch cimport OP_ALIAS, OP_MAP, OP_MOVE, OP_PROTECT, OP_SWAP, OP_UNMAP, batch_t, op_t
from mrm.space.reservation cimport (
    NO_SLOT, change_t, plan_t, reservation_address, reservation_t, slot_t, step_t,
)
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/atomic.h" nogil:
    void mrm_store8(uint8_t *p, uint8_t v)


# ---- claim ---------------------------------------------------------------------

cdef int _in_range(reservation_t *r, uint32_t slot, const char *operation) noexcept nogil:
    if slot < r.slots:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_BAD_SLOT, 0, 0, NULL, 0, b"%s: slot %u is none of reservation %u's: they are 0 to %u",
        operation, slot, r.number, r.slots - 1,
    )


cdef int _vacate(reservation_t *r, uint32_t slot, uint8_t claim, const char *operation) noexcept nogil:
    """Claim a slot that must show something, which is to be taken from it."""
    cdef slot_t *s
    cdef int status = _in_range(r, slot, operation)
    if status != MRM_OK:
        return status
    s = &r.slot[slot]
    if s.claimed & (CLAIM_VACATED | CLAIM_CHANGED):
        return mrm_fail(
            failure(), MRM_BAD_SLOT, 0, 0, reservation_address(r, slot), 0,
            b"%s: slot %u is used twice in this batch; put the second change into a batch of its own", operation, slot,
        )
    if s.state != MRM_SLOT_SHOWN:
        return mrm_fail(
            failure(), MRM_BAD_SLOT, 0, 0, reservation_address(r, slot), 0,
            b"%s: slot %u %s", operation, slot,
            b"was unmapped already, deferred until the next retire" if s.state == MRM_SLOT_DEFERRED
            else b"shows nothing (missing_ok=True lets unmap pass over it)",
        )
    mrm_store8(&s.claimed, s.claimed | claim)
    return MRM_OK


cdef int _fill(reservation_t *r, uint32_t slot, const char *operation) noexcept nogil:
    """Claim a slot that must show nothing once the batch's vacated ones are."""
    cdef slot_t *s
    cdef int status = _in_range(r, slot, operation)
    if status != MRM_OK:
        return status
    s = &r.slot[slot]
    if s.claimed & (CLAIM_FILLED | CLAIM_CHANGED):
        return mrm_fail(
            failure(), MRM_BAD_SLOT, 0, 0, reservation_address(r, slot), 0,
            b"%s: slot %u is used twice in this batch; put the second change into a batch of its own", operation, slot,
        )
    if s.state == MRM_SLOT_DEFERRED or s.claimed & CLAIM_STAYS:
        return mrm_fail(
            failure(), MRM_BAD_SLOT, 0, 0, reservation_address(r, slot), 0,
            b"%s: slot %u still shows frame %u until the next retire: call retire() first", operation, slot, s.frame,
        )
    if s.state == MRM_SLOT_SHOWN and not s.claimed & CLAIM_VACATED:
        return mrm_fail(
            failure(), MRM_BAD_SLOT, 0, 0, reservation_address(r, slot), 0,
            b"%s: slot %u is taken, it shows frame %u: unmap it in this batch, or before", operation, slot, s.frame,
        )
    mrm_store8(&s.claimed, s.claimed | CLAIM_FILLED)
    return MRM_OK


cdef int claim_slots(batch_t *batch) noexcept nogil:
    """Check and mark every slot of the batch."""
    cdef reservation_t *r = batch.reservation
    cdef size_t i
    cdef op_t *op
    cdef int status = MRM_OK
    cdef uint8_t vacated
    for i in range(batch.count):
        op = &batch.ops[i]
        vacated = CLAIM_VACATED | CLAIM_STAYS if op.flags & MRM_DEFERRED else CLAIM_VACATED
        if op.op == OP_UNMAP:
            if op.flags & MRM_MISSING_OK and op.slot < r.slots and r.slot[op.slot].state != MRM_SLOT_SHOWN:
                continue
            status = _vacate(r, op.slot, vacated, b"unmap")
        elif op.op == OP_MOVE:
            status = _vacate(r, op.source, vacated, b"move")
        elif op.op == OP_SWAP:
            status = _vacate(r, op.slot, CLAIM_CHANGED, b"swap")
            if status == MRM_OK:
                status = _vacate(r, op.source, CLAIM_CHANGED, b"swap")
        elif op.op == OP_PROTECT:
            status = _vacate(r, op.slot, CLAIM_CHANGED, b"protect")
        if status != MRM_OK:
            return status
    for i in range(batch.count):
        op = &batch.ops[i]
        if op.op == OP_MAP:
            status = _fill(r, op.slot, b"map")
        elif op.op == OP_MOVE:
            status = _fill(r, op.slot, b"move")
        elif op.op == OP_ALIAS:
            status = _in_range(r, op.source, b"alias")
            if status == MRM_OK and r.slot[op.source].state != MRM_SLOT_SHOWN:
                status = mrm_fail(
                    failure(), MRM_BAD_SLOT, 0, 0, reservation_address(r, op.source), 0,
                    b"alias: slot %u shows nothing", op.source,
                )
            if status == MRM_OK:
                status = _fill(r, op.slot, b"alias")
        if status != MRM_OK:
            return status
    return MRM_OK


cdef void unclaim_slots(batch_t *batch) noexcept nogil:
    """Wipe the marks, of slots that exist."""
    cdef reservation_t *r = batch.reservation
    cdef size_t i
    cdef op_t *op
    for i in range(batch.count):
        op = &batch.ops[i]
        if op.slot < r.slots:
            mrm_store8(&r.slot[op.slot].claimed, 0)
        if (op.op == OP_MOVE or op.op == OP_SWAP) and op.source < r.slots:
            mrm_store8(&r.slot[op.source].claimed, 0)


# ---- collect -------------------------------------------------------------------

cdef int plan_room(plan_t *plan, size_t changes) noexcept nogil:
    """Arrays for so many changes, and the most steps that they can become."""
    cdef size_t steps = 6 * changes + 8
    cdef void *grown
    if changes > plan.change_room:
        grown = realloc(plan.changes, changes * sizeof(change_t))
        if grown != NULL:
            plan.changes = <change_t *>grown
            plan.change_room = changes
            grown = realloc(plan.steps, steps * sizeof(step_t))
        if grown == NULL:
            plan.change_room = 0
            return mrm_fail(
                failure(), MRM_NO_MEMORY, 0, 12, NULL, changes * sizeof(change_t) + steps * sizeof(step_t),
                b"no memory to plan %zu changes", changes,
            )
        plan.steps = <step_t *>grown
        plan.step_room = steps
    plan.change_count = plan.step_count = 0
    plan.runs = 0
    return MRM_OK


cdef change_t *add_change(
    reservation_t *r, uint32_t slot, uint32_t frame, uint8_t protection, uint32_t source
) noexcept nogil:
    cdef change_t *change = &r.plan.changes[r.plan.change_count]
    r.plan.change_count += 1
    change.slot = slot
    change.frame = frame
    change.source = source
    change.protection = protection
    change.deferred = change.counted = change.unused = 0
    return change


cdef int _show(reservation_t *r, uint32_t slot, uint32_t frame, uint8_t protection, uint32_t source) noexcept nogil:
    """The slot shall show the frame, which is counted as mapped once more."""
    cdef change_t *change = add_change(r, slot, frame, protection, source)
    cdef int status = frames_map(&r.pool.frames, frame)
    change.counted = status == MRM_OK
    return status


cdef int _take_away(reservation_t *r, uint32_t slot, bint deferred) noexcept nogil:
    """The slot shall show nothing, unless the batch fills it anew."""
    cdef change_t *change
    cdef int status
    if r.slot[slot].claimed & CLAIM_FILLED:
        return MRM_OK
    change = add_change(r, slot, NO_FRAME, 0, NO_SLOT)
    if not deferred:
        return MRM_OK
    status = frames_defer(&r.pool.frames, r.slot[slot].frame)
    change.deferred = status == MRM_OK
    return status


cdef int collect_changes(batch_t *batch) noexcept nogil:
    """What each claimed slot shall show."""
    cdef reservation_t *r = batch.reservation
    cdef size_t i
    cdef op_t *op
    cdef slot_t *source
    cdef slot_t *slot
    cdef int status = MRM_OK
    for i in range(batch.count):
        op = &batch.ops[i]
        slot = &r.slot[op.slot]
        if op.op == OP_MAP:
            status = _show(r, op.slot, op.source, op.protection, NO_SLOT)
        elif op.op == OP_UNMAP:
            if slot.claimed & CLAIM_VACATED:
                status = _take_away(r, op.slot, op.flags & MRM_DEFERRED)
        elif op.op == OP_PROTECT:
            add_change(r, op.slot, slot.frame, op.protection, NO_SLOT)
        else:
            source = &r.slot[op.source]
            status = _show(
                r, op.slot, source.frame, source.protection, op.source if op.op == OP_MOVE else <uint32_t>NO_SLOT
            )
            if status == MRM_OK and op.op == OP_MOVE:
                status = _take_away(r, op.source, op.flags & MRM_DEFERRED)
            elif status == MRM_OK and op.op == OP_SWAP:
                status = _show(r, op.source, slot.frame, slot.protection, NO_SLOT)
        if status != MRM_OK:
            return status
    return MRM_OK


cdef int _by_slot(const void *a, const void *b) noexcept nogil:
    cdef uint32_t x = (<const change_t *>a).slot
    cdef uint32_t y = (<const change_t *>b).slot
    return -1 if x < y else x > y


cdef bint _sorted(const change_t *changes, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(1, n):
        if changes[i - 1].slot > changes[i].slot:
            return False
    return True


cdef void sort_changes(plan_t *plan) noexcept nogil:
    """Sort the changes by slot.

    The usual batch of moves has targets in order and sources in order, one beside the
    other: those are merged, some ten times faster than sorted. The steps are not made
    yet, so that their array can hold the changes meanwhile.
    """
    cdef change_t *c = plan.changes
    cdef change_t *fills = <change_t *>plan.steps
    cdef change_t *others
    cdef size_t n = plan.change_count, filled = 0, other = 0, i, f = 0, o = 0
    if _sorted(c, n):
        return
    for i in range(n):
        filled += c[i].frame != NO_FRAME
    others = fills + filled
    filled = 0
    for i in range(n):
        if c[i].frame != NO_FRAME:
            fills[filled] = c[i]
            filled += 1
        else:
            others[other] = c[i]
            other += 1
    if not _sorted(fills, filled) or not _sorted(others, other):
        qsort(c, n, sizeof(change_t), _by_slot)
        return
    for i in range(n):
        if o == other or (f < filled and fills[f].slot < others[o].slot):
            c[i] = fills[f]
            f += 1
        else:
            c[i] = others[o]
            o += 1
