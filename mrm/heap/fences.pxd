"""Patterns around blocks and in them."""

from libc.stddef cimport ptrdiff_t, size_t
from libc.stdint cimport uint8_t, uint32_t

from mrm.heap.records cimport record_t


cdef enum:
    FENCE = 64                  # bytes of each: an array of such elements may be written one too far
    SHOWN = 16                  # bytes of what was found instead that are kept
    DAMAGES = 3                 # that one block can have: in front, behind, and inside

# What was written to.
cdef enum:
    DAMAGE_FRONT = 1            # the fence in front of a block
    DAMAGE_BEHIND               # the one behind it
    DAMAGE_INSIDE               # the block itself, after it was freed


cdef struct damage_t:
    uint32_t kind               # DAMAGE_...
    uint32_t shown              # bytes there are of ``bytes``
    ptrdiff_t offset            # from the beginning of the block to the first byte that differs
    size_t nbytes               # from there to the last
    uint8_t bytes[SHOWN]
    uint8_t pattern             # what each of them was
    record_t record             # as it was


cdef void fences_put(const record_t *record, bint zero) noexcept nogil
cdef void fence_put_behind(const record_t *record) noexcept nogil
cdef void fences_poison(const record_t *record, size_t most) noexcept nogil
cdef uint32_t fences_mend(const record_t *record, size_t poisoned, damage_t *damages) noexcept nogil
