"""Address ranges: reserved, trapping, and whose they are.

A range is reserved as one mapping without access: it costs a line in /proc/self/maps
and no memory, and nothing else in the process can come to lie there until it is
released. Ranges are placed low, from 16 TiB upwards, below everything that the kernel
places by itself (it looks for the highest gap first, or from 42 TiB upwards with
``ulimit -s unlimited``; pages.pyx knows what that is where addresses have fewer than 47
bits): when a page is moved away by mremap, the hole that it leaves for a microsecond is
not one that another thread's mmap would pick. Low addresses also read well: the number
of a view is a digit or two of the hexadecimal pointer.

The registry says whose an address is, to code that may take no lock: a signal handler.
Its entries are never freed, only used again, and are published by their ``base``. A
reader holds a ticket of the current phase while it looks at what it found; whoever
releases a range unpublishes it, starts a new phase, and waits for the tickets of the
old one before the owner may be freed (sleepable RCU, in two counters).

After fork the child runs ``forked``: every range is sealed, so that no access in the
child reaches the parent's frames, the frames' files are closed, and the owners are
marked. It is plain C that needs neither the GIL nor a lock.
"""

from libc.errno cimport EEXIST
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from mrm cimport MRM_NO_ADDRESSES, MRM_NO_MEMORY, MRM_OK, MRM_SYSTEM_CALL
from mrm.system.calls cimport CALL_CLOSE, CALL_MMAP, CALL_MUNMAP, call, seal
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.pages cimport address_bits, low_end, low_start
from mrm.system.room cimport ROOM_TEXT, why_refused


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    uint32_t mrm_sub32(uint32_t *p, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)
    void *mrm_load_ptr(void **p)
    void mrm_store_ptr(void **p, void *v)
    void mrm_pause()

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)

cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef enum:
    ENTRIES = 64                # of one chunk
    TRIES = 4096                # low places tried before the kernel chooses

cdef struct chunk_t:
    range_t entries[ENTRIES]
    chunk_t *next

cdef chunk_t first_chunk
cdef uint32_t registry_lock = 0
cdef uint32_t phase = 0
cdef uint32_t readers[2]
cdef uint64_t next_low = 0


# ---- readers -------------------------------------------------------------------

cdef uint32_t range_enter() noexcept nogil:
    """A ticket, while which no owner that is found is freed."""
    cdef uint32_t ticket
    while True:
        ticket = mrm_load32(&phase)
        mrm_add32(&readers[ticket & 1], 1)
        # A release that began in between counts the other phase's tickets only.
        if mrm_load32(&phase) == ticket:
            return ticket
        mrm_sub32(&readers[ticket & 1], 1)


cdef void range_leave(uint32_t ticket) noexcept nogil:
    """End what ``range_enter`` began."""
    mrm_sub32(&readers[ticket & 1], 1)


cdef range_t *range_find(uint64_t address, uint64_t *into) noexcept nogil:
    """The range that ``address`` lies in, and how far in; or NULL.

    ``base`` is read once: a release wipes it while readers still look.
    """
    cdef chunk_t *chunk = &first_chunk
    cdef uint64_t base
    cdef int i
    while chunk != NULL:
        for i in range(ENTRIES):
            base = mrm_load64(&chunk.entries[i].base)
            if base and address - base < chunk.entries[i].nbytes:
                into[0] = address - base
                return &chunk.entries[i]
        chunk = <chunk_t *>mrm_load_ptr(<void **>&chunk.next)
    return NULL


# ---- reserving -----------------------------------------------------------------

cdef range_t *_unused_entry() noexcept nogil:
    """An entry that is in no use; NULL without memory."""
    cdef chunk_t *chunk = &first_chunk
    cdef int i
    while True:
        for i in range(ENTRIES):
            if chunk.entries[i].base == 0:
                return &chunk.entries[i]
        if chunk.next == NULL:
            mrm_store_ptr(<void **>&chunk.next, calloc(1, sizeof(chunk_t)))
            if chunk.next == NULL:
                return NULL
        chunk = chunk.next


