"""Segments that change hands: a thread ends, and others go on with what it leaves."""

from mrm.heap.page cimport page_t, segment_t
from mrm.heap.state cimport local_t


cdef segment_t *orphan_take(local_t *local) noexcept nogil
cdef bint orphan_adopt(local_t *local, page_t *page) noexcept nogil
cdef void orphans_trim(local_t *local) noexcept nogil
cdef void segment_leave(local_t *local, segment_t *segment) noexcept nogil
