"""A cycle of the collector."""

from larder.space cimport space_t


cdef int collect(space_t *space) noexcept nogil
