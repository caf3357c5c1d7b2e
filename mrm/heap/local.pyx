"""What a thread has of a heap: found, made, and taken back when the thread ends.

Each thread has a ``local_t`` for each heap that it used: queues of pages, which nobody else touches. It
belongs to its thread for good, and serves another heap when its own is closed; when the thread ends, it is
free for the next thread. It is never freed, so that who has read an owner from a page may set a
bit in its notice at any time, at worst for nothing.

A thread that ends leaves its segments to the heap, for others to adopt (orphans.pyx).

A block that another thread's page is of goes there by compare and swap; but what is freed by one thread
usually came from few pages, block after block. So a thread first collects such blocks in chains, one for a
page, and puts a chain of up to 32 on its page at once: a line that two processors write to changes hands
32 times less. Large blocks, of which few are memory enough, are not collected. What is in a chain counts
as used until then: 330 KiB a thread at the most.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.stdlib cimport posix_memalign

from mrm cimport MRM_CLOSED, MRM_FORKED, MRM_NO_MEMORY, MRM_OK
from mrm.heap.orphans cimport orphan_adopt, segment_leave
from mrm.heap.page cimport (
    FREED_BITS, FREED_SHIFT, FREED_WAKES, SEGMENT_FROZEN, SEGMENT_SHIFT, SEGMENT_USED, SLICES, mrm_owner,
    mrm_relaxed, page_put, segment_t,
)
from mrm.heap.pages cimport page_freed, pages_forget
from mrm.heap.state cimport ABANDONED, BUCKETS, CHAINS, chain_t
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.ranges cimport STATE_FORKED, STATE_OPEN


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    uint64_t mrm_load64(const uint64_t *p)
    bint mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)
    void mrm_store_ptr(void **p, void *v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "heap/bits.h" nogil:
    uint64_t mrm_bits_or64(uint64_t *p, uint64_t bits)

cdef extern from * nogil:
    """
    #include <pthread.h>
    static _Thread_local void *mrm_thread_locals;      /* local_t's of this thread, linked */
    static pthread_key_t mrm_ending;
    static int mrm_ending_made;
    static void mrm_watch_ending(void (*ended)(void *)) {
        mrm_ending_made = pthread_key_create(&mrm_ending, ended) == 0;
    }
    static void **mrm_own_locals(void) { return &mrm_thread_locals; }
    /* The value only has to be something: what ends is found in mrm_thread_locals. */
    static void mrm_tell_ending(void *value) { if (mrm_ending_made) pthread_setspecific(mrm_ending, value); }
    """
    void **mrm_own_locals()
    void mrm_tell_ending(void *value)
    void mrm_watch_ending(void (*ended)(void *) noexcept nogil)


cdef enum:
    CHAIN = 32                  # blocks that a chain has at the most
    CHAIN_BLOCK = 512           # bytes of a block from which on it is not collected

ctypedef void (*forget_t)() noexcept nogil

cdef uint32_t spares_lock = 0
cdef local_t *spares = NULL     # of threads that have ended
cdef forget_t forget_all = NULL


cdef void locals_tell(void (*forget)() noexcept nogil) noexcept nogil:
    """Have ``forget`` called in a thread that ends: it may have kept what ``local_find`` found."""
    global forget_all
    forget_all = forget


cdef void locals_forget() noexcept nogil:
    """Have this thread look for what it had, the next time; in a child of fork, before anything else."""
    global spares_lock
    spares_lock = 0
    if forget_all != NULL:
        forget_all()


# ---- found and made ----------------------------------------------------------------------

cdef local_t *spare_local() noexcept nogil:
    """One that is nobody's; NULL without memory."""
    global spares
    cdef local_t *local = NULL
    mrm_lock(&spares_lock)
    if spares != NULL:
        local = spares
        spares = local.thread_next
    mrm_unlock(&spares_lock)
    if local == NULL and posix_memalign(<void **>&local, 128, sizeof(local_t)) == 0:
        memset(local, 0, sizeof(local_t))
    return local


