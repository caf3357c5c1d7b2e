"""A heap: opened, closed, and known to fork.

A heap on a pool has the pool's window for small blocks, and a reservation of sixteen times as many slots as
the pool has frames for large ones. A private heap has two ranges of anonymous memory: as large as the machine's
memory, and eight times that; halved for as long as a limit on the process's address space refuses them. If that
leaves too few for the memory that the heap may have, its figures say so (``lacking``), and mrm.Heap warns.

Its tables are one mapping, of which the kernel gives what is touched: 8 KiB for each segment in use, 24 bytes
for a slot.

After fork a heap on a pool is of no use in the child, like the pool, and says so. A private one goes on with
a copy of all blocks, as malloc does. Every lock of it is held while the process is copied, so that what
a lock guards is whole in the child. What a thread does on its own pages is under no lock: the pages of other
threads may have been copied in the middle of anything, and are not taken from in the child any more
(locals_freeze). Their blocks are as they were.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_HEAP_DEBUG, MRM_HEAP_NO_DEBUG, MRM_HEAP_OVERDRAFT, MRM_NO_ADDRESSES, MRM_NO_MEMORY, MRM_OK,
    MRM_OVERDRAFT, MRM_POOL_ACCOUNT, MRM_REUSE_NOW, MRM_SLOT_SHOWN, mrm_account_stats,
)
from mrm.heap.debug cimport debug_child, debug_open, debug_parent, debug_prepare, debug_wanted
from mrm.heap.extents cimport extents_open
from mrm.heap.local cimport locals_end, locals_forget, locals_freeze
from mrm.heap.page cimport SEGMENT_SHIFT, SEGMENT_USED, SLICES, page_t, segment_t
from mrm.heap.runs cimport runs_contain
from mrm.heap.state cimport LABEL, run_t
from mrm.physical.accounts cimport account_stats
from mrm.physical.funds cimport check_name
from mrm.physical.pool cimport pool_release, pool_retain, pool_usable
from mrm.physical.taking cimport pool_give_many
from mrm.space.batch cimport batch_abort
from mrm.space.reservation cimport reservation_close, reservation_open, reservation_t
from mrm.system.calls cimport CALL_MMAP, CALL_MUNMAP, CALL_PRCTL, advise, call, is_fake
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.figures cimport figure
from mrm.system.ranges cimport STATE_CLOSED, STATE_FORKED, STATE_OPEN
from mrm.system.room cimport ROOM_TEXT, why_private_refused, why_refused


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    uint32_t mrm_sub32(uint32_t *p, uint32_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MADV_HUGEPAGE, MADV_DONTDUMP

cdef extern from "<unistd.h>" nogil:
    long sysconf(int name)
    enum:
        _SC_PHYS_PAGES, _SC_PAGESIZE

cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)


cdef enum:
    SPAN = 16                   # slots for each frame of a pool
    PRIVATE_SPAN = 8            # bytes of addresses for large blocks for each byte of memory
    KEPT_PART = 8               # of a pool that freed large blocks keep
    PRIVATE_KEPT_PART = 32      # of the machine's memory
    FLAGS = MRM_HEAP_DEBUG | MRM_HEAP_OVERDRAFT | MRM_HEAP_NO_DEBUG
    NAME_ANONYMOUS = 0x53564d41     # PR_SET_VMA, and its only use: a name in /proc/self/maps (5.17)

cdef uint64_t ALIGNMENT = 1 << 30   # mremap moves whole tables of pages between ranges that have it
cdef uint64_t LEAST_SPAN = <uint64_t>1 << 30

cdef heap_t *all_heaps = NULL
cdef uint32_t list_lock = 0
cdef uint32_t heaps_opened = 0


# ---- memory of its own ------------------------------------------------------------------

cdef uint64_t rounded(uint64_t nbytes, uint64_t to) noexcept nogil:
    return (nbytes + to - 1) // to * to


cdef char *private_range(size_t nbytes, bint strict) noexcept nogil:
    """Aligned addresses for private memory, on huge pages where the kernel has them; NULL, with the failure."""
    cdef char text[ROOM_TEXT]
    cdef int64_t got = call(
        CALL_MMAP, 0, <int64_t>(nbytes + ALIGNMENT), PROT_NONE if strict else PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
    )
    cdef const char *why
    cdef uint64_t start
    if got < 0:
        why = why_refused(<int>-got, nbytes, text) if strict else why_private_refused(<int>-got, nbytes, text)
        mrm_fail(
            failure(), MRM_NO_ADDRESSES, CALL_MMAP, <int>-got, NULL, nbytes,
            b"no %llu GiB of addresses for a heap (mmap: %s).%s", <unsigned long long>(nbytes >> 30),
            strerror(<int>-got), why,
        )
        return NULL
    start = rounded(<uint64_t>got, ALIGNMENT)
    if start > <uint64_t>got:
        call(CALL_MUNMAP, got, <int64_t>(start - <uint64_t>got))
    if start - <uint64_t>got < ALIGNMENT:
        call(CALL_MUNMAP, <int64_t>(start + nbytes), <int64_t>(ALIGNMENT - (start - <uint64_t>got)))
    # A kernel without huge pages refuses that, one without names that: both are no matter here.
    advise(<void *>start, nbytes, MADV_HUGEPAGE)
    call(CALL_PRCTL, NAME_ANONYMOUS, 0, <int64_t>start, <int64_t>nbytes, <int64_t><const char *>b"mrm heap")
    return <char *>start


cdef bint is_strict() noexcept nogil:
    """Whether memory that can be written to is promised memory.

    Where /proc does not tell, it is not: the kernel refuses what it does not promise, and on_memory asks for less.
    """
    return figure(b"/proc/sys/vm/overcommit_memory") == 2


cdef int open_private(heap_t *heap, uint64_t small, uint64_t large) noexcept nogil:
    """Ranges for a private heap."""
    heap.base = private_range(small, heap.strict)
    if heap.base == NULL:
        return failure().status
    heap.runs.base = private_range(large, heap.strict)
    if heap.runs.base == NULL:
        call(CALL_MUNMAP, <int64_t>heap.base, <int64_t>small)
        return failure().status
    return MRM_OK


cdef heap_t *tables(uint64_t segments, uint64_t slots, bint private) noexcept nogil:
    """A heap of so many segments and slots: all of its tables, empty; NULL, with the failure."""
    cdef size_t at = rounded(sizeof(heap_t), 4096)
    cdef size_t segment_table = at, page_table, run_table, spare, clean, nbytes
    cdef int64_t got
    cdef heap_t *heap
    page_table = rounded(segment_table + segments * sizeof(segment_t), 4096)
    run_table = page_table + segments * SLICES * sizeof(page_t)
    spare = run_table + rounded(slots * sizeof(run_t), 4096)
    clean = spare + (rounded(segments * sizeof(uint32_t), 4096) if private else 0)
    nbytes = clean + (rounded(segments * sizeof(uint32_t), 4096) if private else 0)
    # The fake's addresses are none to write to.
    got = <int64_t>calloc(1, nbytes) if is_fake() else call(
        CALL_MMAP, 0, <int64_t>nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if got <= 0:
        mrm_fail(
            failure(), MRM_NO_MEMORY, CALL_MMAP, <int>-got, NULL, nbytes, b"no %llu MiB for the tables of a heap",
            <unsigned long long>(nbytes >> 20),
        )
        return NULL
    heap = <heap_t *>got
    heap.memory = <void *>got
    heap.memory_bytes = 0 if is_fake() else nbytes
    heap.segment_count = <uint32_t>segments
    heap.nbytes = segments << SEGMENT_SHIFT
    heap.segments = <segment_t *>(<char *>heap + segment_table)
    heap.pages = <page_t *>(<char *>heap + page_table)
    heap.runs.slots = <uint32_t>slots
    heap.runs.run = <run_t *>(<char *>heap + run_table)
    if private:
        heap.spare = <uint32_t *>(<char *>heap + spare)
        heap.clean = <uint32_t *>(<char *>heap + clean)
    return heap


cdef void end_tables(heap_t *heap) noexcept nogil:
    """Give the tables back, and with them the heap."""
    if heap.memory_bytes:
        call(CALL_MUNMAP, <int64_t>heap.memory, <int64_t>heap.memory_bytes)
    else:
        free(heap.memory)


# ---- opening -------------------------------------------------------------------------

cdef int on_pool(pool_t *pool, heap_t **made) noexcept nogil:
    """A heap whose small blocks lie in the pool's window."""
    cdef heap_t *heap
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    if pool.layout.frame_shift != SEGMENT_SHIFT:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, pool.layout.frame_size,
            b"a heap needs frames of 2 MiB, and this machine's have %llu MiB: open a private heap, mrm.Heap()",
            <unsigned long long>(pool.layout.frame_size >> 20),
        )
    heap = tables(pool.layout.frame_count, <uint64_t>pool.layout.frame_count * SPAN, False)
    if heap == NULL:
        return failure().status
    heap.pool = pool
    heap.base = pool.window
    heap.runs.most_kept = pool.layout.frame_count // KEPT_PART
    status = reservation_open(pool, heap.runs.slots, 0, &heap.runs.reservation)
    if status != MRM_OK:
        end_tables(heap)
        return status
    heap.runs.base = heap.runs.reservation.base
    pool_retain(pool)
    made[0] = heap
    return MRM_OK


