"""Looking at a heap: figures, and every block."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from mrm cimport mrm_heap_stats
from mrm.heap.classes cimport CLASSES
from mrm.heap.state cimport heap_t


# Figures of a size class.
cdef struct class_figures_t:
    uint64_t pages
    uint64_t memory             # bytes of their slices
    uint64_t blocks             # in use
    uint64_t room               # blocks that fit into the pages


ctypedef void (*visitor_t)(void *context, void *block, size_t nbytes) noexcept nogil

cdef int heap_stats(heap_t *heap, mrm_heap_stats *stats) noexcept nogil
cdef void heap_classes(const heap_t *heap, class_figures_t *figures) noexcept nogil
cdef void heap_walk(heap_t *heap, visitor_t visitor, void *context) noexcept nogil
