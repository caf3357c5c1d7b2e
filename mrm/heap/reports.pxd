"""What a heap that looks for mistakes says of them."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from mrm.heap.fences cimport damage_t
from mrm.heap.records cimport record_t
from mrm.heap.state cimport heap_t
from mrm.heap.traces cimport text_t, trace_t


cdef void report_begin() noexcept nogil
cdef void report_damage(const heap_t *heap, const damage_t *damage, const char *when) noexcept nogil
cdef void report_more() noexcept nogil
cdef void report_refusal(
    const heap_t *heap, const void *address, const record_t *record, const char *other, bint frees
) noexcept nogil
cdef int report_end(const trace_t *here, bint ends) noexcept nogil

cdef void say_place(
    text_t *text, const heap_t *heap, const void *address, const record_t *record, const char *other
) noexcept nogil
cdef void say_history(text_t *text, const record_t *record) noexcept nogil
cdef void say_leaks(const heap_t *heap, const record_t **records, size_t n) noexcept nogil
