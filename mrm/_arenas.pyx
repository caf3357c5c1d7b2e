"""Where CPython's small objects lie: arenas of its object allocator, on huge pages.

CPython carves blocks up to 512 bytes out of arenas, 1 MiB each (256 KiB where it was built
without its radix tree), and asks for arenas by a hook, ``PyObject_SetArenaAllocator``. Here
they are cut from *chunks*: huge pages, 2 MiB and aligned, of one of two *places*.

**Private memory** is anonymous, so that a child after fork has a copy of what was there, and
writes its own. One range of addresses is reserved for all of it, twice as large as the machine's memory: a
mapping without access, advised to be of huge pages, which costs nothing. Chunks are made
writable from its beginning on, by one mprotect each, which the kernel merges into
one mapping. Not by one large writable mapping: where every writable byte is promised memory
(vm.overcommit_memory is 2, which knows no MAP_NORESERVE), that would be refused.

A chunk is *closed* (without memory), *open*, or *kept*: open, and with no arena in it. An arena is
found by its bit in a map, the lowest first, so that the upper chunks run empty. When twice as
many are kept as shall be, half of them are closed, the uppermost first and neighbours by one
call. A closed chunk stays writable, but where writable means promised.

**A pool** has its window for a range, and its frames for chunks, which are taken and given. Frames
are shared memory, so that a child has none of them: cpython.py sees to it that there is none. Nobody
is called when frames are short: what would be called is Python, in the middle of a request for
memory.

**The hook stays.** Arenas live for as long as an object in them does, and CPython
frees them by the hook that is there then. So what is put there once stays there: it sends
what lies in one of our places to us, and everything else to the allocator that was there before.
Uninstalling only has new arenas come from that one again. No range is ever unmapped.

All of it runs in the hook, which may not touch Python: with the GIL for the main interpreter,
but an interpreter with a GIL of its own calls it beside; hence the lock. Fork takes it,
so that the child finds the books whole.
"""

import os as _os

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from mrm import errors
from mrm cimport MRM_OK, MRM_POOL_ACCOUNT, MRM_REUSE_NOW
from mrm._frames cimport Frames
from mrm.physical.frames cimport frames_take
from mrm.physical.giving cimport frames_give
from mrm.physical.pool cimport pool_retain, pool_t, pool_usable
from mrm.system.calls cimport CALL_MPROTECT, CALL_PRCTL, advise, call, seal
from mrm.system.pages cimport frame_bytes
from mrm.system.ranges cimport addresses_keep
from mrm.system.rollup cimport rollup_before_less


cdef extern from "Python.h" nogil:
    ctypedef struct arena_allocator_t "PyObjectArenaAllocator":
        void *ctx
        void *(*alloc)(void *ctx, size_t nbytes) noexcept nogil
        void (*free)(void *ctx, void *arena, size_t nbytes) noexcept nogil
    void PyObject_GetArenaAllocator(arena_allocator_t *allocator)
    void PyObject_SetArenaAllocator(arena_allocator_t *allocator)

cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, PROT_READ, PROT_WRITE, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTNEED

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)


cdef enum:
    LEAST_ARENA = 1 << 18       # bytes
    # A chunk.
    CLOSED = 0                  # without access
    EMPTY                       # writable, and without memory
    OPEN                        # has memory: arenas, or none (then it is kept)
    ADVICE_COLLAPSE = 25        # MADV_COLLAPSE (6.1): older headers do not know it
    SET_VMA = 0x53564d41        # PR_SET_VMA, PR_SET_VMA_ANON_NAME (5.17): a name in /proc/self/maps


