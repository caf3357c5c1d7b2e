"""Pages of one thread: its queues by class, and the segments that pages are cut from.

All of this is done by the thread that owns the pages, which needs no lock for it.

A queue has the pages of a class in which something may be free; its first is where blocks are taken
from until it has none. Then some more of what was never handed out is strung up, or it is full: it leaves the
queue, and comes back when one of its blocks is freed. It comes back as the last, so that more of it is free when its
turn comes: else a program that replaces blocks at random (larson) had a block or two of a page at a time, and
took 1.15 times as long. But pages that are left alone may come empty, and serve another class; so those of
blocks above 576 bytes, of which a page has few, come back behind the first. With 768 in place of 576 larson was at
1.17, and had 1.18 of mimalloc's memory; like this it is at 0.97 to 1.08, with 1.01 of the memory.

Other threads that free a page's blocks have to be asked to tell, by a compare and swap on the page, which waits
for all that the program wrote before. So a full page is quiet at first: nobody was asked. Its owner's next free
brings it back for nothing; or the owner looks by itself, when its queue is empty, and asks only then, and
not for the last few, at which it will look again. Blocks of 8 KiB to 1 MiB, of which a page has one to
four, became 1.13 to 1.17 times as fast by that.

A page whose blocks are all free gives its slices back, unless it is the first of its queue, which the next malloc
would only make again. A segment with nothing but free slices is given back if the thread has another one like it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm.heap.classes cimport CLASSES, DIRECT, class_bytes, shape_of, shape_t
from mrm.heap.page cimport (
    ALL_SLICES, DONE_ALWAYS, DONE_EMPTY, DONE_NEVER, FREED_BITS, FREED_SHIFT, FREED_WAKES, PAGE_QUIET, PAGE_ZERO,
    SEGMENT_SHIFT, SLICE_SHIFT, SLICES, mrm_set_owner, page_done, page_is_full, segment_push, segment_remove,
)
from mrm.heap.segments cimport segment_give
from mrm.heap.state cimport BUCKETS, heap_t


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    bint mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)

cdef extern from "heap/bits.h" nogil:
    uint64_t mrm_bits_swap64(uint64_t *p, uint64_t bits)
    int mrm_bits_run(uint64_t mask, unsigned int n)
    int mrm_lowest64(uint64_t bits)


cdef enum:
    STRUNG_BYTES = 4096         # of fresh blocks that are strung up at a time
    IN_TURN = 576               # bytes of a block up to which a page that was full comes back as the last
    QUIET = 4                   # full pages of a class that nobody is asked to tell of
    WHOLE = 1                   # segments with nothing but free slices that a thread keeps


cdef page_t nothing             # what an empty queue begins with: it has no block, and never will


# ---- queues --------------------------------------------------------------------------

cdef void set_first(local_t *local, uint32_t number, page_t *page) noexcept nogil:
    """Make a page the first of its queue, for sizes that are looked up by grains, too."""
    cdef uint32_t grain = 0 if number == 0 else <uint32_t>(class_bytes(number - 1) >> 4) + 1
    cdef uint32_t last = min(<uint32_t>(class_bytes(number) >> 4), <uint32_t>(DIRECT - 1))
    if page != &nothing:
        page.done = DONE_NEVER
    local.queue[number] = page
    while grain <= last:
        local.direct[grain] = page
        grain += 1


cdef void queue_push(local_t *local, page_t *page) noexcept nogil:
    """Put a page into its queue: as the last, or behind the first, which stays the warm one."""
    cdef page_t *first = local.queue[page.number]
    if first == &nothing:
        page.next = NULL
        page.previous = page
        set_first(local, page.number, page)
        return
    page.done = DONE_EMPTY
    # Until its turn comes, more of it may be free; but those of large blocks come empty, if they are left alone.
    page.previous = first.previous if page.nbytes <= IN_TURN else first
    page.next = page.previous.next
    page.previous.next = page
    if page.next != NULL:
        page.next.previous = page
    else:
        first.previous = page


cdef void queue_remove(local_t *local, page_t *page) noexcept nogil:
    """Take a page out of its queue."""
    cdef page_t *first = local.queue[page.number]
    if page.next != NULL:
        page.next.previous = page.previous
    else:
        first.previous = page.previous
    if page == first:
        set_first(local, page.number, page.next if page.next != NULL else &nothing)
    else:
        page.previous.next = page.next
    page.next = page.previous = NULL


cdef void quiet_push(local_t *local, page_t *page) noexcept nogil:
    """Put a page that has left its queue among the quiet ones."""
    page.flags |= PAGE_QUIET
    page.done = DONE_ALWAYS
    page.previous = NULL
    page.next = local.quiet[page.number]
    if page.next != NULL:
        page.next.previous = page
    local.quiet[page.number] = page


cdef void page_unlist(local_t *local, page_t *page) noexcept nogil:
    """Take a page out of its queue, or from among the quiet ones, if it is in either."""
    if not page_is_full(page):
        queue_remove(local, page)
        return
    if not page.flags & PAGE_QUIET:
        return
    page.flags &= ~<uint8_t>PAGE_QUIET
    if page.next != NULL:
        page.next.previous = page.previous
    if page.previous != NULL:
        page.previous.next = page.next
    else:
        local.quiet[page.number] = page.next
    page.next = page.previous = NULL


# ---- segments of a thread ----------------------------------------------------------------

cdef void open_push(local_t *local, segment_t *segment) noexcept nogil:
    if segment.is_open:
        return
    segment.is_open = True
    segment.open_previous = NULL
    segment.open_next = local.open
    if local.open != NULL:
        local.open.open_previous = segment
    local.open = segment


cdef void open_remove(local_t *local, segment_t *segment) noexcept nogil:
    if not segment.is_open:
        return
    segment.is_open = False
    if segment.open_next != NULL:
        segment.open_next.open_previous = segment.open_previous
    if segment.open_previous != NULL:
        segment.open_previous.open_next = segment.open_next
    else:
        local.open = segment.open_next


cdef void segment_link(local_t *local, segment_t *segment) noexcept nogil:
    """Make a segment a thread's."""
    mrm_set_owner(&segment.owner, local)
    segment_push(&local.segments[segment.number % BUCKETS], segment)
    segment.is_open = False
    if segment.free:
        open_push(local, segment)
    local.whole += segment.free == ALL_SLICES


