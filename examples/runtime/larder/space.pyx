"""A space opened and closed, its pages, its roots, and the list of who has a block on the heap.

Who pays. Three accounts divide the pool's frames, and each is there for a promise:

    objects     has a balance of exactly the pages in use: raised before pages are mapped,
                lowered when they are given back. It borrows nothing.
    side        is the heap's. It has no balance, and borrows what nobody was promised.
    collector   has a balance of RESERVE, out of the fund "pause_prevention", and takes
                nothing by itself: a cycle moves the promise to `objects`, takes a page on
                it, and moves it back when it has emptied others (moving.pyx).

So whatever the heap and other users of the pool take, a cycle finds its first page.

Pages are mapped AHEAD at a time, at slots that follow each other: one batch and one or two
system calls, where each page by itself would cost as many. Slots are used in turn, all
the way round, so that an address comes up again late.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport (
    MRM_HEAP_OVERDRAFT, MRM_NO_OVERDRAFT, MRM_OK, MRM_OUT_OF_FRAMES, MRM_PROT_READ_WRITE,
    MRM_REUSE_NOW, MRM_SHARE_CONTENTS, api, mrm_account_options, mrm_batch, mrm_heap, mrm_heap_options, mrm_import,
    mrm_pool,
)

mrm_import()


# ---- accounts -------------------------------------------------------------------------

cdef int _account(
    mrm_pool *pool, const char *name, const char *committed, const char *overdraft, uint32_t *number
) noexcept nogil:
    """Open an account; contents pass between a store's own without being cleared."""
    cdef mrm_account_options options
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.name = name
    options.committed = committed
    options.overdraft = overdraft
    options.flags = MRM_SHARE_CONTENTS if overdraft != NULL else MRM_SHARE_CONTENTS | MRM_NO_OVERDRAFT
    return api.account_open(pool, &options, number)


cdef int _move_reserve(mrm_pool *pool, const char *source, const char *target) noexcept nogil:
    """Move the reserve's worth of frames from one fund to another."""
    cdef uint32_t giver, taker
    cdef int status = api.fund_open(pool, source, &giver)
    if status == MRM_OK:
        status = api.fund_open(pool, target, &taker)
    return status if status != MRM_OK else api.fund_transfer(pool, giver, taker, RESERVE)


cdef int _open_accounts(mrm_pool *pool, uint32_t *objects, uint32_t *side, uint32_t *collector) noexcept nogil:
    """The three accounts, or none."""
    cdef int status = _account(pool, b"larder objects", NULL, NULL, objects)
    if status != MRM_OK:
        return status
    status = _account(pool, b"larder side", NULL, b"committed", side)
    if status == MRM_OK:
        status = _account(pool, b"larder collector", b"pause_prevention", NULL, collector)
        if status == MRM_OK:
            status = _move_reserve(pool, b"committed", b"pause_prevention")
            if status == MRM_OK:
                status = api.account_fund(pool, collector[0], RESERVE)
                if status == MRM_OK:
                    return MRM_OK
                _move_reserve(pool, b"pause_prevention", b"committed")
            api.account_close(pool, collector[0])
        api.account_close(pool, side[0])
    api.account_close(pool, objects[0])
    return status


cdef void _close_accounts(mrm_pool *pool, uint32_t objects, uint32_t side, uint32_t collector) noexcept nogil:
    api.account_close(pool, objects)
    api.account_close(pool, side)
    api.account_close(pool, collector)          # its balance returns to its fund
    _move_reserve(pool, b"pause_prevention", b"committed")


# ---- opened and closed ----------------------------------------------------------------

