"""A heap that finds its callers' mistakes."""

from mrm cimport MRM_BAD_ARGUMENT
from mrm.system.failure cimport failure, mrm_fail


cdef int debug_open(heap_t *heap) noexcept nogil:
    """Have a heap look for mistakes."""
    return mrm_fail(failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"not there yet")
