"""Pages of one thread: its queues by class, and the segments that pages are cut from."""

from libc.stdint cimport uint32_t

from mrm.heap.page cimport page_t, segment_t
from mrm.heap.state cimport local_t


cdef page_t *page_first(local_t *local, uint32_t number) noexcept nogil
cdef bint page_fill(page_t *page) noexcept nogil
cdef page_t *page_cut(local_t *local, segment_t *segment, uint32_t number) noexcept nogil
cdef void page_freed(local_t *local, page_t *page) noexcept nogil
cdef void pages_wake(local_t *local) noexcept nogil
cdef void pages_release(local_t *local) noexcept nogil
cdef void pages_forget(local_t *local) noexcept nogil

# For who moves them from thread to thread (orphans.pyx).
cdef void page_unlist(local_t *local, page_t *page) noexcept nogil
cdef bint page_full(page_t *page) noexcept nogil
cdef void page_unfull(local_t *local, page_t *page) noexcept nogil
cdef void segment_link(local_t *local, segment_t *segment) noexcept nogil
cdef void segment_unlink(local_t *local, segment_t *segment) noexcept nogil
cdef void segment_collect(local_t *local, segment_t *segment) noexcept nogil
cdef void segment_drop(local_t *local, segment_t *segment) noexcept nogil