cdef uint64_t machine_memory() noexcept nogil:
    return <uint64_t>sysconf(_SC_PHYS_PAGES) * <uint64_t>sysconf(_SC_PAGESIZE)


cdef uint64_t lacking(const heap_t *heap) noexcept nogil:
    """Bytes of addresses that a private heap needs besides for all the memory that it may have."""
    cdef uint64_t most = min(heap.limit, machine_memory())
    cdef uint64_t most_large = most if heap.strict else most * PRIVATE_SPAN
    cdef uint64_t large = <uint64_t>heap.runs.slots << SEGMENT_SHIFT
    return (most - heap.nbytes if most > heap.nbytes else 0) + (most_large - large if most_large > large else 0)


cdef int on_memory(heap_t **made) noexcept nogil:
    """A heap of private memory, with as many addresses as the process may have."""
    cdef uint64_t memory = machine_memory()
    cdef bint strict = is_strict()
    cdef uint64_t small = max(rounded(memory, ALIGNMENT), 4 * LEAST_SPAN)
    cdef uint64_t large = small if strict else small * PRIVATE_SPAN
    cdef heap_t *heap = NULL
    cdef int status
    while True:
        heap = tables(small >> SEGMENT_SHIFT, large >> SEGMENT_SHIFT, True)
        status = failure().status if heap == NULL else MRM_OK
        if status == MRM_OK:
            heap.strict = strict
            status = open_private(heap, small, large)
        if status == MRM_OK or (small <= LEAST_SPAN and large <= LEAST_SPAN):
            break
        if heap != NULL:
            end_tables(heap)
        if large > small:
            large >>= 1
        else:
            small >>= 1
            large >>= 1
    if status != MRM_OK:
        if heap != NULL:
            end_tables(heap)
        return status
    heap.writable = 0 if strict else heap.segment_count
    heap.runs.most_kept = <uint32_t>(memory // PRIVATE_KEPT_PART >> SEGMENT_SHIFT)
    made[0] = heap
    return MRM_OK


cdef int heap_open(pool_t *pool, const mrm_heap_options *given, heap_t **opened) noexcept nogil:
    """Open a heap on a pool, or a private one where pool is NULL."""
    global all_heaps
    cdef mrm_heap_options options
    cdef mrm_account_stats account
    cdef heap_t *heap = NULL
    cdef int status
    if given.size == 0 or given.size > sizeof(options):
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, given, given.size,
            b"mrm_heap_options.size is %u: set it to sizeof(mrm_heap_options), which this mrm knows %zu bytes of",
            given.size, sizeof(options),
        )
    # An older caller's struct ends earlier; what it does not know is zero, as it comes.
    memset(&options, 0, sizeof(options))
    memcpy(&options, given, given.size)
    if options.flags & ~<uint32_t>FLAGS:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"flags %#x are none of a heap's (MRM_HEAP_...)", options.flags
        )
    if options.name != NULL:
        status = check_name(b"a heap", options.name)
        if status != MRM_OK:
            return status
    if pool != NULL and options.account:
        account.size = sizeof(account)
        status = account_stats(pool, options.account, &account)
        if status != MRM_OK:
            return status
    status = on_memory(&heap) if pool == NULL else on_pool(pool, &heap)
    if status != MRM_OK:
        return status
    heap.account = options.account if options.account else MRM_POOL_ACCOUNT
    heap.how = MRM_OVERDRAFT if options.flags & MRM_HEAP_OVERDRAFT else 0
    heap.limit = options.limit if options.limit else <uint64_t>-1
    heap.lacking = lacking(heap) if pool == NULL else 0
    if options.keep:
        heap.runs.most_kept = <uint32_t>min(options.keep >> SEGMENT_SHIFT, <uint64_t>heap.runs.slots)
    heap.number = mrm_add32(&heaps_opened, 1)
    if options.name != NULL:
        snprintf(heap.label, LABEL, b"%u '%s'", heap.number, options.name)
    else:
        snprintf(heap.label, LABEL, b"%u", heap.number)
    heap.users = 1
    extents_open(&heap.runs)
    heap.state = STATE_OPEN
    if debug_wanted(options.flags):
        status = debug_open(heap)
        if status != MRM_OK:
            if pool != NULL:
                reservation_close(heap.runs.reservation)
            discard(heap)
            return status
    mrm_lock(&list_lock)
    heap.next = all_heaps
    if all_heaps != NULL:
        all_heaps.previous = heap
    all_heaps = heap
    mrm_unlock(&list_lock)
    opened[0] = heap
    return MRM_OK


