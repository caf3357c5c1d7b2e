"""The pool: funded frames in one file, a window on them, and what keeps them alive.

A pool owns a file of frames (funding.py got it from the kernel, so no touch can fail
any more), their free lists, and one range of addresses, the arena: 2**k strides of a
power of two, of which stride 0 is the window, where every frame has an address for the
pool's life. The others are the views' (space/views.pyx). Since the arena is aligned to
its own size, view number, frame and offset are bit fields of any address in it.

Window and views are whole mappings, which share page tables (whole.pyx): they end on a
GiB, even if the pool does not. (A GiB is what a table of 2 MiB pages spans. It is 64 GiB
where base pages have 16 KiB; where it is too much for the addresses that there are, nothing
is shared, and mappings end with the pool: pages.pyx.) If the window is to be dumped, a
view that nobody sees (the keeper) keeps the shared tables in its place.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from mrm cimport (
    MRM_API_VERSION, MRM_BACKING_HUGETLB, MRM_BACKING_THP, MRM_FORKED, MRM_FRAME_HELD,
    MRM_NO_ADDRESSES, MRM_NO_MEMORY, MRM_OK, mrm_address, mrm_stats,
)
from mrm.physical.audit cimport frames_audit, frames_count
from mrm.physical.frames cimport frame_counts_t, frames_close, frames_open, frames_state
from mrm.physical.ledger cimport ledger_line
from mrm.physical.nodes cimport nodes_close, nodes_t
from mrm.physical.refusals cimport refuse_frame
from mrm.physical.whole cimport map_whole_file, whole_bytes
from mrm.physical.zeroing cimport zeroing_end
from mrm.system.calls cimport CALL_CLOSE, advise, call, is_fake, map_file
from mrm.system.events cimport events_on, line_begin, line_end, line_number, line_t
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.features cimport FEATURE_COLLAPSE, FEATURE_POPULATE, feature_missing, features_try
from mrm.system.pages cimport address_bits, sharing_span
from mrm.system.ranges cimport RANGE_ARENA, STATE_FORKED, STATE_OPEN, range_release, range_reserve


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    uint32_t mrm_sub32(uint32_t *p, uint32_t v)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MAP_SHARED, MAP_FIXED, MAP_NORESERVE, MAP_POPULATE, MADV_HUGEPAGE

cdef extern from "<string.h>" nogil:
    char *strdup(const char *text)


cdef enum:
    FEWEST_VIEWS = 4
    DEFAULT_VIEWS = 64          # for a large pool; as many as fit into the default arena otherwise
    MOST_VIEWS = 1 << 20
    DEFAULT_PART = 128          # of all addresses: a TiB of 47 bits
    LARGEST_PART = 4            # an arena has to find a place aligned to its own size

cdef uint64_t LEAST_STRIDE = 1 << 30
cdef uint32_t pools_opened = 0


# ---- mapping -------------------------------------------------------------------

cdef int64_t map_frames(
    pool_t *pool, void *at, uint32_t first, uint32_t n, int protection, bint populate
) noexcept nogil:
    """Show ``n`` frames from ``first`` on at ``at``; the address, or ``-errno``.

    NORESERVE, as the frames are funded: without it the kernel walks the file's
    reservation map, which doubles the cost.
    """
    return map_file(
        at, <size_t>n << pool.layout.frame_shift, protection,
        MAP_SHARED | MAP_FIXED | MAP_NORESERVE | (MAP_POPULATE if populate else 0),
        pool.fd, <uint64_t>first << pool.layout.frame_shift,
    )


cdef int map_whole(pool_t *pool, char *at, bint dumped) noexcept nogil:
    """Show every frame at ``at``, as a mapping that shares page tables with the others."""
    cdef size_t nbytes = <size_t>pool.layout.frame_count << pool.layout.frame_shift
    cdef int status = map_whole_file(pool.fd, at, nbytes, pool.whole, True, dumped)
    if status == MRM_OK and pool.layout.backing == MRM_BACKING_THP:
        # Advice only: page_size_of() tells what came of it.
        advise(at, pool.whole, MADV_HUGEPAGE)
    return status


cdef void pool_fill_tables(pool_t *pool, uint32_t first, uint32_t n) noexcept nogil:
    """Page tables for huge pages that are there: no touch through the window takes a fault, and views can link them.

    0.3 us a page. Without MADV_POPULATE_WRITE each page is touched, which changes nothing in
    it, and makes it writable too: the mapping is shared, and may be written. The frames are
    funded, so no touch can fail.
    """
    cdef uint32_t frame
    if is_fake():
        return
    if not feature_missing(FEATURE_POPULATE) and advise(
        pool_address(pool, first), <size_t>n << pool.layout.frame_shift, ADVICE_POPULATE_WRITE
    ) == 0:
        return
    for frame in range(first, first + n):
        mrm_load8(<const uint8_t *>pool_address(pool, frame))


# ---- opening and closing -------------------------------------------------------

cdef uint32_t _view_count(uint64_t stride, uint32_t wanted) noexcept nogil:
    """How many strides the arena has: a power of two, the window's included."""
    cdef uint64_t addresses = <uint64_t>1 << address_bits()
    cdef uint64_t target = wanted
    cdef uint64_t n = FEWEST_VIEWS
    if wanted == 0:
        target = max(addresses // DEFAULT_PART // stride, <uint64_t>DEFAULT_VIEWS)
        target = min(target, <uint64_t>1024)
    while n < target and n < MOST_VIEWS and n * 2 * stride <= addresses // LARGEST_PART:
        n *= 2
    return <uint32_t>n


cdef int pool_open(
    pool_t **opened, int fd, int backing, uint32_t frame_count, uint32_t funded, uint32_t frame_shift, uint32_t views,
    int dumped, const char *name, bint reserve, nodes_t *nodes
) noexcept nogil:
    """A pool of the frames in ``fd``, which it then owns; one user. Those from ``funded`` on have no memory.

    ``nodes`` says which frames are near whom, if that is to matter. It is freed if there is no pool.
    """
    cdef uint64_t nbytes = <uint64_t>frame_count << frame_shift
    cdef uint64_t span = sharing_span() if backing == MRM_BACKING_HUGETLB else 0
    cdef uint64_t stride = LEAST_STRIDE
    cdef uint32_t stride_shift = 30
    cdef int status
    cdef pool_t *pool
    while stride < nbytes or stride < span:
        stride *= 2
        stride_shift += 1
    pool = <pool_t *>calloc(1, sizeof(pool_t))
    if pool == NULL:
        nodes_close(nodes)
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(pool_t), b"no memory for a pool's own tables")
    pool.fd = -1
    pool.layout.backing = backing
    pool.dumped = dumped
    pool.layout.frame_size = <uint64_t>1 << frame_shift
    pool.layout.frame_shift = frame_shift
    pool.layout.frame_mask = (stride >> frame_shift) - 1
    pool.layout.frame_count = frame_count
    pool.layout.stride_shift = stride_shift
    pool.layout.view_count = _view_count(stride, views)
    if pool.layout.view_count < views:
        status = mrm_fail(
            failure(), MRM_NO_ADDRESSES, 0, 0, NULL, stride * views,
            b"%u views of a stride of %llu MiB are more than the %u that addresses suffice for: ask for fewer (views=)",
            views - 1, <unsigned long long>(stride >> 20), pool.layout.view_count - 1,
        )
        nodes_close(nodes)
        free(pool)
        return status
    pool.whole = whole_bytes(nbytes, backing == MRM_BACKING_HUGETLB)
    status = frames_open(&pool.frames, frame_count, funded, frame_shift, name, reserve, nodes)
    if status != MRM_OK:
        nodes_close(nodes)
        free(pool)
        return status
    # Before the range is registered: from then on classify() may meet the pool.
    pool.layout.pool = mrm_add32(&pools_opened, 1)
    # An address-space limit may leave room for fewer views: then there are fewer.
    while True:
        pool.arena = range_reserve(
            stride * pool.layout.view_count, stride * pool.layout.view_count, 0,
            RANGE_ARENA, &pool.state, &pool.fd, pool,
        )
        if pool.arena != NULL or pool.layout.view_count <= FEWEST_VIEWS or views:
            break
        pool.layout.view_count //= 2
    if pool.arena == NULL:
        status = failure().status
        frames_close(&pool.frames)
        free(pool)
        return status
    pool.layout.base = pool.arena.base
    pool.window = <char *>pool.arena.base
    if not is_fake():
        pool.frames.contents = pool.window
    pool.fd = fd
    status = map_whole(pool, pool.window, dumped != 0)
    if status != MRM_OK:
        pool.fd = -1                    # stays the caller's
        if range_release(pool.arena) == MRM_OK:
            frames_close(&pool.frames)
            free(pool)
        return status
    if backing == MRM_BACKING_HUGETLB:
        features_try(fd, 1 << frame_shift)
        pool_fill_tables(pool, 0, funded)
    elif backing == MRM_BACKING_THP:
        features_try(-1, 0)
        # fallocate under shmem_enabled=advise gave small pages; where this kernel can, they
        # are made huge at once. Where it cannot, they stay small, and page_size_of() says so.
        if not feature_missing(FEATURE_COLLAPSE):
            advise(pool.window, <size_t>funded << frame_shift, ADVICE_COLLAPSE)
    else:
        features_try(-1, 0)
    pool.users = 1
    mrm_store32(&pool.state, STATE_OPEN)
    opened[0] = pool
    return MRM_OK