cdef bint _tables(space_t *space, uint64_t stack_room) noexcept nogil:
    """All that is sized by slots; False when the heap had no room for it."""
    cdef mrm_heap *heap = space.heap
    cdef uint64_t slots = space.slot_count
    cdef uint64_t stretches = slots * space.lines
    space.page = <page_t *>api.heap_calloc(heap, slots, sizeof(page_t))
    space.bits = <uint64_t *>api.heap_calloc(heap, slots * space.words, sizeof(uint64_t))
    space.counts = <uint32_t *>api.heap_calloc(heap, stretches, sizeof(uint32_t))
    space.victim = <uint64_t *>api.heap_calloc(heap, slots, sizeof(uint64_t))
    space.slot = <uint32_t *>api.heap_calloc(heap, slots, sizeof(uint32_t))
    space.frame = <uint32_t *>api.heap_calloc(heap, slots, sizeof(uint32_t))
    space.fresh = <uint32_t *>api.heap_calloc(heap, slots, sizeof(uint32_t))
    space.stack = <ref_t *>api.heap_calloc(heap, stack_room, sizeof(ref_t))
    return not (
        space.page == NULL or space.bits == NULL or space.counts == NULL or space.victim == NULL
        or space.slot == NULL or space.frame == NULL or space.fresh == NULL or space.stack == NULL
    )


cdef int space_open(space_t **opened, mrm_pool *pool, uint64_t stack_room, double sparse) noexcept nogil:
    """A space without objects and without pages; a space a pool."""
    cdef uint32_t objects, side, collector
    cdef mrm_heap_options options
    cdef mrm_heap *heap
    cdef space_t *space
    cdef int status = _open_accounts(pool, &objects, &side, &collector)
    if status != MRM_OK:
        return status
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.account = side
    options.flags = MRM_HEAP_OVERDRAFT
    options.name = b"larder"
    status = api.heap_open(pool, &options, &heap)
    if status != MRM_OK:
        _close_accounts(pool, objects, side, collector)
        return status
    space = <space_t *>api.heap_calloc(heap, 1, sizeof(space_t))
    if space == NULL:
        api.heap_close(heap)
        _close_accounts(pool, objects, side, collector)
        return MRM_OUT_OF_FRAMES
    api.pool_retain(pool)
    space.pool = pool
    space.heap = heap
    space.objects = objects
    space.side = side
    space.collector = collector
    space.open = space.root_free = NONE
    api.pool_layout(pool, &space.layout)
    space.slot_count = 2 * space.layout.frame_count
    space.granules = <uint32_t>(space.layout.frame_size >> GRANULE_SHIFT)
    space.words = space.granules // 64
    space.lines = space.granules // LINE
    space.sparse = <uint32_t>(sparse * space.granules)
    space.stack_room = stack_room
    status = MRM_OK if _tables(space, stack_room) else MRM_OUT_OF_FRAMES
    if status == MRM_OK:
        status = api.reservation_open(pool, space.slot_count, 0, &space.slots)
    if status != MRM_OK:
        space_close(space)
        return status
    space.base = <uint64_t>api.reservation_address(space.slots, 0)
    opened[0] = space
    return MRM_OK


cdef void space_close(space_t *space) noexcept nogil:
    """End every object: addresses first, then frames, then the heap with all tables, this struct among them."""
    cdef uint32_t objects = space.objects, side = space.side, collector = space.collector
    cdef mrm_pool *pool = space.pool
    cdef uint32_t i, n = 0
    if space.slots != NULL:
        api.reservation_close(space.slots)
        for i in range(space.slot_count):
            if space.page[i].state == PAGE_USED:
                space.frame[n] = space.page[i].frame
                n += 1
        api.give_many(pool, space.frame, n, MRM_REUSE_NOW)
        api.account_fund(pool, objects, -<int>n)
    api.heap_close(space.heap)
    _close_accounts(pool, objects, side, collector)
    api.pool_release(pool)


# ---- pages ----------------------------------------------------------------------------

cdef uint32_t slot_take(space_t *space) noexcept nogil:
    """The next free slot, which is in use from now on.

    There is always one: pages in use have a frame each, and those that wait for the next
    marking were in use before one cycle, so that neither are more than the pool's frames.
    """
    while space.page[space.cursor].state != PAGE_FREE:
        space.cursor = (space.cursor + 1) % space.slot_count
    memset(&space.page[space.cursor], 0, sizeof(page_t))
    space.page[space.cursor].state = PAGE_USED
    return space.cursor