cdef void segment_unlink(local_t *local, segment_t *segment) noexcept nogil:
    """Take a segment out of its thread's lists."""
    local.whole -= segment.free == ALL_SLICES
    open_remove(local, segment)
    segment_remove(&local.segments[segment.number % BUCKETS], segment)


# ---- what other threads freed ---------------------------------------------------------------

cdef inline char *segment_base(const heap_t *heap, uint32_t number) noexcept nogil:
    return heap.base + (<uint64_t>number << SEGMENT_SHIFT)


cdef uint32_t page_collect(heap_t *heap, page_t *page) noexcept nogil:
    """Make what others freed in a page that has nothing free its free blocks; how many."""
    cdef uint64_t freed = mrm_load64(&page.freed)
    cdef uint32_t n
    if freed <= FREED_WAKES:        # nothing but that flag, if anything
        return 0
    freed = mrm_bits_swap64(&page.freed, 0)
    n = <uint32_t>(freed >> FREED_SHIFT)
    page.free = segment_base(heap, page.segment) + ((freed & FREED_BITS) - 1) * 16
    page.used -= n
    return n


cdef uint32_t page_collect_all(heap_t *heap, page_t *page) noexcept nogil:
    """The same for any page: what is free in it already is put behind. Looks at each block that was freed."""
    cdef void *free = page.free
    cdef void **last
    cdef uint32_t n = page_collect(heap, page)
    if n and free != NULL:
        last = <void **>page.free
        while last[0] != NULL:
            last = <void **>last[0]
        last[0] = free
    return n