cdef struct arenas_t:
    uint32_t lock
    uint32_t active             # new arenas come from here
    char *base
    uint64_t nbytes             # of the range
    uint64_t chunk              # bytes of one
    uint64_t arena              # bytes of one; 0 before the first
    uint32_t chunks             # in the range
    uint32_t most               # ... of which at most so many may be used
    uint32_t per_chunk
    uint32_t top                # no chunk from here on was ever open
    uint32_t lowest_closed      # none below it is closed or empty
    uint32_t strict             # what is writable is promised: see above
    uint32_t keep
    uint32_t kept
    uint32_t in_use             # chunks with arenas in them
    uint64_t lowest             # no arena below it is free in an open chunk
    uint64_t *taken             # a bit each; set in chunks that are not open, too
    uint16_t *used              # arenas of a chunk that are
    uint8_t *state              # of a chunk
    uint64_t arenas
    uint64_t arenas_peak
    uint64_t elsewhere          # asked for while active, and served by the allocator before
    uint64_t refused            # calls that the kernel refused
    pool_t *pool                # whose frames they are; NULL: private memory

cdef enum:
    PRIVATE = 0
    ON_POOL
    PLACES

cdef arenas_t places[PLACES]
cdef arena_allocator_t before
cdef bint hooked = False


# ---- chunks --------------------------------------------------------------------------

cdef void mark(arenas_t *own, uint32_t number, bint taken) noexcept nogil:
    """Set or clear the bits of all arenas of a chunk."""
    cdef uint64_t first = <uint64_t>number * own.per_chunk, i
    for i in range(first, first + own.per_chunk):
        if taken:
            own.taken[i >> 6] |= <uint64_t>1 << (i & 63)
        else:
            own.taken[i >> 6] &= ~(<uint64_t>1 << (i & 63))
    if not taken and first < own.lowest:
        own.lowest = first


cdef void opened(arenas_t *own, uint32_t number) noexcept nogil:
    """A chunk has memory from here on."""
    own.state[number] = OPEN
    own.top = max(own.top, number + 1)
    own.kept += 1
    mark(own, number, False)


cdef bint open_frame(arenas_t *own) noexcept nogil:
    """The same with a frame of the pool, whichever it gives."""
    cdef uint32_t frame
    if pool_usable(own.pool) != MRM_OK or frames_take(&own.pool.frames, MRM_POOL_ACCOUNT, 0, &frame) != MRM_OK:
        return False
    opened(own, frame)
    return True


cdef bint open_chunk(arenas_t *own) noexcept nogil:
    """Open the lowest chunk that is not; False when none may be, or the kernel refuses."""
    cdef uint32_t number = own.lowest_closed
    if own.pool != NULL:
        return own.in_use + own.kept < own.most and open_frame(own)
    if own.in_use + own.kept >= own.most:
        return False
    while number < own.top and own.state[number] == OPEN:
        number += 1
    own.lowest_closed = number
    if number >= own.chunks:
        return False
    if own.state[number] == CLOSED and call(
        CALL_MPROTECT, <int64_t>(own.base + number * own.chunk), <int64_t>own.chunk, PROT_READ | PROT_WRITE
    ) < 0:
        own.refused += 1
        return False
    own.lowest_closed = number + 1
    opened(own, number)
    return True


cdef bint close_chunks(arenas_t *own, uint32_t first, uint32_t n) noexcept nogil:
    """Let go of the memory of chunks in a row; False when the kernel refuses."""
    cdef char *at = own.base + first * own.chunk
    cdef uint32_t i
    cdef int64_t got = 0
    if own.pool != NULL:
        for i in range(first, first + n):
            frames_give(&own.pool.frames, i, MRM_REUSE_NOW)
    elif own.strict:
        # Only a mapping without access takes the promise back; its advice has to be given again.
        got = seal(at, n * own.chunk)
        if got >= 0:
            advise(at, n * own.chunk, MADV_HUGEPAGE)
    else:
        got = advise(at, n * own.chunk, MADV_DONTNEED)
    if got < 0:
        own.refused += 1
        return False
    for i in range(first, first + n):
        own.state[i] = CLOSED if own.strict or own.pool != NULL else EMPTY
        mark(own, i, True)
    if first < own.lowest_closed and own.pool == NULL:
        own.lowest_closed = first
    own.kept -= n
    return True


