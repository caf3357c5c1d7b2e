"""Patterns around blocks and in them: put there, and looked at.

A block has a fence of FENCE bytes on either side, directly, so that one byte too far is seen. Its own bytes are
filled when it is allocated, so that what is used before it was written looks strange, and when it is freed.
The patterns are those that Python's own debug allocator has, which people know from debuggers; none
of them is an address that could be read, nor a number that a program means.

What is found to be written over is mended, so that each damage is told once.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset


cdef enum:
    BLANK = 0xCD                # in a block that was never written to
    DEAD = 0xDD                 # in one that was freed
    EDGE = 0xFD                 # in a fence
    BLANKED = 16 << 20          # bytes that are filled at the most: larger blocks are often used in part


cdef void fence_put_behind(const record_t *record) noexcept nogil:
    """Put the fence behind a block."""
    memset(record.block + record.nbytes, EDGE, FENCE)


cdef void fences_put(const record_t *record, bint zero) noexcept nogil:
    """Put both fences, and fill the block, unless it holds zeros that are asked for."""
    memset(record.block - FENCE, EDGE, FENCE)
    fence_put_behind(record)
    if not zero:
        memset(record.block, BLANK, min(record.nbytes, <size_t>BLANKED))


cdef void fences_poison(const record_t *record, size_t most) noexcept nogil:
    """Fill a block that is freed, or its first bytes."""
    memset(record.block, DEAD, min(record.nbytes, most))


cdef uint32_t mended(
    const record_t *record, uint32_t kind, char *at, size_t n, uint8_t pattern, damage_t *damage
) noexcept nogil:
    """Look at n bytes that have a pattern; 1, with the damage, which is undone, if they have not."""
    cdef const uint8_t *bytes = <const uint8_t *>at
    cdef size_t first = 0, last = n
    # Equal to the first, and each to the one before.
    if n == 0 or (bytes[0] == pattern and memcmp(bytes, bytes + 1, n - 1) == 0):
        return 0
    while bytes[first] == pattern:
        first += 1
        if first == n:
            return 0            # another thread mends, or is writing at this moment
    while last > first + 1 and bytes[last - 1] == pattern:
        last -= 1
    damage.kind = kind
    damage.pattern = pattern
    damage.offset = at + first - record.block
    damage.nbytes = last - first
    damage.shown = <uint32_t>min(damage.nbytes, <size_t>SHOWN)
    memcpy(damage.bytes, bytes + first, damage.shown)
    damage.record = record[0]
    memset(at + first, pattern, last - first)
    return 1


cdef uint32_t fences_mend(const record_t *record, size_t poisoned, damage_t *damages) noexcept nogil:
    """Look at the fences of a block, and at as many of its bytes as are poisoned; how many DAMAGES there are."""
    cdef uint32_t n
    n = mended(record, DAMAGE_FRONT, record.block - FENCE, FENCE, EDGE, damages)
    n += mended(record, DAMAGE_BEHIND, record.block + record.nbytes, FENCE, EDGE, &damages[n])
    n += mended(record, DAMAGE_INSIDE, record.block, min(record.nbytes, poisoned), DEAD, &damages[n])
    return n