cdef void pool_retain(pool_t *pool) noexcept nogil:
    """One user more."""
    mrm_add32(&pool.users, 1)


cdef void pool_release(pool_t *pool) noexcept nogil:
    """One user less; the last one ends the pool and gives its frames to the kernel."""
    if mrm_sub32(&pool.users, 1):
        return
    if mrm_load32(&pool.state) == STATE_FORKED:
        # The range stays sealed in this child, so that stale pointers go on trapping.
        return
    zeroing_end(&pool.frames)
    if range_release(pool.arena) != MRM_OK:
        # It still shows the frames, and the registry names the pool: both stay for good.
        call(CALL_CLOSE, pool.fd)
        pool.fd = -1
        return
    call(CALL_CLOSE, pool.fd)
    if events_on() and pool.description != NULL:    # one that never came to be open has none
        log_close(pool)
    frames_close(&pool.frames)
    if pool.shortage_ends != NULL:
        pool.shortage_ends(pool.shortage_kept)
    free(pool.description)
    free(pool.view_state)
    free(pool.view_queue)
    free(pool)


cdef void log_close(const pool_t *pool) noexcept nogil:
    """An event: a pool has ended, and its frames are the kernel's again."""
    cdef line_t line
    line_begin(&line, b"close")
    ledger_line(pool.frames.ledger, &line)
    line_number(&line, b"frames", pool.layout.frame_count)
    line_end(&line)