cdef int64_t _reserve_at(uint64_t at, size_t nbytes) noexcept nogil:
    """Reserve exactly there; the address, or ``-errno``."""
    cdef int64_t got = call(
        CALL_MMAP, <int64_t>at, <int64_t>nbytes, PROT_NONE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0,
    )
    if got > 0 and <uint64_t>got != at:
        call(CALL_MUNMAP, got, <int64_t>nbytes)     # before 4.17 the flag is but a hint
        return -EEXIST
    return got


cdef int64_t _reserve_low(size_t nbytes, size_t alignment) noexcept nogil:
    """Reserve at the next free low place; the address, or ``-errno``."""
    global next_low
    cdef uint64_t at, lowest = low_start(), highest = low_end()
    cdef int64_t got = -EEXIST
    cdef int _tries
    cdef bint wrapped = False
    if not lowest <= next_low <= highest:
        next_low = lowest
    for _tries in range(TRIES):
        at = (next_low + alignment - 1) & ~(alignment - 1)
        if nbytes > highest - lowest or at > highest - nbytes:
            if wrapped:
                return -EEXIST
            wrapped = True
            next_low = lowest
            continue
        got = _reserve_at(at, nbytes)
        if got != -EEXIST:
            if got > 0:
                next_low = at + nbytes
            return got
        next_low = at + alignment
    return got


cdef int64_t _reserve_anywhere(size_t nbytes, size_t alignment) noexcept nogil:
    """Reserve where the kernel likes, aligned by cutting; the address, or ``-errno``."""
    cdef size_t room = nbytes + alignment
    cdef int64_t got
    cdef uint64_t start
    if room < nbytes:
        return -12
    got = call(
        CALL_MMAP, 0, <int64_t>room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if got < 0:
        return got
    start = (<uint64_t>got + alignment - 1) & ~(alignment - 1)
    if start > <uint64_t>got:
        call(CALL_MUNMAP, got, <int64_t>(start - <uint64_t>got))
    if start + nbytes < <uint64_t>got + room:
        call(CALL_MUNMAP, <int64_t>(start + nbytes), <int64_t>(<uint64_t>got + room - start - nbytes))
    return <int64_t>start


cdef range_t *range_reserve(
    size_t nbytes, size_t alignment, uint64_t at, uint32_t kind, uint32_t *state, int *fd, void *owner
) noexcept nogil:
    """Reserve addresses and say whose they are; NULL, with the failure, when refused.

    ``at`` is where they must lie, or 0; ``alignment`` is a power of two.
    """
    cdef range_t *entry
    cdef int64_t got
    cdef char text[ROOM_TEXT]
    mrm_lock(&registry_lock)
    entry = _unused_entry()
    if entry == NULL:
        mrm_unlock(&registry_lock)
        mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(chunk_t), b"no memory to register an address range")
        return NULL
    if at:
        got = _reserve_at(at, nbytes)
    else:
        got = _reserve_low(nbytes, alignment)
        if got < 0:
            got = _reserve_anywhere(nbytes, alignment)
    if got > 0:
        entry.nbytes = nbytes
        entry.kind = kind
        entry.state = state
        entry.fd = fd
        entry.owner = owner
        mrm_store64(&entry.base, <uint64_t>got)
    mrm_unlock(&registry_lock)
    if got > 0:
        return entry
    if at and got == -EEXIST:
        mrm_fail(
            failure(), MRM_NO_ADDRESSES, CALL_MMAP, EEXIST, <void *>at, nbytes,
            b"%zu bytes of addresses at %p are not free: something is mapped there; leave the choice to mrm (at=None)",
            nbytes, <void *>at,
        )
    elif nbytes > (<uint64_t>1 << address_bits()) // 8:
        mrm_fail(
            failure(), MRM_NO_ADDRESSES, CALL_MMAP, <int>-got, <void *>at, nbytes,
            b"cannot reserve %llu GiB of addresses (mmap: %s): a process has %llu GiB of them on this machine "
            b"(%u bits); ask for fewer views or slots, or for a smaller pool",
            <unsigned long long>(nbytes >> 30), strerror(<int>-got),
            <unsigned long long>((<uint64_t>1 << address_bits()) >> 30), address_bits(),
        )
    else:
        mrm_fail(
            failure(), MRM_NO_ADDRESSES, CALL_MMAP, <int>-got, <void *>at, nbytes,
            b"cannot reserve %zu bytes of addresses (mmap: %s): ask for fewer views or slots.%s",
            nbytes, strerror(<int>-got), why_refused(<int>-got, nbytes, text),
        )
    return NULL


