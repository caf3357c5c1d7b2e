"""Extents: the slots of a heap, parted into those that are free, kept, or a block's."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t

from mrm.heap.state cimport runs_t


# Where a block is to lie.
cdef struct place_t:
    uint32_t first              # slot
    uint32_t extent             # the extent that it is cut from
    uint32_t state              # of that: RUN_FREE, RUN_KEPT


cdef void extents_open(runs_t *runs) noexcept nogil
cdef void extent_mark(runs_t *runs, uint32_t first, uint32_t n, uint32_t state) noexcept nogil
cdef void extent_live(runs_t *runs, uint32_t first, uint32_t n, size_t nbytes) noexcept nogil
cdef void extent_link(runs_t *runs, uint32_t first, uint32_t n, uint32_t state) noexcept nogil
cdef void extent_unlink(runs_t *runs, uint32_t first) noexcept nogil
cdef void extent_put(runs_t *runs, uint32_t first, uint32_t n, uint32_t state) noexcept nogil
cdef void extent_cut(runs_t *runs, const place_t *place, uint32_t n) noexcept nogil
cdef uint32_t extent_into(const runs_t *runs, uint32_t first, uint32_t slots_apart) noexcept nogil
cdef uint32_t extent_find(runs_t *runs, uint32_t state, uint32_t n, uint32_t slots_apart) noexcept nogil
cdef uint32_t extent_largest(const runs_t *runs) noexcept nogil
