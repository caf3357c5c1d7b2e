"""Freed blocks of a heap that looks for mistakes."""

from libc.stddef cimport size_t

from mrm.heap.debug cimport debug_t
from mrm.heap.records cimport record_t
from mrm.heap.state cimport heap_t
from mrm.heap.traces cimport trace_t


cdef bint debug_reachable(heap_t *heap) noexcept nogil
cdef size_t held_poisoned(const debug_t *debug, const record_t *record) noexcept nogil
cdef void held_put(debug_t *debug, record_t *record, const trace_t *here) noexcept nogil
cdef bint held_empty(debug_t *debug, const char *when) noexcept nogil
