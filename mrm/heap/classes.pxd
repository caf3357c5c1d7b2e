"""The sizes that small blocks come in."""

from libc.stdint cimport uint32_t


cdef extern from "heap/bits.h" nogil:
    int mrm_log2(unsigned long long v)


cdef enum:
    CLASSES = 112
    EVEN_CLASSES = 8            # the first ones, 16 bytes apart
    GRAIN = 16                  # bytes between them, and what every block is aligned to
    LARGEST_SMALL = 1 << 20     # bytes of the last class; more is a run of slots
    DIRECT = 65                 # sizes up to 1 KiB, in grains: looked up by a table of each thread


cdef inline uint32_t class_of(size_t nbytes) noexcept nogil:
    """The class of a size from 1 to LARGEST_SMALL bytes: the smallest whose blocks suffice."""
    cdef uint32_t doubling
    if nbytes <= EVEN_CLASSES * GRAIN:
        return <uint32_t>((nbytes + GRAIN - 1) >> 4) - 1
    doubling = <uint32_t>mrm_log2(nbytes - 1)
    return (doubling - 7) * 8 + <uint32_t>((nbytes - 1) >> (doubling - 3))


cdef inline size_t class_bytes(uint32_t number) noexcept nogil:
    """Bytes of a block of a class."""
    if number < EVEN_CLASSES:
        return <size_t>(number + 1) * GRAIN
    return <size_t>(number % 8 + 9) << (number // 8 + 3)


cdef struct shape_t:
    uint32_t slices             # that a page of the class is made of
    uint32_t blocks             # that lie in it


cdef const shape_t *shape_of(uint32_t number) noexcept nogil
