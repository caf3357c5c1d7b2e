"""What an address is: for signal handlers, and for anyone who holds a pointer.

Async-signal-safe and lock-free: it finds the address's range in the registry and reads
the owner's tables, which stay while it reads (ranges.pyx). What it says is what the
tables say at some moment of the call: while a commit is at work, a slot that it takes away
traps a little before its table says so, and one that it fills shows its frame before.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport (
    MRM_PLACE_RESERVATION, MRM_PLACE_VIEW, MRM_PLACE_WINDOW, MRM_PROT_READ_WRITE, MRM_SLOT_DEFERRED,
    MRM_SLOT_EMPTY, MRM_STATE_DEFERRED, MRM_STATE_EMPTY, MRM_STATE_FORKED, MRM_STATE_OPEN, MRM_STATE_SHOWN,
    MRM_STATE_UNUSED, mrm_frame_of, mrm_offset_of, mrm_place, mrm_view_of,
)
from mrm.physical.frames cimport frames_state
from mrm.physical.pool cimport pool_t
from mrm.space.reservation cimport reservation_t, slot_t
from mrm.system.ranges cimport (
    RANGE_ARENA, RANGE_SLOTS, STATE_FORKED, range_enter, range_find, range_leave, range_t,
)


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    uint32_t mrm_load32(const uint32_t *p)
    uint64_t mrm_load64(const uint64_t *p)
    void *mrm_load_ptr(void **p)


cdef void _in_arena(pool_t *pool, const void *address, mrm_place *place) noexcept nogil:
    cdef uint8_t *views
    place.pool = pool.layout.pool
    place.number = mrm_view_of(&pool.layout, address)
    place.kind = MRM_PLACE_VIEW if place.number else MRM_PLACE_WINDOW
    place.slot = mrm_frame_of(&pool.layout, address)
    place.offset = mrm_offset_of(&pool.layout, address)
    if mrm_load32(&pool.state) == STATE_FORKED:
        place.state = MRM_STATE_FORKED
        return
    # The pool may be opening: then it has no books of views yet.
    views = <uint8_t *>mrm_load_ptr(<void **>&pool.view_state)
    place.state = mrm_load8(&views[place.number]) if views != NULL else MRM_STATE_UNUSED
    if place.slot < pool.layout.frame_count:
        place.frame = place.slot
        place.frame_state = frames_state(&pool.frames, place.frame)
        if place.state == MRM_STATE_OPEN:
            place.protection = MRM_PROT_READ_WRITE


cdef void _in_reservation(reservation_t *r, uint64_t into, const void *address, mrm_place *place) noexcept nogil:
    cdef slot_t seen
    place.kind = MRM_PLACE_RESERVATION
    place.pool = r.pool.layout.pool
    place.number = r.number
    place.offset = mrm_offset_of(&r.pool.layout, address)
    if mrm_load32(&r.state) == STATE_FORKED:
        place.state = MRM_STATE_FORKED
        return
    place.slot = <uint32_t>(into >> r.pool.layout.frame_shift)
    (<uint64_t *>&seen)[0] = mrm_load64(<uint64_t *>&r.slot[place.slot])
    if seen.state == MRM_SLOT_EMPTY:
        place.state = MRM_STATE_EMPTY
        return
    place.state = MRM_STATE_DEFERRED if seen.state == MRM_SLOT_DEFERRED else MRM_STATE_SHOWN
    place.frame = seen.frame
    place.frame_state = frames_state(&r.pool.frames, seen.frame)
    place.protection = seen.protection


cdef void classify(const void *address, mrm_place *place) noexcept nogil:
    """Fill ``place`` with what ``address`` is; never fails."""
    cdef uint32_t ticket
    cdef range_t *found
    cdef uint64_t into
    memset(place, 0, sizeof(mrm_place))
    place.frame = 0xFFFFFFFF
    ticket = range_enter()
    found = range_find(<uint64_t>address, &into)
    if found != NULL:
        if found.kind == RANGE_ARENA:
            _in_arena(<pool_t *>found.owner, address, place)
        elif found.kind == RANGE_SLOTS:
            _in_reservation(<reservation_t *>found.owner, into, address, place)
    range_leave(ticket)
