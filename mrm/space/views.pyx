"""Views: fresh addresses for every frame of a pool, without work per frame.

A view is one mapping of the pool's file over one stride of the arena. The kernel gives
it page tables on the first touch, and links a whole GiB by one entry where another
mapping of the same GiB has them already (the window always has). Retiring seals the
range: one call and one invalidation for all of it, and from then on any access through
it traps, while its addresses stay taken. Closing makes the number free for use again.

Numbers are handed out in ascending order while there are unused ones, and then the one
that was closed longest ago, so that a stale pointer meets a trap for as long as can be.
A number is a few bits of every address in the view: a collector that opens a view per
cycle reads the cycle out of a pointer, as ZGC reads its colours.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_CLOSED, MRM_FRAME_INFLATED, MRM_NO_ADDRESSES, MRM_NO_MEMORY, MRM_OK, MRM_STATE_OPEN,
    MRM_STATE_RETIRED, MRM_STATE_UNUSED, MRM_SYSTEM_CALL, mrm_address,
)
from mrm.physical.frames cimport frames_state
from mrm.physical.pool cimport map_whole, pool_release, pool_retain, pool_t, pool_usable
from mrm.physical.showing cimport frames_retire_begin, frames_retire_end
from mrm.system.calls cimport CALL_MINCORE, CALL_MMAP, call, is_fake, seal
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.features cimport FEATURE_SHARING, feature_found, feature_unknown
from mrm.system.ranges cimport STATE_FORKED
from mrm.system.room cimport ROOM_TEXT, why_refused


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    void mrm_store8(uint8_t *p, uint8_t v)
    uint64_t mrm_load64(const uint64_t *p)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    void mrm_store_ptr(void **p, void *v)
    int mrm_cas32(uint32_t *p, uint32_t *expected, uint32_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<string.h>" nogil:
    char *strerror(int error)


cdef int view_shares(const pool_t *pool, const char *at, const char *other) noexcept nogil:
    """Whether two whole mappings of a pool of huge pages share page tables: 1, 0, or -1 for unknown.

    Frame 1 is touched through one of them, frame 0 through the other, which gives it a page
    table: its own, or the first one's. If frame 1 is in it, untouched, it is the first one's.
    mincore tells, without /proc. It looks into page tables only where there are some, which
    is what frame 0 is touched for; and tells the truth of files that the process may write.
    Where one of the two is in the balloon it is not known: the touch would fetch a page for it.
    """
    cdef uint8_t present = 0
    cdef size_t frame = pool.layout.frame_size
    if pool.layout.frame_count < 2 or pool.layout.backing != MRM_BACKING_HUGETLB or is_fake():
        return -1
    if frames_state(&pool.frames, 0) == MRM_FRAME_INFLATED or frames_state(&pool.frames, 1) == MRM_FRAME_INFLATED:
        return -1
    mrm_load8(<const uint8_t *>other + frame)
    mrm_load8(<const uint8_t *>at)
    if call(CALL_MINCORE, <int64_t>(at + frame), 1, <int64_t>&present) < 0:
        return -1
    return present & 1


cdef int _try_sharing(pool_t *pool) noexcept nogil:
    """Try, once in a process, whether a view will share the window's page tables.

    On the pool's own frames, in the last stride, which no view has yet: it takes no huge
    page and changes no byte. Six system calls, and the invalidation of one view.
    """
    cdef char *trial = <char *>mrm_address(&pool.layout, pool.layout.view_count - 1, 0)
    cdef int shares
    if not feature_unknown(FEATURE_SHARING) or pool.layout.frame_count < 2 or is_fake():
        return MRM_OK
    if pool.layout.backing != MRM_BACKING_HUGETLB:
        return MRM_OK
    if map_whole(pool, trial, pool.dumped != 0) == MRM_OK:
        shares = view_shares(pool, trial, pool.window)
        if shares >= 0:
            feature_found(FEATURE_SHARING, shares)
    if seal(trial, pool.whole) < 0:
        return mrm_fail(
            failure(), MRM_SYSTEM_CALL, CALL_MMAP, 0, trial, pool.whole,
            b"%zu bytes at %p cannot be sealed again: raise vm.max_map_count", pool.whole, trial,
        )
    return MRM_OK


cdef int views_attach(pool_t *pool) noexcept nogil:
    """Give a new pool its books of views. A pool whose window is dumped gets a keeper."""
    cdef uint32_t n = pool.layout.view_count
    cdef uint8_t *state
    cdef int status = _try_sharing(pool)
    if status != MRM_OK:
        return status
    state = <uint8_t *>calloc(n, 1)
    pool.view_queue = <uint32_t *>calloc(n, sizeof(uint32_t))
    if state == NULL or pool.view_queue == NULL:
        free(state)
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, n * 5, b"no memory for the books of %u views", n)
    state[0] = MRM_STATE_OPEN
    # The range is registered: classify() may look for the books at any time, and finds them filled in.
    mrm_store_ptr(<void **>&pool.view_state, state)
    pool.view_fresh = 1
    if pool.dumped:
        # The window's flags differ from the views', so it shares no page tables with
        # them: number 1 keeps a set alive that they all can link.
        pool.view_fresh = 2
        return map_whole(pool, <char *>mrm_address(&pool.layout, 1, 0), False)
    return MRM_OK


cdef uint32_t _take_number(pool_t *pool) noexcept nogil:
    """A number for a new view; 0 when all are in use."""
    cdef uint32_t number = 0
    mrm_lock(&pool.view_lock)
    if pool.view_fresh < pool.layout.view_count:
        number = pool.view_fresh
        pool.view_fresh += 1
    elif pool.view_queued:
        number = pool.view_queue[pool.view_first]
        pool.view_first = (pool.view_first + 1) % pool.layout.view_count
        pool.view_queued -= 1
    mrm_unlock(&pool.view_lock)
    return number


cdef void _give_number(pool_t *pool, uint32_t number) noexcept nogil:
    """The number may be used again, after all those that were closed before."""
    mrm_store8(&pool.view_state[number], MRM_STATE_UNUSED)
    mrm_lock(&pool.view_lock)
    pool.view_queue[(pool.view_first + pool.view_queued) % pool.layout.view_count] = number
    pool.view_queued += 1
    mrm_unlock(&pool.view_lock)


cdef int view_open(pool_t *pool, view_t **opened) noexcept nogil:
    """Fresh addresses for every frame: one mapping and two pieces of advice."""
    cdef view_t *view
    cdef uint32_t number
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    view = <view_t *>calloc(1, sizeof(view_t))
    if view == NULL:
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(view_t), b"no memory for a view's handle")
    number = _take_number(pool)
    if number == 0:
        free(view)
        return mrm_fail(
            failure(), MRM_NO_ADDRESSES, 0, 0, pool.window, 0,
            b"all %u view numbers of pool %u are in use (%llu open, %llu retired and not closed): close views, "
            b"or open the pool with more (views=)",
            pool.layout.view_count - 1 - (pool.dumped != 0), pool.layout.pool,
            <unsigned long long>mrm_load64(&pool.frames.figures.views_open),
            <unsigned long long>mrm_load64(&pool.frames.figures.views_retired),
        )
    view.pool = pool
    view.number = number
    view.base = <char *>mrm_address(&pool.layout, number, 0)
    status = map_whole(pool, view.base, False)
    if status != MRM_OK:
        # Part of it may be mapped; addresses that cannot be sealed are not used again.
        if seal(view.base, pool.whole) > 0:
            _give_number(pool, number)
        free(view)
        return status
    view.state = MRM_STATE_OPEN
    mrm_store8(&pool.view_state[number], MRM_STATE_OPEN)
    mrm_add64(&pool.frames.figures.views_open, 1)
    mrm_add64(&pool.frames.figures.views_opened, 1)
    pool_retain(pool)
    opened[0] = view
    return MRM_OK


cdef int view_retire(view_t *view) noexcept nogil:
    """From now on any access through the view traps: one call, one invalidation."""
    cdef pool_t *pool = view.pool
    cdef uint32_t expected = MRM_STATE_OPEN
    cdef uint64_t begun
    cdef int64_t got
    cdef char text[ROOM_TEXT]
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    if not mrm_cas32(&view.state, &expected, MRM_STATE_RETIRED):
        return mrm_fail(
            failure(), MRM_CLOSED, 0, 0, view.base, pool.whole, b"view %u is retired already", view.number
        )
    begun = frames_retire_begin(&pool.frames)
    # Said before it is done: whoever traps there finds the reason.
    mrm_store8(&pool.view_state[view.number], MRM_STATE_RETIRED)
    got = seal(view.base, pool.whole)
    if got < 0:
        mrm_store8(&pool.view_state[view.number], MRM_STATE_OPEN)
        mrm_store32(&view.state, MRM_STATE_OPEN)
        return mrm_fail(
            failure(), MRM_SYSTEM_CALL, CALL_MMAP, <int>-got, view.base, pool.whole,
            b"cannot retire view %u at %p (mmap: %s); it is still open.%s",
            view.number, view.base, strerror(<int>-got), why_refused(<int>-got, 0, text),
        )
    frames_retire_end(&pool.frames, begun)
    mrm_add64(&pool.frames.figures.views_open, <uint64_t>-1)
    mrm_add64(&pool.frames.figures.views_retired, 1)
    return MRM_OK


cdef int view_close(view_t *view) noexcept nogil:
    """Give the addresses back, retiring first if need be; ends the handle unless it fails."""
    cdef pool_t *pool = view.pool
    cdef int status
    if mrm_load32(&pool.state) != STATE_FORKED:
        if mrm_load32(&view.state) == MRM_STATE_OPEN:
            status = view_retire(view)
            if status != MRM_OK:
                return status
        mrm_add64(&pool.frames.figures.views_retired, <uint64_t>-1)
        _give_number(pool, view.number)
    free(view)
    pool_release(pool)
    return MRM_OK
