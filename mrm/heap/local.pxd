"""What a thread has of a heap: found, made, and taken back when the thread ends."""

from mrm.heap.page cimport page_t
from mrm.heap.state cimport heap_t, local_t


cdef int heap_usable(const heap_t *heap) noexcept nogil
cdef local_t *local_find(heap_t *heap) noexcept nogil
cdef void locals_tell(void (*forget)() noexcept nogil) noexcept nogil
cdef void locals_forget() noexcept nogil
cdef void locals_end(heap_t *heap) noexcept nogil
cdef void locals_freeze(heap_t *heap) noexcept nogil
cdef void local_free_later(local_t *local, page_t *page, void *block) noexcept nogil
cdef void local_flush(local_t *local) noexcept nogil
cdef void freed_push(heap_t *heap, page_t *page, void *first, void *last, size_t n) noexcept nogil
