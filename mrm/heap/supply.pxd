"""Where a thread finds a page with something free, when the one at hand has nothing."""

from libc.stdint cimport uint32_t

from mrm.heap.page cimport page_t
from mrm.heap.state cimport local_t


cdef page_t *page_with_room(local_t *local, uint32_t number) noexcept nogil
