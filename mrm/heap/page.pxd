"""What is kept of a page, and of the segment that it lies in. Neither lies in the memory itself.

A SEGMENT is 2 MiB: a frame of a pool, at its address in the window, or as much private memory. It has 64
SLICES; a PAGE is some of them in a row, with blocks of one class. Both are kept in tables beside the memory,
so that all of a segment is blocks, and a block's page follows from its address by a shift.

A page is its owner's: the thread's part of the heap (local_t) that its segment belongs to. Only the owner
touches the first line. Other threads put what they free on ``freed``, by compare and swap, on a line of its own,
as a chain: its first block, and how many there are, in one word. An owner that has done with a full page says so
there (FREED_WAKES): whoever frees the next block then sets the page's bit in its segment's ``woken``, and one in the
owner's ``notice``, which it looks at when it needs memory. No list is shared.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef extern from "heap/bits.h" nogil:
    void *mrm_relaxed(void *const *p)
    void *mrm_owner(void *const *p)
    void mrm_set_owner(void **p, void *owner)


cdef enum:
    SEGMENT_SHIFT = 21
    SEGMENT_BYTES = 1 << SEGMENT_SHIFT
    SLICE_SHIFT = 15
    SLICE_BYTES = 1 << SLICE_SHIFT
    SLICES = 64                 # of a segment

# Flags of a page.
cdef enum:
    PAGE_ZERO = 1               # what is fresh in it has never been written to
    PAGE_QUIET = 2              # full, and those who free its blocks were not asked to tell (pages.pyx)

# What ``used`` has come down to when a free is more than a link in a list: see ``page_done``. Set as lists change.
cdef enum:
    DONE_NEVER = -1             # the first of its queue
    DONE_EMPTY = 0              # another one of a queue: it is dropped
    DONE_ALWAYS = 0x7FFFFFFF    # full, and in no queue: nothing was free in it when its owner last looked

# A page's ``freed``: blocks << 32 | where the first lies in its segment, in grains, and one more; 0: none.
cdef enum:
    FREED_BITS = 0x7FFFFFFF     # of the place
    FREED_SHIFT = 32
cdef extern from * nogil:
    """
    #define MRM_FREED_WAKES (1ull << 31)
    """
    uint64_t FREED_WAKES "MRM_FREED_WAKES"


cdef struct page_t:
    void *free                  # block that is handed out next; each begins with the address of the one behind it
    char *fresh                 # the next block that was never handed out ...
    char *end                   # ... and where they end
    void *owner                 # local_t; nobody's, ABANDONED or of a heap that was forked: see local.pyx
    uint32_t used               # blocks handed out, those on ``freed`` too
    uint32_t nbytes             # of a block; 0: no page begins with this slice
    uint8_t number              # of its class
    uint8_t back                # slices from here back to the first of its page
    uint8_t slices
    uint8_t flags               # PAGE_...
    int32_t done                # DONE_...
    page_t *next                # in its owner's queue of the class, or among the quiet ones
    page_t *previous            # of the first in a queue: the last
    uint64_t freed              # by other threads; atomic
    uint32_t segment
    uint32_t apart[13]


cdef inline bint page_done(const page_t *page) noexcept nogil:
    """Whether ``page_freed`` has something to do for a page in which a block was freed.

    One comparison for both reasons, and none that the first page of a queue can meet: a program that frees all that
    it allocated, over and over (lifo), empties that page each time, and a branch that is taken once in a
    hundred times is mispredicted each time. With a branch for each reason lifo took 1.2 times as long.
    """
    return <int32_t>page.used <= page.done


cdef inline bint page_put(page_t *page, void *block) noexcept nogil:
    """Make a block of this thread's page a free one; True: ``page_freed`` is to be called."""
    (<void **>block)[0] = page.free
    page.free = block
    page.used -= 1
    return page_done(page)


cdef inline bint page_is_full(const page_t *page) noexcept nogil:
    """Whether it is in no queue."""
    return page.done == DONE_ALWAYS


# What a segment is.
cdef enum:
    SEGMENT_NONE = 0            # not the heap's, or free
    SEGMENT_USED                # has pages
    SEGMENT_FROZEN              # in a child: another thread's at the fork (forks.pyx)


cdef extern from * nogil:
    """
    #define MRM_ALL_SLICES (~0ull)
    """
    uint64_t ALL_SLICES "MRM_ALL_SLICES"    # a segment with nothing but free slices


cdef struct segment_t:
    uint64_t free               # slices in no page, a bit each
    uint64_t zero               # ... that have never been written to
    uint64_t woken              # pages with something on ``freed`` that had nothing free; atomic
    uint32_t state              # SEGMENT_...
    void *owner                 # local_t, or ABANDONED
    segment_t *next             # with some of the same owner, or without one
    segment_t *previous
    segment_t *open_next        # with free slices, of the same owner
    segment_t *open_previous
    uint32_t number
    uint32_t is_open            # whether it is in that list


# Of the lists of segments, each with its head: a thread's, by buckets, and the heap's of those without a thread.
cdef inline void segment_push(segment_t **head, segment_t *segment) noexcept nogil:
    segment.previous = NULL
    segment.next = head[0]
    if head[0] != NULL:
        head[0].previous = segment
    head[0] = segment


cdef inline void segment_remove(segment_t **head, segment_t *segment) noexcept nogil:
    if segment.next != NULL:
        segment.next.previous = segment.previous
    if segment.previous != NULL:
        segment.previous.next = segment.next
    else:
        head[0] = segment.next
