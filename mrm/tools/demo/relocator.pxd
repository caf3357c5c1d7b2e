"""The relocator: marks, flips to the next view, and empties sparse frames."""

from mrm.tools.demo.heap cimport heap_t


cdef void relocator_run(heap_t *heap) noexcept nogil
