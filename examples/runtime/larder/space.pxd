"""What a store is made of, and where things lie in it.

Objects lie in PAGES: frames of the pool, each shown at one slot of a reservation that has
twice as many slots as the pool has frames. An object's address is its reference. A page is

    PAGE_FREE    nothing is shown at its slot, and no reference points there
    PAGE_USED    its slot shows a frame with objects in it, or ready for them
    PAGE_MOVED   its objects were moved away and its frame with them; references to it may
                 still be about, and say, with the page's marks, where their objects are now

All tables are made when the space is opened, on the heap; a cycle allocates nothing, and
so never fails for want of memory. For each slot there are

    bits      a bit for each granule of 16 bytes, set while the object there lives
    counts    how many bits are set before each stretch of LINE granules
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm cimport mrm_heap, mrm_layout, mrm_pool, mrm_report, mrm_reservation


ctypedef uint64_t ref_t         # address of an object, or 0

cdef enum:
    GRANULE_SHIFT = 4           # objects begin and end at multiples of 16 bytes
    LINE = 512                  # granules that share a count: a cache line of bits
    AHEAD = 8                   # pages that are mapped together, before they are needed
    RESERVE = 1                 # frames promised to the collector
    HISTORY = 64                # cycles that are remembered
    NONE = 0xFFFFFFFF           # no slot, no root

cdef enum:
    PAGE_FREE
    PAGE_USED
    PAGE_MOVED

cdef struct page_t:
    uint32_t state
    uint32_t frame              # that it shows, if it is in use
    uint32_t top                # granules from its beginning that objects have taken
    uint32_t live               # granules of those that live, as the last marking found
    uint32_t split              # if it was moved: so many live granules are at `first` now,
    ref_t first
    ref_t second                # ... and the others here

cdef struct cycle_t:
    uint64_t objects            # that live
    uint64_t live_bytes         # of them, without what lies on the heap
    uint64_t blocks             # of the heap that were freed with their objects
    uint32_t pages              # in use before
    uint32_t emptied            # of them
    uint32_t filled             # fresh ones, with what lived in the emptied ones
    uint64_t copied             # bytes
    uint32_t passes             # over all objects, because the mark stack was full
    mrm_report batch            # what the kernel was asked for ...
    mrm_report retire           # ... and afterwards, once for all old addresses
    uint64_t mark_ns
    uint64_t move_ns
    uint64_t pause_ns           # all of it

cdef struct space_t:
    mrm_pool *pool
    mrm_heap *heap              # for tables, payloads that are large, and this struct
    mrm_reservation *slots
    mrm_layout layout
    uint64_t base               # address of slot 0
    uint32_t slot_count
    uint32_t granules           # a page has
    uint32_t words              # of bits, for a page
    uint32_t lines              # counts, for a page
    uint32_t side               # account of the heap
    uint32_t objects            # account of the pages
    uint32_t collector          # account of the reserve
    page_t *page                # one for each slot
    uint64_t *bits
    uint32_t *counts
    uint32_t cursor             # where to look for a free slot
    uint32_t used               # pages
    uint32_t open               # page that objects are made in, or NONE
    uint32_t ahead[AHEAD]       # pages for when it is full
    uint32_t ahead_count
    ref_t *root                 # what is reachable begins here
    uint32_t root_count
    uint32_t root_free          # first of the unused ones, or NONE
    ref_t *owner                # objects with a block on the heap
    uint64_t owner_count, owner_room
    ref_t *stack                # marked objects whose fields are to be looked at
    uint64_t stack_count, stack_room
    bint stack_full             # one had no place there
    uint32_t sparse             # pages with up to so many live granules are emptied
    uint64_t *victim            # scratch: live << 32 | slot
    uint32_t *slot              # scratch: slots and frames, for batches
    uint32_t *frame
    uint32_t *fresh
    bint unretired              # the last retire was refused: old addresses still show frames
    cycle_t cycle[HISTORY]
    uint64_t cycles


cdef inline uint32_t slot_of(const space_t *space, ref_t ref) noexcept nogil:
    return <uint32_t>((ref - space.base) >> space.layout.frame_shift)


cdef inline uint32_t granule_of(const space_t *space, ref_t ref) noexcept nogil:
    return <uint32_t>((ref & (space.layout.frame_size - 1)) >> GRANULE_SHIFT)


cdef inline ref_t page_address(const space_t *space, uint32_t slot) noexcept nogil:
    return space.base + (<uint64_t>slot << space.layout.frame_shift)


cdef inline uint64_t *page_bits(const space_t *space, uint32_t slot) noexcept nogil:
    return space.bits + <uint64_t>slot * space.words


cdef int space_open(space_t **opened, mrm_pool *pool, uint64_t stack_room, double sparse) noexcept nogil
cdef void space_close(space_t *space) noexcept nogil
cdef uint32_t slot_take(space_t *space) noexcept nogil
cdef int space_bump(space_t *space, uint32_t granules, ref_t *where) noexcept nogil
cdef int root_open(space_t *space, uint32_t *root) noexcept nogil
cdef void root_close(space_t *space, uint32_t root) noexcept nogil
cdef int owner_add(space_t *space, ref_t ref) noexcept nogil
