"""Batches as Python sees them, and the reports of what they did."""

from mrm cimport mrm_report
from mrm._arrays cimport Numbers
from mrm.space.batch cimport batch_t
from mrm.space.reservation cimport reservation_t


cdef dict PROTECTION_NAMES              # "rw", "r" or "none" by MRM_PROT_...


cdef class Slots:
    cdef object owner                   # keeps the pool alive
    cdef dict pinned                    # exports by slot
    cdef int busy                       # batches that have let go of the GIL to commit


cdef class Report:
    cdef mrm_report figures
    cdef readonly object shootdowns_measured
    cdef readonly object measured_by


cdef class Batch:
    cdef object __weakref__
    cdef batch_t *batch                 # NULL once committed in a with block, or aborted
    cdef Slots reservation
    cdef bint measure
    cdef readonly Report report
    cdef batch_t *open_one(self) except NULL
    cdef int _keep_pinned(self, batch_t *batch) except -1
    cdef int _check_pins(self) except -1
    cdef object _map_from(self, Numbers s, account, overdraft, zeroed, int protection)


cdef Batch make_batch(Slots slots, reservation_t *reservation, bint measure)
