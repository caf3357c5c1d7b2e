"""A reservation: a range of slots in which any slot can show any frame.

The table says of each slot what it shows: nothing (it traps), a frame, or a frame whose
unmapping was deferred. 8 bytes a slot. It is changed only by commits and retires
(commit.pyx), under the reservation's lock, and read without one by ``reservation_slot``
and by a signal handler: a slot is one aligned word, so neither can see half a change.

The kernel charges a mapping (VMA) for every run that was mapped by one call, never
merges those of hugetlbfs, and allows vm.max_map_count of them per process, 65,530 as it
comes. So the table also notes where mappings may begin (``cut``), and the process has a
budget: what the kernel still allowed at the last reading of /proc/self/maps, less what
commits added since. Only when it would run out is the file read again.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_BAD_SLOT, MRM_CLOSED, MRM_FORKED, MRM_NO_ADDRESSES, MRM_NO_MEMORY, MRM_OK,
    MRM_SLOT_DEFERRED, MRM_SLOT_SHOWN, mrm_slot,
)
from mrm.physical.pool cimport pool_release, pool_retain, pool_t, pool_usable
from mrm.physical.showing cimport frames_retire_begin, frames_retire_end, frames_settle, frames_unmap
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.maps cimport maps_count, maps_limit
from mrm.system.pages cimport sharing_span
from mrm.system.ranges cimport (
    RANGE_SLOTS, STATE_CLOSED, STATE_FORKED, STATE_OPEN, range_release, range_reserve,
)


cdef extern from "system/atomic.h" nogil:
    void mrm_store8(uint8_t *p, uint8_t v)
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    uint32_t mrm_sub32(uint32_t *p, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)


cdef enum:
    MOST_SLOTS = 1 << 28        # 512 TiB of addresses and more, which no process has
    MAPPINGS_SPARE = 256        # left to the rest of the process

cdef uint64_t LEAST_ALIGNMENT = 1 << 30
cdef reservation_t *all_reservations = NULL
cdef uint32_t list_lock = 0
cdef uint32_t reservations_opened = 0
cdef uint64_t mappings_left = 0     # the budget, as a signed number


# ---- opening and closing -------------------------------------------------------

cdef int reservation_open(pool_t *pool, uint64_t slots, uint64_t at, reservation_t **opened) noexcept nogil:
    """Reserve addresses for ``slots`` slots, all empty; one user."""
    global all_reservations
    cdef reservation_t *r
    cdef int status = pool_usable(pool)
    # Runs that cover the window's page tables can share them; a GiB otherwise, to read well.
    cdef uint64_t alignment = max(sharing_span(), max(LEAST_ALIGNMENT, pool.layout.frame_size))
    if status != MRM_OK:
        return status
    if slots == 0 or slots > MOST_SLOTS:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"a reservation has 1 to %u slots, not %llu", <unsigned int>MOST_SLOTS, <unsigned long long>slots,
        )
    if at % pool.layout.frame_size:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, <void *>at, 0,
            b"a reservation lies at a multiple of %llu bytes, which %p is not",
            <unsigned long long>pool.layout.frame_size, <void *>at,
        )
    r = <reservation_t *>calloc(1, sizeof(reservation_t))
    if r != NULL:
        r.slot = <slot_t *>calloc(slots, sizeof(slot_t))
    if r == NULL or r.slot == NULL:
        free(r)
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 12, NULL, slots * sizeof(slot_t),
            b"no memory for the table of %llu slots", <unsigned long long>slots,
        )
    r.state = STATE_OPEN
    r.users = 1
    r.slots = <uint32_t>slots
    r.pool = pool
    r.number = mrm_add32(&reservations_opened, 1)
    r.range = range_reserve(
        slots << pool.layout.frame_shift, alignment, at, RANGE_SLOTS, &r.state, NULL, r
    )
    if r.range == NULL:
        free(r.slot)
        free(r)
        return failure().status
    r.base = <char *>r.range.base
    mappings_allow(slots if slots < 1024 else 1024)     # read now, rather than in the first commit
    pool_retain(pool)
    mrm_add64(&pool.frames.figures.reservations, 1)
    mrm_lock(&list_lock)
    r.next = all_reservations
    if r.next != NULL:
        r.next.previous = r
    all_reservations = r
    mrm_unlock(&list_lock)
    opened[0] = r
    return MRM_OK


cdef int reservation_close(reservation_t *r) noexcept nogil:
    """End every mapping in one invalidation and give the addresses back; one user less."""
    global all_reservations
    cdef uint32_t i
    cdef uint64_t begun
    cdef pool_t *pool = r.pool
    cdef int status
    if mrm_load32(&r.state) == STATE_FORKED:
        return MRM_OK               # sealed for good; nothing here is this process's
    status = reservation_enter(r)
    if status != MRM_OK:
        return status
    begun = frames_retire_begin(&pool.frames)
    mrm_store32(&r.state, STATE_CLOSED)
    status = range_release(r.range)
    if status != MRM_OK:
        mrm_store32(&r.state, STATE_OPEN)
        reservation_leave(r)
        return status
    mrm_lock(&list_lock)
    if r.previous != NULL:
        r.previous.next = r.next
    else:
        all_reservations = r.next
    if r.next != NULL:
        r.next.previous = r.previous
    mrm_unlock(&list_lock)
    for i in range(r.slots):
        if r.slot[i].state == MRM_SLOT_SHOWN:
            frames_unmap(&pool.frames, r.slot[i].frame)
        elif r.slot[i].state == MRM_SLOT_DEFERRED:
            frames_settle(&pool.frames, r.slot[i].frame)
    frames_retire_end(&pool.frames, begun)
    mrm_add64(&pool.frames.figures.reservations, <uint64_t>-1)
    reservation_leave(r)
    reservation_release(r)
    return MRM_OK


cdef void reservation_retain(reservation_t *r) noexcept nogil:
    """One user more."""
    mrm_add32(&r.users, 1)


cdef void reservation_release(reservation_t *r) noexcept nogil:
    """One user less; the last one frees the tables."""
    cdef pool_t *pool = r.pool
    if mrm_sub32(&r.users, 1):
        return
    if mrm_load32(&r.state) == STATE_FORKED:
        return
    free(r.plan.changes)
    free(r.plan.steps)
    free(r.slot)
    free(r)
    pool_release(pool)


cdef int reservation_enter(reservation_t *r) noexcept nogil:
    """Take the lock of a reservation that is open."""
    cdef uint32_t state = mrm_load32(&r.state)
    if state == STATE_OPEN:
        mrm_lock(&r.lock)
        state = mrm_load32(&r.state)
        if state == STATE_OPEN:
            return MRM_OK
        mrm_unlock(&r.lock)
    if state == STATE_FORKED:
        return mrm_fail(
            failure(), MRM_FORKED, 0, 0, r.base, 0,
            b"reservation %u belongs to the parent process: open a pool in the child", r.number,
        )
    return mrm_fail(failure(), MRM_CLOSED, 0, 0, r.base, 0, b"reservation %u is closed", r.number)


cdef void reservation_leave(reservation_t *r) noexcept nogil:
    """Free the lock."""
    mrm_unlock(&r.lock)


cdef int list_reservations(pool_t *pool, reservation_t ***listed, size_t *n) noexcept nogil:
    """The open reservations of a pool, as an array; each has one user more."""
    cdef reservation_t *r
    cdef size_t count = 0
    mrm_lock(&list_lock)
    r = all_reservations
    while r != NULL:
        count += r.pool == pool
        r = r.next
    listed[0] = <reservation_t **>calloc(count + 1, sizeof(reservation_t *))
    n[0] = 0
    if listed[0] != NULL:
        r = all_reservations
        while r != NULL:
            if r.pool == pool:
                reservation_retain(r)
                listed[0][n[0]] = r
                n[0] += 1
            r = r.next
    mrm_unlock(&list_lock)
    if listed[0] == NULL:
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, 0, b"no memory to list %zu reservations", count)
    return MRM_OK


cdef void list_release(reservation_t **listed, size_t n) noexcept nogil:
    """End what ``list_reservations`` began."""
    cdef size_t i
    for i in range(n):
        reservation_release(listed[i])
    free(listed)


# ---- looking -------------------------------------------------------------------

cdef void *reservation_address(const reservation_t *r, uint32_t slot) noexcept nogil:
    """Where a slot lies."""
    return r.base + (<uint64_t>slot << r.pool.layout.frame_shift)


cdef int reservation_slot(reservation_t *r, uint32_t slot, mrm_slot *shown) noexcept nogil:
    """What a slot shows now."""
    cdef slot_t seen
    cdef int status = pool_usable(r.pool)
    if status != MRM_OK:
        return status
    if slot >= r.slots:
        return mrm_fail(
            failure(), MRM_BAD_SLOT, 0, 0, NULL, 0,
            b"slot %u is none of reservation %u's: they are 0 to %u", slot, r.number, r.slots - 1,
        )
    (<uint64_t *>&seen)[0] = mrm_load64(<uint64_t *>&r.slot[slot])
    shown.state = seen.state
    shown.frame = seen.frame
    shown.protection = seen.protection
    shown.address = <uint64_t>reservation_address(r, slot)
    return MRM_OK


# ---- the kernel's mappings -----------------------------------------------------

cdef int _note_cut(reservation_t *r, uint32_t slot) noexcept nogil:
    """A mapping begins at ``slot``; 1 if that is news."""
    if slot == 0 or slot >= r.slots or r.slot[slot].cut:
        return 0
    mrm_store8(&r.slot[slot].cut, 1)
    return 1


cdef void note_mapping(reservation_t *r, uint32_t first, uint32_t n) noexcept nogil:
    """One call has mapped or sealed the run: it is one mapping now."""
    cdef uint32_t i
    cdef int64_t grown = _note_cut(r, first) + _note_cut(r, first + n)
    for i in range(first + 1, first + n):
        if r.slot[i].cut:
            mrm_store8(&r.slot[i].cut, 0)
            grown -= 1
    mrm_add64(&mappings_left, <uint64_t>-grown)


cdef void note_split(reservation_t *r, uint32_t first, uint32_t n) noexcept nogil:
    """One call has changed the run's flags: the kernel has cut mappings at its ends."""
    mrm_add64(&mappings_left, <uint64_t>-<int64_t>(_note_cut(r, first) + _note_cut(r, first + n)))


