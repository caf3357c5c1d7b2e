"""Pages of one thread: its queues by class, and the segments that pages are cut from."""

from libc.stdint cimport uint32_t

from mrm.heap.page cimport page_t, segment_t
from mrm.heap.state cimport local_t


cdef page_t *page_with_room(local_t *local, uint32_t number) noexcept nogil
cdef void page_unfull(local_t *local, page_t *page) noexcept nogil
cdef bint page_empty(local_t *local, page_t *page) noexcept nogil
cdef void segment_adopt(local_t *local, segment_t *segment) noexcept nogil
cdef void segment_leave(local_t *local, segment_t *segment) noexcept nogil
cdef void pages_release(local_t *local) noexcept nogil
cdef void pages_forget(local_t *local) noexcept nogil
