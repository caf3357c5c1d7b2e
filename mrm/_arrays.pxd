"""Frame and slot numbers from Python: scalars, ranges, sequences and buffers."""

from libc.stdint cimport uint32_t


cdef class Numbers:
    cdef uint32_t *data
    cdef size_t n
    cdef uint32_t single            # where a scalar lies
    cdef void *owned                # what was converted, or NULL
    cdef object exporter            # keeps what data points into


cdef Numbers numbers(object value, str what)
cdef Numbers own_numbers(object value, str what)
cdef object new_array(size_t n, uint32_t **data)