cdef int pool_usable(const pool_t *pool) noexcept nogil:
    """MRM_OK, or MRM_FORKED in a child."""
    if mrm_load32(&pool.state) == STATE_OPEN:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_FORKED, 0, 0, NULL, 0,
        b"pool %u belongs to the parent process: a child cannot reach its frames; "
        b"open a pool in the child, or start the child with spawn and open one there", pool.layout.pool,
    )


# ---- contents ------------------------------------------------------------------

cdef void *pool_address(const pool_t *pool, uint32_t frame) noexcept nogil:
    """The address of a frame in the window."""
    return mrm_address(&pool.layout, 0, frame)


cdef int _check_held(pool_t *pool, const uint32_t *frames, size_t n) noexcept nogil:
    """MRM_OK if each of them is held by somebody."""
    cdef int status = pool_usable(pool)
    cdef size_t i
    if status != MRM_OK:
        return status
    for i in range(n):
        if frames[i] >= pool.layout.frame_count or frames_state(&pool.frames, frames[i]) != MRM_FRAME_HELD:
            return refuse_frame(&pool.frames, frames[i], b"", b"changed")
    return MRM_OK


cdef int pool_zero(pool_t *pool, const uint32_t *frames, size_t n) noexcept nogil:
    """Clear held frames, through the window."""
    cdef size_t i
    cdef int status = _check_held(pool, frames, n)
    if status == MRM_OK:
        for i in range(n):
            memset(pool_address(pool, frames[i]), 0, pool.layout.frame_size)
    return status


