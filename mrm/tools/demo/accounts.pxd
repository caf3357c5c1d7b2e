"""The reckoning at the end: every stamp, every word, every write."""

from mrm.tools.demo.heap cimport heap_t


cdef void settle_accounts(heap_t *heap) noexcept nogil
