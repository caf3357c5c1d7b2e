"""Memory at slots: shown, moved, taken away."""

from libc.stdint cimport uint32_t, uint64_t

from mrm.heap.state cimport heap_t


# A stretch of slots.
cdef struct stretch_t:
    uint32_t first
    uint32_t n


# The frames of a heap on a pool are taken before the lock of the runs is, as takers may call back.
cdef int mapping_take(heap_t *heap, uint32_t n, bint zero, uint32_t **frames) noexcept nogil
cdef void mapping_give(heap_t *heap, uint32_t *frames, uint32_t n) noexcept nogil
cdef int mapping_show(
    heap_t *heap, const stretch_t *stretches, size_t count, uint32_t *frames, uint32_t *left
) noexcept nogil
cdef bint mapping_shown(const heap_t *heap, uint32_t slot) noexcept nogil
cdef int mapping_move(heap_t *heap, uint32_t source, uint32_t target, uint32_t n) noexcept nogil
cdef int mapping_hide(heap_t *heap, const stretch_t *stretches, size_t count) noexcept nogil