cdef int pool_copy_frame(pool_t *pool, uint32_t target, uint32_t source) noexcept nogil:
    """Copy the contents of one held frame to another, through the window."""
    cdef uint32_t pair[2]
    cdef int status
    pair[0] = target
    pair[1] = source
    status = _check_held(pool, pair, 2)
    if status == MRM_OK and target != source:
        memcpy(pool_address(pool, target), pool_address(pool, source), pool.layout.frame_size)
    return status


cdef int pool_describe(pool_t *pool, const char *text) noexcept nogil:
    """What the pool says of itself, from now on; it keeps a copy."""
    cdef char *kept = strdup(text)
    if kept == NULL:
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, 0, b"no memory for a pool's description")
    free(pool.description)
    pool.description = kept
    return MRM_OK


cdef const char *pool_description(const pool_t *pool) noexcept nogil:
    """The same, for the pool's life; never NULL."""
    if pool.description == NULL:
        return b""
    return pool.description


# ---- figures -------------------------------------------------------------------

cdef void pool_stats(pool_t *pool, mrm_stats *stats) noexcept nogil:
    """Count, and fill as much of the table as the caller knows (``stats.size``)."""
    cdef frame_counts_t counts
    frames_count(&pool.frames, &counts)
    _fill_stats(pool, &counts, stats)


cdef int pool_audit(pool_t *pool, mrm_stats *stats) noexcept nogil:
    """Find every frame in the one place where its state says that it is."""
    cdef frame_counts_t counts
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        status = frames_audit(&pool.frames, &counts)
    if status == MRM_OK:
        _fill_stats(pool, &counts, stats)
    return status


cdef void _fill_stats(pool_t *pool, const frame_counts_t *counts, mrm_stats *stats) noexcept nogil:
    cdef mrm_stats full
    cdef uint32_t size = min(stats.size, <uint32_t>sizeof(mrm_stats))
    memset(&full, 0, sizeof(full))
    full.size = size
    full.version = MRM_API_VERSION
    full.frame_size = pool.layout.frame_size
    full.frames = pool.layout.frame_count
    full.ready = counts.ready
    full.released = counts.released
    full.strict = counts.strict
    full.held = counts.held
    full.mapped = counts.mapped
    full.pending = counts.pending
    full.epoch = mrm_load64(&pool.frames.figures.epoch)
    full.views_open = mrm_load64(&pool.frames.figures.views_open)
    full.views_retired = mrm_load64(&pool.frames.figures.views_retired)
    full.views_opened = mrm_load64(&pool.frames.figures.views_opened)
    full.reservations = mrm_load64(&pool.frames.figures.reservations)
    full.batches = mrm_load64(&pool.frames.figures.batches)
    full.system_calls = mrm_load64(&pool.frames.figures.system_calls)
    full.inflated = counts.inflated
    full.poisoned = counts.poisoned
    full.zeroed = mrm_load32(&pool.frames.stock.zeroed)
    full.cleared = mrm_load64(&pool.frames.stock.cleared)
    full.cleared_late = mrm_load64(&pool.frames.stock.cleared_late)
    memcpy(stats, &full, size)
