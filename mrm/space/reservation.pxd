"""A reservation: a range of slots in which any slot can show any frame."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mrm cimport mrm_slot
from mrm.physical.pool cimport pool_t
from mrm.system.ranges cimport range_t


# Written under the lock, by atomic stores; read whole and without it.
cdef struct slot_t:
    uint32_t frame              # unless EMPTY
    uint8_t state               # MRM_SLOT_...
    uint8_t protection          # MRM_PROT_...
    uint8_t cut                 # 1: a mapping of the kernel's may begin here
    uint8_t claimed             # CLAIM_... of the commit that is being checked (plan.pyx)


# One slot that a commit changes, and what it shall show.
cdef struct change_t:
    uint32_t slot
    uint32_t frame              # what it shall show; NO_FRAME: nothing
    uint32_t source             # the slot that a move takes it from; NO_SLOT: none
    uint8_t protection
    uint8_t deferred            # 1: nothing is done to the slot now, its alias stays until the retire
    uint8_t counted             # 1: frames_map() counted the new mapping
    uint8_t unused


# One or two system calls on a run of slots.
cdef struct step_t:
    uint8_t kind                # STEP_... (plan.pyx)
    uint8_t protection
    uint8_t shoots              # invalidations expected
    uint8_t populate            # STEP_MAP: the call itself populates
    uint32_t first              # slot
    uint32_t n
    uint32_t frame              # first one of the run, for steps that map
    uint32_t source             # STEP_MREMAP: first slot of the source


# What a commit does, in arrays that only grow and are used again.
cdef struct plan_t:
    change_t *changes           # sorted by slot
    size_t change_count, change_room
    step_t *steps               # in the order in which they are made
    size_t step_count, step_room
    uint64_t runs
    uint32_t without            # bit f: FEATURE_f would have made this plan another


cdef struct reservation_t:
    uint32_t state              # STATE_OPEN, STATE_CLOSED, or STATE_FORKED in a child
    uint32_t number             # from 1, never used twice in a process
    uint32_t lock               # commits and retires take turns
    uint32_t users              # the owner and each open batch
    uint32_t slots              # slots there are
    uint32_t deferred           # slots that are DEFERRED (written under the lock, atomically) ...
    uint32_t deferred_first     # ... all of them in [deferred_first, deferred_end)
    uint32_t deferred_end
    pool_t *pool
    char *base                  # address of slot 0
    slot_t *slot
    range_t *range
    plan_t plan                 # of the commit in progress; under the lock
    reservation_t *next         # all of the process
    reservation_t *previous


cdef enum:
    NO_SLOT = 0xFFFFFFFF


cdef int reservation_open(pool_t *pool, uint64_t slots, uint64_t at, reservation_t **opened) noexcept nogil
cdef int reservation_close(reservation_t *reservation) noexcept nogil
cdef void reservation_retain(reservation_t *reservation) noexcept nogil
cdef void reservation_release(reservation_t *reservation) noexcept nogil
cdef void *reservation_address(const reservation_t *reservation, uint32_t slot) noexcept nogil
cdef int reservation_slot(reservation_t *reservation, uint32_t slot, mrm_slot *shown) noexcept nogil
# Enter takes the lock, unless the reservation is closed or the parent's.
cdef int reservation_enter(reservation_t *reservation) noexcept nogil
cdef void reservation_leave(reservation_t *reservation) noexcept nogil
# The open reservations of a pool, each with a user more until list_release.
cdef int list_reservations(pool_t *pool, reservation_t ***listed, size_t *n) noexcept nogil
cdef void list_release(reservation_t **listed, size_t n) noexcept nogil
# The kernel's mappings: new boundaries that [first, first + n) brings, and noting them.
cdef void note_mapping(reservation_t *reservation, uint32_t first, uint32_t n) noexcept nogil
cdef void note_split(reservation_t *reservation, uint32_t first, uint32_t n) noexcept nogil
cdef void mappings_forget() noexcept nogil
cdef int mappings_allow(int64_t growth) noexcept nogil
