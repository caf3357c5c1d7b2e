"""The plan of a commit: what is checked, and the steps that are made of it."""

from libc.stdint cimport int64_t, uint32_t

from mrm.space.batch cimport batch_t
from mrm.space.reservation cimport plan_t, reservation_t


cdef enum:
    STEP_MAP = 1                # map a run over slots that show nothing
    STEP_REPLACE                # map a run over slots that show something else
    STEP_SEAL                   # take a run away
    STEP_MREMAP                 # move a run by mremap and seal where it was
    STEP_MPROTECT               # change a run's protection in place
    STEP_ZAP                    # empty one mapping's page tables: one invalidation for many steps
    STEP_POPULATE               # fill page tables, so that the first touch is no fault
    STEP_ADVISE                 # not copied by fork, not in core dumps


cdef int plan_batch(batch_t *batch) noexcept nogil
cdef void plan_withdraw(reservation_t *reservation) noexcept nogil
cdef int plan_retire(reservation_t *reservation) noexcept nogil
cdef int64_t plan_growth(const reservation_t *reservation) noexcept nogil
cdef const char *step_name(int kind) noexcept nogil
