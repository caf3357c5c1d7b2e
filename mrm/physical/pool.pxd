"""The pool: funded frames in one file, a window on them, and what keeps them alive."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mrm cimport mrm_layout, mrm_stats
from mrm.physical.frames cimport frames_t
from mrm.physical.nodes cimport nodes_t
from mrm.system.policy cimport policy_t
from mrm.system.ranges cimport range_t


cdef enum:
    # Older headers know neither.
    ADVICE_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE (5.14)
    ADVICE_COLLAPSE = 25        # MADV_COLLAPSE: make huge pages of this now (6.1)


cdef struct pool_t:
    uint32_t state              # STATE_OPEN, or STATE_FORKED in a child
    uint32_t users              # Pool objects, views, reservations, handles: 0 ends it
    int fd                      # the frames' file
    int dumped                  # whether core dumps hold the window
    mrm_layout layout           # with its number, never used twice in a process
    char *window                # address of frame 0, for the pool's life
    char *description           # in words, for people
    size_t whole                # bytes of a mapping of all frames: ends with a page table
    range_t *arena              # window and views
    frames_t frames
    policy_t policy             # of whoever fetches memory for it; mode 0: the thread's own, or that of frames.nodes
    void *shortage              # mrm_shortage: whom takers call that find too few frames, or NULL
    void *shortage_context
    void *shortage_kept         # a callback that the pool keeps alive
    void (*shortage_ends)(void *kept) noexcept nogil        # called with it when the pool ends, or NULL
    # The views' own books (space/views.pyx); nothing below reads them.
    uint8_t *view_state         # MRM_STATE_... of every number; NULL while the pool is opening
    uint32_t *view_queue        # numbers closed, oldest first: a ring of view_count
    uint32_t view_fresh         # lowest number that was never used
    uint32_t view_first         # head of the ring
    uint32_t view_queued        # numbers in it
    uint32_t view_lock


cdef int pool_open(
    pool_t **opened, int fd, int backing, uint32_t frame_count, uint32_t funded, uint32_t frame_shift, uint32_t views,
    int dumped, const char *name, bint reserve, nodes_t *nodes
) noexcept nogil
cdef void pool_retain(pool_t *pool) noexcept nogil
cdef void pool_release(pool_t *pool) noexcept nogil
cdef int pool_usable(const pool_t *pool) noexcept nogil
cdef void *pool_address(const pool_t *pool, uint32_t frame) noexcept nogil
cdef int pool_describe(pool_t *pool, const char *text) noexcept nogil
cdef const char *pool_description(const pool_t *pool) noexcept nogil
cdef int pool_zero(pool_t *pool, const uint32_t *frames, size_t n) noexcept nogil
cdef int pool_copy_frame(pool_t *pool, uint32_t target, uint32_t source) noexcept nogil
cdef void pool_stats(pool_t *pool, mrm_stats *stats) noexcept nogil
cdef int pool_audit(pool_t *pool, mrm_stats *stats) noexcept nogil
cdef int64_t map_frames(
    pool_t *pool, void *at, uint32_t first, uint32_t n, int protection, bint populate
) noexcept nogil
cdef int map_whole(pool_t *pool, char *at, bint dumped) noexcept nogil
cdef void pool_fill_tables(pool_t *pool, uint32_t first, uint32_t n) noexcept nogil