# ---- closing -------------------------------------------------------------------------

cdef size_t frames_of_slots(const heap_t *heap, uint32_t *frames, uint8_t *seen) noexcept nogil:
    """Write the frames that slots show; how many. After a move that could not be undone two may show the same."""
    cdef reservation_t *r = heap.runs.reservation
    cdef size_t n = 0
    cdef uint32_t i
    for i in range(r.slots):
        if r.slot[i].state == MRM_SLOT_SHOWN and not seen[r.slot[i].frame]:
            seen[r.slot[i].frame] = True
            frames[n] = r.slot[i].frame
            n += 1
    return n


cdef size_t frames_of_segments(const heap_t *heap, uint32_t *frames) noexcept nogil:
    """Write the frames that are segments; how many."""
    cdef size_t n = 0
    cdef uint32_t i
    for i in range(heap.segment_count):
        if heap.segments[i].state == SEGMENT_USED:
            frames[n] = i
            n += 1
    return n


cdef int close_on_pool(heap_t *heap) noexcept nogil:
    """End the addresses of a heap on a pool, and give all of its frames back."""
    cdef size_t n = heap.segment_count      # frames of the pool: it has no more
    cdef uint32_t *frames = <uint32_t *>malloc(n * sizeof(uint32_t))
    cdef uint8_t *seen = <uint8_t *>calloc(n, 1)
    cdef int status
    if frames == NULL or seen == NULL:
        free(frames)
        free(seen)
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 12, NULL, n * 4, b"no memory for the list of a heap's %zu frames", n
        )
    n = frames_of_slots(heap, frames, seen)
    free(seen)
    if heap.runs.batch != NULL:
        batch_abort(heap.runs.batch)
        heap.runs.batch = NULL
    status = reservation_close(heap.runs.reservation)
    if status == MRM_OK:
        # A thread that was joined may still be ending, and gives its own segments back: not after this.
        locals_end(heap)
        n += frames_of_segments(heap, frames + n)
        pool_give_many(heap.pool, frames, n, MRM_REUSE_NOW)
    free(frames)
    return status


