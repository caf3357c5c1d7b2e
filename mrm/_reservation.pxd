"""Reservations and batches as Python sees them."""

from libc.stdint cimport uint32_t, uint64_t

from mrm cimport mrm_report
from mrm._arrays cimport Numbers
from mrm.space.batch cimport batch_t
from mrm.space.reservation cimport reservation_t


cdef class Reservation:
    cdef object __weakref__
    cdef reservation_t *reservation     # NULL once closed
    cdef object owner                   # keeps the pool alive
    cdef dict pinned                    # exports by slot
    cdef int busy                       # batches that have let go of the GIL to commit
    cdef uint32_t _slot(self, slot) except? 0xFFFFFFFF
    cdef reservation_t *open_one(self) except NULL


cdef class Report:
    cdef mrm_report figures
    cdef readonly object shootdowns_measured
    cdef readonly object measured_by


cdef class Batch:
    cdef object __weakref__
    cdef batch_t *batch                 # NULL once committed in a with block, or aborted
    cdef Reservation reservation
    cdef bint measure
    cdef readonly Report report
    cdef batch_t *open_one(self) except NULL
    cdef int _keep_pinned(self, batch_t *batch) except -1
    cdef int _check_pins(self) except -1
    cdef object _map_from(self, Numbers s, account, overdraft, zeroed, int protection)


cdef uint64_t check_reservation(object slots, object at, uint64_t *where) except 0
cdef Reservation make_reservation(object owner, void *pool, uint64_t slots, uint64_t where)
