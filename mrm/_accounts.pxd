"""Accounts as Python sees them."""

from libc.stdint cimport uint32_t

from mrm._core cimport Pool


cdef class Account:
    cdef readonly Pool pool
    cdef readonly str name
    cdef readonly uint32_t number