cdef void discard(heap_t *heap) noexcept nogil:
    """Free what a heap has besides its frames."""
    cdef pool_t *pool = heap.pool
    if heap.debug != NULL:
        heap.debug.close(heap)
    if pool == NULL:
        call(CALL_MUNMAP, <int64_t>heap.base, <int64_t>heap.nbytes)
        call(CALL_MUNMAP, <int64_t>heap.runs.base, <int64_t>heap.runs.slots << SEGMENT_SHIFT)
    end_tables(heap)
    if pool != NULL:
        pool_release(pool)


cdef void heap_retain(heap_t *heap) noexcept nogil:
    """One user more."""
    mrm_add32(&heap.users, 1)


cdef int heap_release(heap_t *heap) noexcept nogil:
    """One user less; the last one ends the heap and all of its blocks. If that fails, it stays the last."""
    global all_heaps
    cdef int status = MRM_OK
    if mrm_sub32(&heap.users, 1):
        return MRM_OK
    if heap.debug != NULL and heap.state == STATE_OPEN:
        heap.debug.ending(heap)
    if heap.pool != NULL and heap.state == STATE_OPEN and pool_usable(heap.pool) == MRM_OK:
        status = close_on_pool(heap)
        if status != MRM_OK:
            mrm_add32(&heap.users, 1)
            return status
    mrm_lock(&list_lock)
    if heap.previous != NULL:
        heap.previous.next = heap.next
    else:
        all_heaps = heap.next
    if heap.next != NULL:
        heap.next.previous = heap.previous
    mrm_unlock(&list_lock)
    mrm_store32(&heap.state, STATE_CLOSED)
    locals_end(heap)
    discard(heap)
    return MRM_OK


