"""Free frames as bits, with summaries: the lowest one, or a run of n, without scanning."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    BITMAP_LEVELS = 7
    BITMAP_FRAMES = 1 << 30     # the most it can hold: what the top of 7 levels spans


# One level's summaries, field by field, so that a search reads one field of 16
# neighbours from one cache line.
cdef struct level_t:
    uint32_t nodes              # nodes of this level
    uint32_t span               # frames that a node stands for
    uint32_t *head              # free frames that a node begins with
    uint32_t *best              # longest run of free frames within it
    uint32_t *tail              # free frames that it ends with
    uint64_t *stale             # bit per node: to be computed anew


cdef struct bitmap_t:
    uint32_t frames             # bits
    uint32_t free               # bits that are set
    uint32_t levels
    uint64_t *words             # bit f set: frame f is free
    level_t level[BITMAP_LEVELS]  # level[0] sums up a word each, level[k] 16 of level[k - 1]
    void *memory                # what all of it lies in


# Not thread-safe: frames.pyx holds its lock around each of these.
cdef int bitmap_open(bitmap_t *bitmap, uint32_t frames) noexcept nogil
cdef void bitmap_close(bitmap_t *bitmap) noexcept nogil
cdef void bitmap_withhold(bitmap_t *bitmap, uint32_t first, uint32_t n) noexcept nogil
cdef size_t bitmap_take(bitmap_t *bitmap, uint32_t *frames, size_t n) noexcept nogil
cdef size_t bitmap_take_within(
    bitmap_t *bitmap, uint32_t *frames, size_t n, uint32_t first, uint32_t end
) noexcept nogil
cdef size_t bitmap_take_high(
    bitmap_t *bitmap, uint32_t *frames, size_t n, uint32_t first, uint32_t below
) noexcept nogil
cdef int64_t bitmap_take_run(bitmap_t *bitmap, uint32_t n) noexcept nogil
cdef int64_t bitmap_take_run_within(bitmap_t *bitmap, uint32_t n, uint32_t begin, uint32_t end) noexcept nogil
cdef void bitmap_give(bitmap_t *bitmap, const uint32_t *frames, size_t n) noexcept nogil
cdef void bitmap_give_run(bitmap_t *bitmap, uint32_t first, uint32_t n) noexcept nogil
cdef bint bitmap_has(const bitmap_t *bitmap, uint32_t frame) noexcept nogil
cdef uint32_t bitmap_count(const bitmap_t *bitmap, uint32_t first, uint32_t end) noexcept nogil
cdef uint32_t bitmap_longest(const bitmap_t *bitmap) noexcept nogil
cdef int64_t bitmap_check(const bitmap_t *bitmap) noexcept nogil
