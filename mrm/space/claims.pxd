"""What a batch may do to slots, checked and marked; and the changes that come of it."""

from libc.stdint cimport uint8_t, uint32_t

from mrm.space.batch cimport batch_t
from mrm.space.reservation cimport change_t, plan_t, reservation_t


# Marks of a slot while a batch is checked and planned.
cdef enum:
    CLAIM_VACATED = 1           # the batch takes away what it shows
    CLAIM_FILLED = 2            # ... and shows something else there
    CLAIM_CHANGED = 4           # swapped or protected
    CLAIM_STAYS = 8             # vacated, but its alias is deferred
    CLAIM_MOVED = 16            # vacated by mremap: nothing is left to take away


cdef int plan_room(plan_t *plan, size_t changes) noexcept nogil
cdef int claim_slots(batch_t *batch) noexcept nogil
cdef void unclaim_slots(batch_t *batch) noexcept nogil
cdef int collect_changes(batch_t *batch) noexcept nogil
cdef void sort_changes(plan_t *plan) noexcept nogil
cdef change_t *add_change(
    reservation_t *r, uint32_t slot, uint32_t frame, uint8_t protection, uint32_t source
) noexcept nogil
