"""Every frame's state, and the free lists that they are taken from."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from mrm.physical.bitmap cimport bitmap_t


cdef enum:
    NO_FRAME = 0xFFFFFFFF
    MAX_MAPPINGS = 0xFFFF       # live mappings of one frame
    MAX_PENDING = 0xFFFF        # deferred aliases of one frame


cdef extern from "mrm/mrm.h" nogil:
    enum:
        MRM_REUSE_NOW
        MRM_REUSE_AFTER_RETIRE
        MRM_FRAME_READY
        MRM_FRAME_HELD
        MRM_FRAME_STRICT
        MRM_FRAME_RELEASED


# What is kept of a frame: 16 bytes. A frame is in one place: in a stack, in the
# bitmap, in the strict list, or held.
cdef struct frame_t:
    uint32_t next               # the frame below it in its stack or list, or NO_FRAME
    uint32_t status             # MRM_FRAME_READY, HELD or STRICT | live mappings << 8
    uint32_t epoch              # STRICT: retires there had been when it was given
    uint16_t pending            # deferred aliases: old addresses that still show it
    uint16_t depth              # frames in its stack up to this one


# One processor's free frames, last in, first out, on cache lines of its own.
cdef struct stack_t:
    uint64_t head               # changes so far << 32 | frame on top, or NO_FRAME
    uint64_t unused[15]


cdef struct frames_t:
    uint32_t count              # frames there are
    uint32_t stack_count        # processors that there can be
    frame_t *frame
    stack_t *stacks
    bitmap_t bitmap             # free frames that are in no stack
    uint32_t lock               # of the bitmap
    uint32_t retiring           # 1 while a retire sorts the strict list
    uint64_t strict             # head of the strict list, as a stack's
    uint64_t epoch              # retires so far
    void *memory


# Counts by state; they add up to the frames there are.
cdef struct frame_counts_t:
    uint64_t ready
    uint64_t released
    uint64_t strict
    uint64_t held
    uint64_t mapped             # held and shown by a reservation
    uint64_t pending            # deferred aliases


cdef int frames_open(frames_t *frames, uint32_t count) noexcept nogil
cdef void frames_close(frames_t *frames) noexcept nogil

# All of these are thread-safe; take and give of one frame take no lock while the
# processor's own stack serves.
cdef int frames_take(frames_t *frames, uint32_t *frame) noexcept nogil
cdef int frames_take_many(frames_t *frames, uint32_t *taken, size_t n) noexcept nogil
cdef int frames_take_run(frames_t *frames, uint32_t n, uint32_t *first) noexcept nogil
cdef int frames_give(frames_t *frames, uint32_t frame, int reuse) noexcept nogil
cdef int frames_give_many(frames_t *frames, const uint32_t *given, size_t n, int reuse) noexcept nogil

# What a reservation does to a frame that it shows.
cdef int frames_map(frames_t *frames, uint32_t frame) noexcept nogil
cdef void frames_unmap(frames_t *frames, uint32_t frame) noexcept nogil
cdef int frames_defer(frames_t *frames, uint32_t frame) noexcept nogil
cdef void frames_undefer(frames_t *frames, uint32_t frame) noexcept nogil
cdef void frames_settle(frames_t *frames, uint32_t frame) noexcept nogil
cdef uint64_t frames_retire_begin(frames_t *frames) noexcept nogil
cdef void frames_retire_end(frames_t *frames, uint64_t begun) noexcept nogil

cdef uint32_t frames_state(const frames_t *frames, uint32_t frame) noexcept nogil
cdef uint32_t frames_mappings(const frames_t *frames, uint32_t frame) noexcept nogil
cdef void frames_count(const frames_t *frames, frame_counts_t *counts) noexcept nogil
cdef int frames_audit(frames_t *frames, frame_counts_t *counts) noexcept nogil