cdef uint64_t close_kept(arenas_t *own, uint32_t leave) noexcept nogil:
    """Close kept chunks from above until only so many are left; bytes that were given back."""
    cdef uint32_t number = own.top, n = 0, before = own.kept
    while number and own.kept > leave + n:
        number -= 1
        if own.state[number] == OPEN and own.used[number] == 0:
            n += 1
        elif n:
            if not close_chunks(own, number + 1, n):
                return (before - own.kept) * own.chunk
            n = 0
    if n:
        close_chunks(own, number, n)
    return (before - own.kept) * own.chunk


# ---- arenas --------------------------------------------------------------------------

cdef bint lay_out(arenas_t *own, size_t nbytes) noexcept nogil:
    """Make the tables, once CPython has said how large its arenas are; False without memory, or for odd ones."""
    cdef uint64_t most
    if nbytes == 0 or (own.chunk % nbytes and nbytes % own.chunk):
        return False
    if nbytes > own.chunk:
        if own.pool != NULL:
            return False                # frames that one arena would lie in are not neighbours
        own.chunk = nbytes
        own.chunks = <uint32_t>(own.nbytes // nbytes)
        own.most = min(own.most, own.chunks)
    own.per_chunk = <uint32_t>(own.chunk // nbytes)
    most = <uint64_t>own.chunks * own.per_chunk
    own.taken = <uint64_t *>calloc(most // 64 + 1, 8)
    own.used = <uint16_t *>calloc(own.chunks, sizeof(uint16_t))
    own.state = <uint8_t *>calloc(own.chunks, 1)
    if own.taken == NULL or own.used == NULL or own.state == NULL:
        free(own.taken)
        free(own.used)
        free(own.state)
        return False
    # What is not open is not free.
    memset(own.taken, 0xFF, (most // 64 + 1) * 8)
    own.arena = nbytes
    return True


cdef void *take(arenas_t *own, size_t nbytes) noexcept nogil:
    """An arena of ours; NULL when there is none."""
    cdef uint64_t word, i, words
    cdef uint32_t number
    if own.arena != nbytes and (own.arena or not lay_out(own, nbytes)):
        return NULL
    while True:
        words = (<uint64_t>own.top * own.per_chunk + 63) >> 6
        for word in range(own.lowest >> 6, words):
            if ~own.taken[word]:
                i = (word << 6) + <uint64_t>lowest_bit(~own.taken[word])
                if i < <uint64_t>own.top * own.per_chunk:
                    number = <uint32_t>(i // own.per_chunk)
                    own.taken[word] |= <uint64_t>1 << (i & 63)
                    own.lowest = i + 1
                    if own.used[number] == 0:
                        own.kept -= 1
                        own.in_use += 1
                    own.used[number] += 1
                    own.arenas += 1
                    own.arenas_peak = max(own.arenas_peak, own.arenas)
                    return own.base + i * own.arena
        own.lowest = <uint64_t>own.top * own.per_chunk
        if not open_chunk(own):
            return NULL


cdef void give(arenas_t *own, void *arena) noexcept nogil:
    """An arena of ours comes back."""
    cdef uint64_t i = <uint64_t>(<char *>arena - own.base) // own.arena
    cdef uint32_t number = <uint32_t>(i // own.per_chunk)
    own.taken[i >> 6] &= ~(<uint64_t>1 << (i & 63))
    own.lowest = min(own.lowest, i)
    own.used[number] -= 1
    own.arenas -= 1
    if own.used[number] == 0:
        own.in_use -= 1
        own.kept += 1
        if own.kept > 2 * own.keep:
            rollup_before_less((<uint64_t>own.in_use + own.kept) * own.chunk)
            close_kept(own, own.keep)


cdef extern from * nogil:
    """
    static inline int mrm_lowest_bit(uint64_t v) { return __builtin_ctzll(v); }
    """
    int lowest_bit "mrm_lowest_bit"(uint64_t v)


# ---- the hook ------------------------------------------------------------------------

cdef void *hook_alloc(void *context, size_t nbytes) noexcept nogil:
    cdef void *arena = NULL
    cdef arenas_t *own
    cdef int i
    # By the same hook CPython has pieces of its stack, 16 KiB or a little more, which are none of ours.
    if nbytes >= LEAST_ARENA:
        for i in range(PLACES):
            own = &places[i]
            if mrm_load32(&own.active):
                mrm_lock(&own.lock)
                arena = take(own, nbytes)
                if arena == NULL:
                    own.elsewhere += 1
                mrm_unlock(&own.lock)
    return arena if arena != NULL else before.alloc(before.ctx, nbytes)


cdef void hook_free(void *context, void *arena, size_t nbytes) noexcept nogil:
    cdef arenas_t *own
    cdef int i
    for i in range(PLACES):
        own = &places[i]
        if <uint64_t>arena - <uint64_t>own.base < own.nbytes:
            mrm_lock(&own.lock)
            give(own, arena)
            mrm_unlock(&own.lock)
            return
    before.free(before.ctx, arena, nbytes)


cdef void fork_begins() noexcept nogil:
    cdef int i
    for i in range(PLACES):
        mrm_lock(&places[i].lock)


cdef void fork_is_over() noexcept nogil:
    cdef int i
    for i in range(PLACES):
        mrm_unlock(&places[i].lock)


# ---- from Python -----------------------------------------------------------------------

def on_memory(range_bytes, strict):
    """Reserve a range for private memory, once in a process.

    Parameters
    ----------
    range_bytes : int
        Bytes wanted; halved for as long as there are not so many addresses, down to 64 chunks.
    strict : bool
        Whether whatever is writable is promised memory.

    Returns
    -------
    int
        The place, for the functions below.

    Raises
    ------
    AddressSpaceError
        If even so few are refused.
    """
    cdef arenas_t *own = &places[PRIVATE]
    cdef uint64_t nbytes, wanted = range_bytes
    cdef int64_t got
    if own.base != NULL:
        return PRIVATE
    own.chunk = frame_bytes()
    nbytes = max(wanted // own.chunk, <uint64_t>64) * own.chunk
    while True:
        got = addresses_keep(nbytes, own.chunk)
        if got > 0 or nbytes // own.chunk < 128:
            break
        nbytes = nbytes // own.chunk // 2 * own.chunk
    if got <= 0:
        raise errors.AddressSpaceError(
            f"no addresses for Python's objects: mmap of {nbytes >> 20} MiB: {_os.strerror(-got)}. Raise the limit on "
            "the process's addresses (ulimit -v)",
            call="mmap", error=-got, nbytes=nbytes,
        )
    own.strict = strict
    own.chunks = <uint32_t>(nbytes // own.chunk)
    own.nbytes = nbytes
    own.base = <char *>got
    call(CALL_PRCTL, SET_VMA, 0, got, <int64_t>nbytes, <int64_t><const char *>b"mrm objects")
    return PRIVATE


def on_pool(Frames pool not None):
    """Have a pool's frames for a place, once in a process; the place.

    The pool stays open, whatever becomes of the object, until the process ends.

    Raises
    ------
    Error
        If another pool is it already, whose frames may still have objects in them.
    """
    cdef arenas_t *own = &places[ON_POOL]
    cdef pool_t *found = pool.open_one()
    if own.pool == found:
        return ON_POOL
    if own.pool != NULL:
        raise errors.Error(
            "Python's objects were on another pool before, where some may live on; a process has one pool for them"
        )
    pool_retain(found)
    own.chunk = found.layout.frame_size
    own.chunks = found.layout.frame_count
    own.nbytes = own.chunks * own.chunk
    own.pool = found
    own.base = found.window
    return ON_POOL


def ask_for_huge_pages(wanted):
    """Advise private memory to be of huge pages, or never to be; why it cannot be, as an errno, or 0."""
    cdef arenas_t *own = &places[PRIVATE]
    cdef int64_t got = advise(own.base, own.nbytes, MADV_HUGEPAGE if wanted else MADV_NOHUGEPAGE)
    return -got if got < 0 else 0


def activate(int place, limit, keep):
    """Have new arenas come from a place: at most ``limit`` bytes, of which ``keep`` free ones are kept.

    Raises
    ------
    Error
        If another has put a hook of its own over this one since.
    """
    global before, hooked
    cdef arenas_t *own = &places[place]
    cdef arena_allocator_t now, ours
    cdef uint64_t most = own.chunks, kept
    PyObject_GetArenaAllocator(&now)
    if hooked and now.alloc is not hook_alloc:
        raise errors.Error(
            "another allocator of arenas was put in place after mrm's (PyObject_SetArenaAllocator): mrm cannot be put "
            "over it again, as it may call mrm's in turn. Take it away first"
        )
    # Nothing is made for Python under the lock: that may take an arena.
    if limit is not None:
        most = min(<uint64_t>limit // own.chunk, most)
    kept = min(<uint64_t>keep // own.chunk, <uint64_t>own.chunks)
    mrm_lock(&own.lock)
    own.most = <uint32_t>most
    own.keep = <uint32_t>kept
    mrm_unlock(&own.lock)
    mrm_store32(&own.active, 1)
    if not hooked:
        pthread_atfork(fork_begins, fork_is_over, fork_is_over)
        before = now
        ours.ctx = NULL
        ours.alloc = hook_alloc
        ours.free = hook_free
        PyObject_SetArenaAllocator(&ours)
        hooked = True


def deactivate():
    """Have new arenas come from the allocator that was there before."""
    cdef int i
    for i in range(PLACES):
        mrm_store32(&places[i].active, 0)


def trim(int place):
    """Give the memory of all chunks without an arena back; bytes."""
    cdef arenas_t *own = &places[place]
    cdef uint64_t nbytes
    mrm_lock(&own.lock)
    nbytes = close_kept(own, 0)
    mrm_unlock(&own.lock)
    return nbytes


def collapse():
    """Have the kernel put what lies on small pages in open chunks of private memory on huge ones, now.

    Returns
    -------
    int
        The errno of what it refused last; 0 when all went well.
    """
    cdef arenas_t *own = &places[PRIVATE]
    cdef uint32_t first = 0, end
    cdef int64_t got, last = 0
    # Without the lock: what is closed meanwhile has nothing to be collapsed, which the kernel says.
    with nogil:
        while first < own.top:
            end = first
            while end < own.top and own.state[end] == OPEN:
                end += 1
            if end > first:
                got = advise(own.base + first * own.chunk, (end - first) * own.chunk, ADVICE_COLLAPSE)
                if got < 0:
                    last = got
            first = end + 1
    return -last


def live_on_pool():
    """Arenas that lie on a pool's frames, which no child would have."""
    return places[ON_POOL].arenas


def where(int place):
    """The place's range, as (address, bytes)."""
    return <uint64_t>places[place].base, places[place].nbytes


def figures(int place):
    """What there is and was, as a dict."""
    cdef arenas_t now
    mrm_lock(&places[place].lock)
    now = places[place]
    mrm_unlock(&places[place].lock)
    return dict(
        arenas=now.arenas, arena_size=now.arena, nbytes=now.arenas * now.arena, peak=now.arenas_peak * now.arena,
        memory=(now.in_use + now.kept) * now.chunk, kept=now.kept * now.chunk, elsewhere=now.elsewhere,
        refused=now.refused,
    )
