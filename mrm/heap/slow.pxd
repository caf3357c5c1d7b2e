"""What malloc, free and their kin do when it is not the usual thing."""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from mrm.heap.state cimport heap_t, local_t


cdef void *slow_malloc(heap_t *heap, local_t *local, size_t nbytes) noexcept nogil
cdef void *slow_calloc(heap_t *heap, local_t *local, size_t count, size_t size) noexcept nogil
cdef void *slow_realloc(heap_t *heap, void *block, size_t nbytes) noexcept nogil
cdef void *slow_aligned(heap_t *heap, size_t alignment, size_t nbytes) noexcept nogil
cdef int slow_free(heap_t *heap, void *block) noexcept nogil
cdef size_t slow_usable_size(heap_t *heap, const void *block) noexcept nogil
cdef uint64_t heap_trim(heap_t *heap) noexcept nogil

# What a heap that looks for mistakes is made of: the same, without the looking.
cdef void *raw_allocate(heap_t *heap, size_t alignment, size_t nbytes, bint zero) noexcept nogil
cdef void *raw_resize(heap_t *heap, void *block, size_t nbytes) noexcept nogil
cdef int raw_free(heap_t *heap, void *block) noexcept nogil
cdef size_t raw_usable(heap_t *heap, const void *block) noexcept nogil