cdef bint heap_owns(heap_t *heap, const void *address) noexcept nogil:
    """Whether an address lies in memory that a block of the heap may be in."""
    cdef uint64_t into = <uint64_t>(<const char *>address - heap.base)
    if into < heap.nbytes:
        return heap.segments[into >> SEGMENT_SHIFT].state != 0
    return runs_contain(heap, address)


# ---- fork ----------------------------------------------------------------------------

cdef void prepare() noexcept nogil:
    """Before the process is copied: take every lock, so that nobody is in the middle of what they guard."""
    cdef heap_t *heap
    mrm_lock(&list_lock)
    heap = all_heaps
    while heap != NULL:
        mrm_lock(&heap.runs.lock)
        mrm_lock(&heap.lock)
        heap = heap.next
    debug_prepare()


cdef void parent() noexcept nogil:
    """Go on."""
    cdef heap_t *heap = all_heaps
    debug_parent()
    while heap != NULL:
        mrm_unlock(&heap.lock)
        mrm_unlock(&heap.runs.lock)
        heap = heap.next
    mrm_unlock(&list_lock)


cdef void child() noexcept nogil:
    """In the child: private heaps go on, with this thread's pages; others are the parent's."""
    global list_lock
    cdef heap_t *heap = all_heaps
    debug_child()
    list_lock = 0
    locals_forget()
    while heap != NULL:
        heap.lock = 0
        heap.runs.lock = 0
        if heap.pool != NULL:
            heap.state = STATE_FORKED
            locals_end(heap)
        else:
            locals_freeze(heap)
        heap = heap.next


pthread_atfork(prepare, parent, child)
