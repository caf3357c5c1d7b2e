"""A reservation: a range of slots in which any slot can show any frame."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mrm.physical.pool cimport pool_t
from mrm.system.ranges cimport range_t


cdef extern from "mrm/mrm.h" nogil:
    enum:
        MRM_SLOT_EMPTY
        MRM_SLOT_SHOWN
        MRM_SLOT_DEFERRED
        MRM_PROT_NONE
        MRM_PROT_READ
        MRM_PROT_READ_WRITE
        MRM_DEFERRED
        MRM_MISSING_OK

    ctypedef struct mrm_slot:
        uint32_t state
        uint32_t frame
        uint32_t protection
        uint64_t address

    ctypedef struct mrm_report:
        uint64_t pages
        uint64_t runs
        uint64_t system_calls
        uint64_t shootdowns
        uint64_t nanoseconds


cdef struct slot_t:
    uint32_t frame              # unless EMPTY
    uint8_t state               # MRM_SLOT_...
    uint8_t protection          # MRM_PROT_...
    uint8_t cut                 # 1: a mapping of the kernel's begins here
    uint8_t claimed             # 1: the commit that is being checked uses it


cdef struct reservation_t:
    uint32_t state              # STATE_OPEN, or STATE_FORKED in a child
    uint32_t number             # from 1, never used twice in a process
    uint32_t lock               # commits and retires take turns
    uint32_t users              # the owner and each open batch
    uint32_t slots              # slots there are
    uint32_t deferred           # slots that are DEFERRED
    uint32_t shown              # slots that are SHOWN
    uint32_t mappings           # the kernel's mappings in the range, at the most
    pool_t *pool
    char *base                  # address of slot 0
    slot_t *slot
    range_t *range
    reservation_t *next         # all of the process
    reservation_t *previous


cdef int reservation_open(pool_t *pool, uint64_t slots, uint64_t at, reservation_t **opened) noexcept nogil
cdef int reservation_close(reservation_t *reservation) noexcept nogil
cdef void reservation_retain(reservation_t *reservation) noexcept nogil
cdef void reservation_release(reservation_t *reservation) noexcept nogil
cdef int reservation_slot(reservation_t *reservation, uint32_t slot, mrm_slot *shown) noexcept nogil
cdef int reservation_usable(reservation_t *reservation) noexcept nogil
cdef void reservation_enter(reservation_t *reservation) noexcept nogil
cdef void reservation_leave(reservation_t *reservation) noexcept nogil
cdef int reservation_resync(reservation_t *reservation, uint32_t first, uint32_t n) noexcept nogil