cdef void mappings_forget() noexcept nogil:
    """The kernel has refused what the budget allowed: look again before the next commit."""
    mrm_add64(&mappings_left, <uint64_t>-<int64_t>mrm_load64(&mappings_left))


cdef int mappings_allow(int64_t growth) noexcept nogil:
    """MRM_OK if so many mappings more fit under vm.max_map_count."""
    cdef int64_t limit, count, left
    # What adds none may always go on, at the limit above all: it may be what makes room.
    if growth <= 0 or growth <= <int64_t>mrm_load64(&mappings_left):
        return MRM_OK
    limit = maps_limit()
    count = maps_count()
    if limit < 0 or count < 0:
        # Nobody can tell: the kernel will refuse what is too much, and it will be undone.
        # A guess would refuse batches that there is room for.
        return MRM_OK
    left = limit - count - MAPPINGS_SPARE
    mrm_add64(&mappings_left, <uint64_t>(left - <int64_t>mrm_load64(&mappings_left)))
    if growth <= left:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_NO_ADDRESSES, 0, 12, NULL, 0,
        b"the batch needs up to %lld mappings more; the process has %lld of the %lld that vm.max_map_count allows. "
        b"Nothing was changed. Raise it (sysctl vm.max_map_count=%lld), use runs of contiguous frames (take_run), "
        b"or a view, which is one mapping",
        <long long>growth, <long long>count, <long long>limit,
        <long long>(count + growth + MAPPINGS_SPARE + 65536),
    )


# ---- fork ----------------------------------------------------------------------

cdef void forked() noexcept nogil:
    """In the child: the list is the parent's (ranges.pyx has sealed what it names)."""
    global all_reservations, list_lock
    all_reservations = NULL
    list_lock = 0


pthread_atfork(NULL, NULL, forked)
