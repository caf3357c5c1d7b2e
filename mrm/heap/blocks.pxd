"""Blocks: malloc, free and their kin, from any thread, without the GIL."""

from libc.stddef cimport size_t

from mrm.heap.state cimport heap_t


cdef void *heap_malloc(heap_t *heap, size_t nbytes) noexcept nogil
cdef void *heap_calloc(heap_t *heap, size_t count, size_t size) noexcept nogil
cdef void *heap_realloc(heap_t *heap, void *block, size_t nbytes) noexcept nogil
cdef void *heap_aligned(heap_t *heap, size_t alignment, size_t nbytes) noexcept nogil
cdef int heap_free(heap_t *heap, void *block) noexcept nogil
cdef size_t heap_usable_size(heap_t *heap, const void *block) noexcept nogil
cdef void *heap_lua_alloc(void *heap, void *block, size_t osize, size_t nsize) noexcept nogil
