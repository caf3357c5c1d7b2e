"""Reservations as Python sees them."""

from libc.stdint cimport uint32_t, uint64_t

from mrm._batch cimport Slots
from mrm.space.reservation cimport reservation_t


cdef class Reservation(Slots):
    cdef object __weakref__
    cdef reservation_t *reservation     # NULL once closed
    cdef uint32_t _slot(self, slot) except? 0xFFFFFFFF
    cdef reservation_t *open_one(self) except NULL


cdef uint64_t check_reservation(object slots, object at, uint64_t *where) except 0
cdef Reservation make_reservation(object owner, void *pool, uint64_t slots, uint64_t where)