cdef int heap_usable(const heap_t *heap) noexcept nogil:
    """MRM_OK, or why a heap cannot be used."""
    cdef uint32_t state = mrm_load32(&heap.state)
    if state == STATE_OPEN:
        return MRM_OK
    if state == STATE_FORKED:
        return mrm_fail(
            failure(), MRM_FORKED, 0, 0, heap.base, 0,
            b"heap %s is on a pool of the parent process, whose frames a child cannot reach: "
            b"open a heap in the child, or a private one (mrm.Heap()) before the fork", heap.label,
        )
    return mrm_fail(failure(), MRM_CLOSED, 0, 0, heap.base, 0, b"heap %s is closed", heap.label)


cdef local_t *local_find(heap_t *heap) noexcept nogil:
    """This thread's part of a heap, made if it has none; NULL, with the failure, if the heap cannot be used."""
    cdef local_t *first = <local_t *>mrm_own_locals()[0]
    cdef local_t *local = first
    cdef local_t *stale = NULL
    if heap_usable(heap) != MRM_OK:
        return NULL
    while local != NULL:
        if local.heap == heap:
            return local
        if local.heap == NULL:
            stale = local
        local = local.thread_next
    local = stale
    if local == NULL:
        local = spare_local()
        if local == NULL:
            mrm_fail(
                failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(local_t), b"no memory for what a thread has of a heap"
            )
            return NULL
        local.thread_next = first
        mrm_own_locals()[0] = local
        mrm_tell_ending(local)
    # What a thread has found for a heap that is closed would now be found for one that looks for mistakes.
    if heap.debug != NULL and forget_all != NULL:
        forget_all()
    pages_forget(local)
    mrm_lock(&heap.lock)
    local.next = heap.locals
    heap.locals = local
    mrm_unlock(&heap.lock)
    mrm_store_ptr(<void **>&local.heap, heap)
    return local


# ---- blocks of other threads' pages ------------------------------------------------------------