cdef int _map_ahead(space_t *space) noexcept nogil:
    """Map AHEAD pages, or as many as there are frames for; at least one."""
    cdef uint32_t frame[AHEAD]
    cdef uint32_t i, n = AHEAD
    cdef mrm_batch *batch
    cdef int status
    while True:
        status = api.account_fund(space.pool, space.objects, n)
        if status == MRM_OK or n == 1:
            break
        n //= 2
    if status != MRM_OK:
        return status
    for i in range(n):
        space.ahead[n - 1 - i] = space.slot[i] = slot_take(space)
    status = api.batch_begin(space.slots, &batch)
    if status == MRM_OK:
        status = api.batch_map_from(batch, space.objects, 0, space.slot, n, MRM_PROT_READ_WRITE, frame)
        if status == MRM_OK:
            status = api.batch_commit(batch, NULL)
        api.batch_abort(batch)                  # of a batch that was not committed, this gives the frames back
    if status != MRM_OK:
        for i in range(n):
            space.page[space.slot[i]].state = PAGE_FREE
        api.account_fund(space.pool, space.objects, -<int>n)
        return status
    for i in range(n):
        space.page[space.slot[i]].frame = frame[i]
    space.ahead_count = n
    space.used += n
    return MRM_OK


cdef int space_bump(space_t *space, uint32_t granules, ref_t *where) noexcept nogil:
    """Room for an object, uncleared, in the open page or in the next one."""
    cdef page_t *page
    cdef int status
    if space.open == NONE or space.page[space.open].top + granules > space.granules:
        if space.ahead_count == 0:
            status = _map_ahead(space)
            if status != MRM_OK:
                return status
        space.ahead_count -= 1
        space.open = space.ahead[space.ahead_count]
    page = &space.page[space.open]
    where[0] = page_address(space, space.open) + (<uint64_t>page.top << GRANULE_SHIFT)
    page.top += granules
    return MRM_OK


# ---- roots and owners -----------------------------------------------------------------

cdef int root_open(space_t *space, uint32_t *root) noexcept nogil:
    """A root that refers to nothing yet.

    An unused root is odd, as no reference is, and tells the next unused one.
    """
    cdef uint32_t i, room
    cdef ref_t *grown
    if space.root_free == <uint32_t>NONE:
        room = 2 * space.root_count if space.root_count else 256
        grown = <ref_t *>api.heap_realloc(space.heap, space.root, room * sizeof(ref_t))
        if grown == NULL:
            return MRM_OUT_OF_FRAMES
        space.root = grown
        for i in range(space.root_count, room):
            grown[i] = (<uint64_t>(i + 1) if i + 1 < room else <uint64_t>NONE) << 1 | 1
        space.root_free = space.root_count
        space.root_count = room
    root[0] = space.root_free
    space.root_free = <uint32_t>(space.root[root[0]] >> 1)
    space.root[root[0]] = 0
    return MRM_OK


cdef void root_close(space_t *space, uint32_t root) noexcept nogil:
    """Let what is reachable from this root only be garbage."""
    space.root[root] = <uint64_t>space.root_free << 1 | 1
    space.root_free = root


cdef int owner_add(space_t *space, ref_t ref) noexcept nogil:
    """Note that an object has a block on the heap, which is to be freed with it."""
    cdef uint64_t room
    cdef ref_t *grown
    if space.owner_count == space.owner_room:
        room = 2 * space.owner_room if space.owner_room else 64
        grown = <ref_t *>api.heap_realloc(space.heap, space.owner, room * sizeof(ref_t))
        if grown == NULL:
            return MRM_OUT_OF_FRAMES
        space.owner = grown
        space.owner_room = room
    space.owner[space.owner_count] = ref
    space.owner_count += 1
    return MRM_OK
