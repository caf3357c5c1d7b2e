"""A heap, and what a thread has of it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from mrm.heap.classes cimport CLASSES, DIRECT
from mrm.heap.page cimport page_t, segment_t
from mrm.physical.pool cimport pool_t
from mrm.space.batch cimport batch_t
from mrm.space.reservation cimport reservation_t


cdef enum:
    CACHED_LOCALS = 8           # heaps whose local_t a thread finds at once
    CHAINS = 48                 # pages of others that a thread collects blocks for: two of each class up to 512 bytes
    BUCKETS = 64                # lists of a local_t's segments: bits of its ``notice``
    LABEL = 64                  # bytes of a heap's number and name, with the zero at their end

# Bits of heap_t.how and of mrm_heap_options.flags: see mrm.h.
cdef extern from * nogil:
    """
    #define MRM_ABANDONED ((void *)8)
    """
    void *ABANDONED "MRM_ABANDONED"


# What a heap that looks for its callers' mistakes does in place of the usual (debug.pyx).
cdef struct checks_t:
    void *(*allocate)(heap_t *heap, size_t alignment, size_t nbytes, bint zero) noexcept nogil
    void *(*resize)(heap_t *heap, void *block, size_t nbytes) noexcept nogil
    int (*free)(heap_t *heap, void *block) noexcept nogil
    size_t (*usable)(heap_t *heap, const void *block) noexcept nogil
    void (*walk)(
        heap_t *heap, void (*visitor)(void *context, void *block, size_t nbytes) noexcept nogil, void *context
    ) noexcept nogil
    void (*trim)(heap_t *heap) noexcept nogil
    void (*ending)(heap_t *heap) noexcept nogil         # its memory is still there ...
    void (*close)(heap_t *heap) noexcept nogil          # ... and here it may be gone


# Blocks of one page of another's, freed here, and not yet put on the page's ``freed``.
cdef struct chain_t:
    page_t *page
    void *first
    void *last
    uint32_t count
    uint32_t unused


cdef struct local_t:
    heap_t *heap                # NULL: the heap was closed, or is the parent's
    page_t *direct[DIRECT]      # queue[] by grains, for sizes up to 1 KiB
    page_t *queue[CLASSES]      # pages of a class with something free, the current one first; never NULL
    uint64_t notice             # buckets with woken segments; atomic, written by others
    uint64_t apart[8]
    chain_t chains[CHAINS]
    page_t *quiet[CLASSES]      # pages that are full, the last one first; PAGE_QUIET
    segment_t *segments[BUCKETS]
    segment_t *open             # segments with free slices
    uint32_t whole              # of these, those with nothing but free slices
    uint32_t dying              # its thread is ending
    local_t *next               # of the same heap
    local_t *thread_next        # of the same thread, or free for the next
    void *thread                # whose it is


# ---- blocks above a MiB ----------------------------------------------------------------

cdef enum:
    RUN_NONE = 0                # a slot in the middle of something
    RUN_FREE                    # addresses without memory
    RUN_KEPT                    # memory without a block
    RUN_LIVE                    # a block
    RUN_BINS = 40


# Of the first and the last slot of slots in a row that are the same; next and previous of the first.
cdef struct run_t:
    uint32_t n                  # slots
    uint32_t next               # in its bin; NO_RUN: none
    uint32_t previous
    uint8_t state               # RUN_...
    uint8_t cut                 # of any slot: a mapping of private memory that was moved begins or ends here; CUT_...
    uint64_t nbytes             # RUN_LIVE: what the block has


cdef enum:
    NO_RUN = 0xFFFFFFFF


cdef struct runs_t:
    uint32_t lock
    uint32_t slots
    char *base                  # address of slot 0
    run_t *run
    uint32_t free_bins[RUN_BINS]    # heads, by log2 of slots
    uint32_t kept_bins[RUN_BINS]
    uint32_t kept               # slots in all RUN_KEPT
    uint32_t most_kept
    uint32_t live               # slots in all RUN_LIVE
    uint32_t blocks
    uint64_t nbytes             # that they were asked for
    reservation_t *reservation  # of a heap on a pool
    batch_t *batch
    uint64_t writable           # of a private heap: bytes from base on that can be written to


# ---- all of it -----------------------------------------------------------------------

cdef struct heap_t:
    char *base                  # address of segment 0
    uint64_t nbytes             # from there to the end of the last
    page_t *pages               # 64 for each segment
    segment_t *segments
    uint32_t segment_count
    uint32_t state              # STATE_OPEN, STATE_CLOSED, STATE_FORKED
    uint32_t number             # from 1, never used twice in a process; where a thread looks for its local_t first
    pool_t *pool                # NULL: its memory is private
    uint32_t account            # who pays
    uint32_t how                # MRM_OVERDRAFT or 0
    uint32_t users
    uint32_t strict             # private: every byte that can be written to is charged (overcommit_memory 2)
    uint64_t limit              # bytes that it may have
    checks_t *debug             # of a heap that looks for mistakes, or NULL
    uint64_t apart[8]
    uint32_t lock               # of what follows
    uint32_t abandoned          # segments in the list
    local_t *locals             # of every thread that has one
    segment_t *orphans          # segments whose threads have ended
    uint32_t *spare             # private: segments that were used, and are free: a stack ...
    uint32_t spare_count
    uint32_t spare_room
    uint32_t *clean             # ... and those that hold zeros
    uint32_t clean_count
    uint32_t clean_room
    uint32_t fresh              # private: the lowest segment that was never used
    uint32_t writable           # private: segments that can be written to
    uint64_t apart_too[8]
    uint64_t bytes_now          # memory that it has: segments in use and slots shown; atomic
    uint64_t bytes_peak
    runs_t runs
    char label[LABEL]           # what messages call it: its number, and its name if it has one
    uint64_t lacking            # private: bytes of addresses that it needs besides for all memory it may have
    void *memory                # all of this, and the tables: one mapping
    size_t memory_bytes
    heap_t *next                # of the process
    heap_t *previous
