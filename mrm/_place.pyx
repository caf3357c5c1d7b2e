"""What an address is, and what shows a frame: from one to the other, and back."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mrm cimport MRM_SLOT_EMPTY, MRM_STATE_OPEN, mrm_address, mrm_place, mrm_slot
from mrm._frames cimport FRAME_STATES
from mrm.physical.pool cimport pool_address, pool_t
from mrm.space.place cimport classify as classify_address
from mrm.space.reservation cimport list_release, list_reservations, reservation_slot, reservation_t, slot_t
from mrm.stats import Mapping, Place
from mrm.system.failure cimport check


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    uint64_t mrm_load64(const uint64_t *p)


# In the order of the enums in mrm.h.
cdef tuple PLACE_KINDS = ("nothing", "window", "view", "reservation")
cdef tuple PLACE_STATES = ("unused", "open", "retired", "empty", "shown", "deferred", "forked")
cdef dict PROTECTION_NAMES = {0: "none", 1: "r", 3: "rw"}


cdef list mappings(pool_t *pool, uint32_t f):
    """Everything that shows a frame."""
    cdef uint32_t number
    cdef reservation_t **listed
    cdef size_t n, i
    found = [Mapping("window", 0, f, <uint64_t>pool_address(pool, f), "rw")]
    for number in range(1, pool.layout.view_count):
        if mrm_load8(&pool.view_state[number]) == MRM_STATE_OPEN:
            found.append(Mapping("view", number, f, <uint64_t>mrm_address(&pool.layout, number, f), "rw"))
    check(list_reservations(pool, &listed, &n))
    try:
        for i in range(n):
            _mappings_of(listed[i], f, found)
    finally:
        list_release(listed, n)
    return found


cdef int _mappings_of(reservation_t *r, uint32_t frame, list found) except -1:
    """Add the slots of one reservation that show a frame."""
    cdef mrm_slot shown
    cdef slot_t seen
    cdef uint32_t slot
    for slot in range(r.slots):
        (<uint64_t *>&seen)[0] = mrm_load64(<uint64_t *>&r.slot[slot])
        if seen.frame == frame and seen.state != MRM_SLOT_EMPTY:
            reservation_slot(r, slot, &shown)
            if shown.state != MRM_SLOT_EMPTY and shown.frame == frame:
                found.append(Mapping(
                    "reservation", r.number, slot, shown.address, PROTECTION_NAMES[shown.protection], shown.state == 2
                ))
    return 0


def classify(address):
    """What an address is: which pool, view or reservation, slot, frame and state.

    Parameters
    ----------
    address : int
        Any address at all.

    Returns
    -------
    mrm.Place

    Notes
    -----
    No system call and no lock. The C function of the same name may be called in a
    signal handler, so that it knows why an access trapped.
    """
    cdef mrm_place place
    cdef uint64_t at = <uint64_t>(address & 0xFFFFFFFFFFFFFFFF)
    classify_address(<void *>at, &place)
    known = place.frame != 0xFFFFFFFF
    return Place(
        PLACE_KINDS[place.kind], PLACE_STATES[place.state], place.pool, place.number,
        place.frame if known else None, FRAME_STATES[place.frame_state] if known else None,
        place.slot, PROTECTION_NAMES[place.protection], place.offset,
    )