cdef int64_t addresses_keep(size_t nbytes, size_t alignment) noexcept nogil:
    """Reserve addresses that are never released, and that a child keeps; the address, or ``-errno``."""
    cdef int64_t got
    mrm_lock(&registry_lock)
    got = _reserve_low(nbytes, alignment)
    if got < 0:
        got = _reserve_anywhere(nbytes, alignment)
    mrm_unlock(&registry_lock)
    return got


cdef bint range_is_low(const range_t *entry) noexcept nogil:
    """Whether it lies where the kernel places nothing by itself."""
    return low_start() <= entry.base and entry.base + entry.nbytes <= low_end()


cdef int range_release(range_t *entry) noexcept nogil:
    """Give the addresses back; when it returns, no reader looks at the owner any more.

    Fails if what they show cannot be taken away; then nothing is changed. Addresses that
    can be sealed, but not unmapped, stay taken for good: they show nothing.
    """
    cdef uint64_t base = entry.base
    cdef uint32_t old
    cdef int64_t got
    cdef bint sealed
    cdef char text[ROOM_TEXT]
    # Sealed first: a fork between here and the unmapping finds nothing of the frames.
    got = seal(<void *>base, entry.nbytes)
    sealed = got >= 0
    if not sealed:
        # At vm.max_map_count mmap is refused where munmap still serves.
        got = call(CALL_MUNMAP, <int64_t>base, <int64_t>entry.nbytes)
    if got < 0:
        return mrm_fail(
            failure(), MRM_SYSTEM_CALL, CALL_MUNMAP, <int>-got, <void *>base, entry.nbytes,
            b"%zu bytes of addresses at %p cannot be given back (munmap: %s): nothing is changed; try again.%s",
            entry.nbytes, <void *>base, strerror(<int>-got), why_refused(<int>-got, 0, text),
        )
    mrm_lock(&registry_lock)
    mrm_store64(&entry.base, 0)
    old = mrm_add32(&phase, 1) - 1
    while mrm_load32(&readers[old & 1]):
        sched_yield()
    if sealed:
        call(CALL_MUNMAP, <int64_t>base, <int64_t>entry.nbytes)
    mrm_unlock(&registry_lock)
    return MRM_OK


# ---- fork ----------------------------------------------------------------------

cdef void forked() noexcept nogil:
    """In the child: nothing of the parent's can be reached from here on."""
    global registry_lock
    cdef chunk_t *chunk = &first_chunk
    cdef range_t *entry
    cdef int i
    registry_lock = 0
    readers[0] = readers[1] = 0
    while chunk != NULL:
        for i in range(ENTRIES):
            entry = &chunk.entries[i]
            if entry.base == 0:
                continue
            # Views are not copied into the child and left holes, which are closed again, so
            # that a stale pointer does not meet what the child maps later.
            seal(<void *>entry.base, entry.nbytes)
            mrm_store32(entry.state, STATE_FORKED)
            if entry.fd != NULL and entry.fd[0] >= 0:
                call(CALL_CLOSE, entry.fd[0])
                entry.fd[0] = -1
        chunk = chunk.next


pthread_atfork(NULL, NULL, forked)
