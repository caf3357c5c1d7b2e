"""Finding what lives."""

from libc.stdint cimport uint64_t

from larder.barrier cimport heal
from larder.space cimport cycle_t, granule_of, page_bits, ref_t, slot_of, space_t


cdef inline bint is_marked(const space_t *space, ref_t ref) noexcept nogil:
    """Whether the object that begins here lived at the last marking."""
    cdef uint64_t granule = granule_of(space, ref)
    return page_bits(space, slot_of(space, ref))[granule // 64] >> granule % 64 & 1


cdef void mark(space_t *space, cycle_t *cycle) noexcept nogil
cdef void free_blocks(space_t *space, cycle_t *cycle) noexcept nogil
