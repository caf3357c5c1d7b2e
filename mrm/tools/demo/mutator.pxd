"""A mutator: fills its share of the handles, then reads, writes and replaces objects."""

from libc.stdint cimport uint32_t, uint64_t

from mrm.tools.demo.heap cimport heap_t


cdef void mutator_fill(heap_t *heap, uint32_t number) noexcept nogil
cdef void mutator_run(heap_t *heap, uint32_t number) noexcept nogil
cdef void mutator_end(heap_t *heap, uint32_t number) noexcept nogil
