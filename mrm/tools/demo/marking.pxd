"""What is live, and which frames are sparse enough to be emptied."""

from libc.stdint cimport uint32_t

from mrm.tools.demo.heap cimport cycle_t, heap_t


cdef void mark(heap_t *heap, cycle_t *cycle) noexcept nogil
cdef bint choose(heap_t *heap) noexcept nogil