cdef void freed_push(heap_t *heap, page_t *page, void *first, void *last, size_t n) noexcept nogil:
    """Put n blocks, linked from first to last, on a page for its owner to find; wake it if it asked for that."""
    cdef segment_t *segment = &heap.segments[page.segment]
    cdef char *base = heap.base + (<uint64_t>page.segment << SEGMENT_SHIFT)
    cdef uint64_t freed = mrm_load64(&page.freed)
    cdef uint64_t changed
    cdef local_t *owner
    while True:
        (<void **>last)[0] = base + ((freed & FREED_BITS) - 1) * 16 if freed > FREED_WAKES else NULL
        changed = (freed >> FREED_SHIFT) + n << FREED_SHIFT | (<uint64_t>(<char *>first - base) // 16 + 1)
        if mrm_cas64(&page.freed, &freed, changed):
            break
    if not freed & FREED_WAKES:
        return
    # From here on the page may be gone: its owner may have found the blocks by itself. Then
    # the bit means nothing to who has the segment now (pages_wake).
    mrm_bits_or64(&segment.woken, <uint64_t>1 << <uint32_t>(page - heap.pages) % SLICES)
    owner = <local_t *>mrm_owner(&segment.owner)
    if owner != NULL and owner != ABANDONED:
        mrm_bits_or64(&owner.notice, <uint64_t>1 << segment.number % BUCKETS)


cdef void chain_flush(local_t *local, chain_t *chain) noexcept nogil:
    """Put a chain on its page."""
    if chain.count:
        freed_push(local.heap, chain.page, chain.first, chain.last, chain.count)
        chain.count = 0
        chain.page = NULL


cdef void local_flush(local_t *local) noexcept nogil:
    """Put all chains on their pages."""
    cdef uint32_t i
    for i in range(<uint32_t>CHAINS):
        chain_flush(local, &local.chains[i])


cdef void local_free_later(local_t *local, page_t *page, void *block) noexcept nogil:
    """Free a block of a page that is not this thread's: with others of the same page, or by adopting it."""
    cdef chain_t *chain
    if mrm_relaxed(&page.owner) == ABANDONED and orphan_adopt(local, page):
        if page_put(page, block):
            page_freed(local, page)
        return
    if page.nbytes > CHAIN_BLOCK:
        freed_push(local.heap, page, block, block, 1)
        return
    # By the class: who frees a mix of sizes has a page of each in hand, at the least.
    chain = &local.chains[(page.number << 1 | page.segment & 1) % CHAINS]
    if chain.page != page:
        chain_flush(local, chain)
        chain.page = page
        chain.first = chain.last = block
        chain.count = 1
        return
    (<void **>block)[0] = chain.first
    chain.first = block
    chain.count += 1
    if chain.count == CHAIN:
        chain_flush(local, chain)


# ---- the ends of a thread, a heap, a parent -------------------------------------------------------

cdef void local_leave(local_t *local) noexcept nogil:
    """Leave a thread's segments to its heap."""
    cdef heap_t *heap = local.heap
    cdef local_t **link = &heap.locals
    cdef uint32_t bucket
    local_flush(local)
    for bucket in range(<uint32_t>BUCKETS):
        while local.segments[bucket] != NULL:
            segment_leave(local, local.segments[bucket])
    mrm_lock(&heap.lock)
    while link[0] != NULL and link[0] != local:
        link = &link[0].next
    if link[0] != NULL:
        link[0] = local.next
    mrm_unlock(&heap.lock)
    mrm_store_ptr(<void **>&local.heap, NULL)


cdef void ended(void *unused) noexcept nogil:
    """A thread ends: its heaps get their segments back, and its local_t's are for others."""
    global spares
    cdef local_t *local = <local_t *>mrm_own_locals()[0]
    cdef local_t *next
    mrm_own_locals()[0] = NULL
    if forget_all != NULL:
        forget_all()
    while local != NULL:
        next = local.thread_next
        # Not while its heap is being closed, which makes it nobody's under this lock.
        mrm_lock(&spares_lock)
        if local.heap != NULL:
            local_leave(local)
        local.thread_next = spares
        spares = local
        mrm_unlock(&spares_lock)
        local = next


cdef void locals_end(heap_t *heap) noexcept nogil:
    """A heap ends: nobody has a part of it any more. Its memory is given back by whoever calls this."""
    cdef local_t *local
    mrm_lock(&spares_lock)
    local = heap.locals
    while local != NULL:
        mrm_store_ptr(<void **>&local.heap, NULL)
        local = local.next
    heap.locals = NULL
    mrm_unlock(&spares_lock)


cdef void locals_freeze(heap_t *heap) noexcept nogil:
    """In a child: what other threads had stays as it is, for good.

    They may have been anywhere in it, so that nothing is taken from their pages. Their blocks can be
    used, and freed, for nothing. Only this thread's own part goes on.
    """
    cdef local_t *own = <local_t *>mrm_own_locals()[0]
    cdef local_t *local = heap.locals
    cdef local_t *next
    cdef segment_t *segment
    cdef uint32_t number, i
    while own != NULL and own.heap != heap:
        own = own.thread_next
    heap.locals = own
    while local != NULL:
        next = local.next
        if local != own:
            local.heap = NULL
        local = next
    # By the table: lists of theirs may have been copied while they changed, one end before and one after.
    for number in range(heap.fresh):
        segment = &heap.segments[number]
        if segment.state == SEGMENT_USED and segment.owner != own and segment.owner != ABANDONED:
            segment.state = SEGMENT_FROZEN
            segment.owner = ABANDONED
            for i in range(<uint32_t>SLICES):
                heap.pages[<size_t>number * SLICES + i].owner = ABANDONED
    if own != NULL:
        own.next = NULL


mrm_watch_ending(ended)
