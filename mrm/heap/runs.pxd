"""Blocks above a MiB: slots in a row."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from mrm.heap.state cimport heap_t


cdef void *runs_allocate(heap_t *heap, size_t nbytes, size_t alignment, bint zero) noexcept nogil
cdef void *runs_resize(heap_t *heap, void *block, size_t nbytes) noexcept nogil
cdef int runs_free(heap_t *heap, void *block) noexcept nogil
cdef size_t runs_usable(heap_t *heap, const void *block) noexcept nogil
cdef bint runs_contain(const heap_t *heap, const void *address) noexcept nogil
cdef int runs_trim(heap_t *heap, uint64_t *private) noexcept nogil