cdef bint page_fill(page_t *page) noexcept nogil:
    """Have something free in a page that has nothing, of what was never used."""
    cdef char *block
    cdef char *end
    if page.fresh >= page.end:
        return False
    # A page's worth at a time: the rest of it stays untouched, and known to be zero if it is.
    block = page.fresh
    end = block + max(<size_t>STRUNG_BYTES // page.nbytes, <size_t>1) * page.nbytes
    if end > page.end:
        end = page.end
    page.free = block
    page.fresh = end
    end -= page.nbytes
    while block < end:
        (<void **>block)[0] = block + page.nbytes
        block += page.nbytes
    (<void **>block)[0] = NULL
    return True


cdef bint page_full(page_t *page) noexcept nogil:
    """Ask for a wake by whoever frees a block of a page that has nothing free; False if somebody just has."""
    cdef uint64_t freed = mrm_load64(&page.freed)
    while True:
        if freed > FREED_WAKES:
            return False
        if mrm_cas64(&page.freed, &freed, FREED_WAKES):
            return True


cdef void page_unfull(local_t *local, page_t *page) noexcept nogil:
    """Put a page back into its queue, as one of its blocks was freed."""
    page_unlist(local, page)
    queue_push(local, page)


cdef page_t *page_quiet(local_t *local, uint32_t number) noexcept nogil:
    """A quiet page of a class in which others freed something, back in its queue; or NULL.

    The last few stay, to be looked at again; others are to be told of from now on.
    """
    cdef page_t *page = local.quiet[number]
    cdef page_t *next
    cdef uint32_t passed = 0
    while page != NULL:
        next = page.next
        if passed >= QUIET:
            page_unlist(local, page)
            if page_full(page):
                page = next
                continue
        if mrm_load64(&page.freed) > FREED_WAKES:
            page_unfull(local, page)
            page_collect(local.heap, page)
            return page
        passed += 1
        page = next
    return NULL


cdef page_t *page_first(local_t *local, uint32_t number) noexcept nogil:
    """The first page of a queue that has something free, those before it leave the queue; or NULL."""
    cdef page_t *page = local.queue[number]
    while page != &nothing:
        if page.free != NULL or page_fill(page):
            return page
        queue_remove(local, page)
        quiet_push(local, page)
        page = local.queue[number]
    return page_quiet(local, number)


cdef inline uint64_t slices_mask(uint32_t first, uint32_t n) noexcept nogil:
    """Bits of n slices (1 or more) in a row."""
    return ALL_SLICES >> (SLICES - n) << first


# ---- pages come and go ---------------------------------------------------------------------

cdef page_t *page_cut(local_t *local, segment_t *segment, uint32_t number) noexcept nogil:
    """Make a page out of free slices of a segment, if there are enough in a row."""
    cdef const shape_t *shape = shape_of(number)
    cdef int first = mrm_bits_run(segment.free, shape.slices)
    cdef uint32_t i
    cdef uint64_t mask
    cdef page_t *page
    cdef char *memory
    if first < 0:
        return NULL
    mask = slices_mask(<uint32_t>first, shape.slices)
    local.whole -= segment.free == ALL_SLICES
    segment.free &= ~mask
    if segment.free == 0:
        open_remove(local, segment)
    page = &local.heap.pages[<size_t>segment.number * SLICES + <uint32_t>first]
    memory = segment_base(local.heap, segment.number) + (<uint32_t>first << SLICE_SHIFT)
    for i in range(1, shape.slices):
        page[i].back = <uint8_t>i
        page[i].nbytes = 0
        mrm_set_owner(&page[i].owner, NULL)
    page.back = 0
    page.slices = <uint8_t>shape.slices
    page.number = <uint8_t>number
    page.segment = segment.number
    page.used = 0
    page.free = NULL
    page.fresh = memory
    page.flags = PAGE_ZERO if segment.zero & mask == mask else 0
    segment.zero &= ~mask
    page.nbytes = <uint32_t>class_bytes(number)
    page.end = memory + <size_t>shape.blocks * page.nbytes
    page.freed = 0
    mrm_set_owner(&page.owner, local)
    queue_push(local, page)
    return page


cdef void page_drop(local_t *local, page_t *page) noexcept nogil:
    """Give the slices of a page back to its segment: no block of it is in use."""
    cdef segment_t *segment = &local.heap.segments[page.segment]
    cdef uint32_t first = <uint32_t>(page - local.heap.pages) % SLICES
    cdef uint64_t mask = slices_mask(first, page.slices)
    cdef uint32_t i
    page_unlist(local, page)
    if page.flags & PAGE_ZERO and page.fresh == segment_base(local.heap, page.segment) + (first << SLICE_SHIFT):
        segment.zero |= mask    # nothing of it was ever handed out
    for i in range(page.slices):
        page[i].back = 0        # so that an address in there leads to no page
    page.nbytes = 0
    mrm_set_owner(&page.owner, NULL)
    segment.free |= mask
    open_push(local, segment)
    local.whole += segment.free == ALL_SLICES


cdef void segment_drop(local_t *local, segment_t *segment) noexcept nogil:
    """Give a segment back that has nothing but free slices."""
    segment_unlink(local, segment)
    segment_give(local.heap, segment)


cdef bint page_empty(local_t *local, page_t *page) noexcept nogil:
    """Drop a page without a block in use; whether its segment was given back, too, and may be another's."""
    cdef segment_t *segment = &local.heap.segments[page.segment]
    page_drop(local, page)
    if segment.free != ALL_SLICES or local.whole <= WHOLE:
        return False
    segment_drop(local, segment)
    return True


cdef void page_freed(local_t *local, page_t *page) noexcept nogil:
    """What follows when a page has a block free again, or has nothing else."""
    if page_is_full(page):
        page_unfull(local, page)
    if page_done(page):
        page_empty(local, page)


cdef void pages_wake(local_t *local) noexcept nogil:
    """Put pages back into their queues in which others freed something since they were full."""
    cdef uint64_t buckets = mrm_bits_swap64(&local.notice, 0)
    cdef segment_t *segment
    cdef segment_t *next
    cdef uint64_t woken
    cdef page_t *page
    while buckets:
        segment = local.segments[mrm_lowest64(buckets)]
        buckets &= buckets - 1
        while segment != NULL:
            next = segment.next     # which may be given back below
            woken = mrm_bits_swap64(&segment.woken, 0)
            while woken:
                page = &local.heap.pages[<size_t>segment.number * SLICES + <uint32_t>mrm_lowest64(woken)]
                woken &= woken - 1
                # The bit may be an old one, of a page that is in its queue again, or is no more.
                if page.nbytes == 0 or not page_is_full(page):
                    continue
                if page_collect(local.heap, page) == 0 and page_full(page):
                    continue
                if page.free == NULL:
                    page_collect(local.heap, page)
                page_unfull(local, page)
                if page_done(page) and page_empty(local, page):
                    break
            segment = next


# ---- all of a thread's ---------------------------------------------------------------------

cdef void segment_collect(local_t *local, segment_t *segment) noexcept nogil:
    """Take over all that others freed in a segment, and drop the pages that are empty then."""
    cdef page_t *page = &local.heap.pages[<size_t>segment.number * SLICES]
    cdef uint32_t i = 0, slices
    while i < SLICES:
        if segment.free >> i & 1:
            i += 1
            continue
        slices = page[i].slices
        if page_collect_all(local.heap, &page[i]) and page_is_full(&page[i]):
            page_unfull(local, &page[i])
        if page[i].used == 0:
            page_drop(local, &page[i])
        i += slices


cdef void pages_release(local_t *local) noexcept nogil:
    """Give back what a thread has beyond its blocks: pages that are empty, and segments."""
    cdef segment_t *segment
    cdef segment_t *next
    cdef uint32_t bucket
    pages_wake(local)
    for bucket in range(<uint32_t>BUCKETS):
        segment = local.segments[bucket]
        while segment != NULL:
            next = segment.next
            segment_collect(local, segment)
            if segment.free == ALL_SLICES:
                segment_drop(local, segment)
            segment = next


cdef void pages_forget(local_t *local) noexcept nogil:
    """Begin with no page and no segment."""
    cdef uint32_t i
    for i in range(<uint32_t>CLASSES):
        local.queue[i] = &nothing
    for i in range(<uint32_t>DIRECT):
        local.direct[i] = &nothing
    memset(local.quiet, 0, sizeof(local.quiet))
    memset(local.segments, 0, sizeof(local.segments))
    memset(local.chains, 0, sizeof(local.chains))
    local.open = NULL
    local.whole = 0
    local.notice = 0
