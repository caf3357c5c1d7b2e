"""Carrying out a plan, whole or not at all."""

from libc.stdint cimport uint32_t

from mrm cimport mrm_report
from mrm.physical.pool cimport pool_t
from mrm.space.batch cimport batch_t
from mrm.space.reservation cimport reservation_t


# Carries the whole batch out, or nothing. Afterwards the batch is empty and serves
# again; if the status is negative it is as it was. report may be NULL.
cdef int batch_commit(batch_t *batch, mrm_report *report) noexcept nogil
cdef int reservation_retire(reservation_t *reservation, mrm_report *report) noexcept nogil
cdef int pool_retire(pool_t *pool, mrm_report *report) noexcept nogil
