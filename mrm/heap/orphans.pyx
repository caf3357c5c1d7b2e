"""Segments that change hands: a thread ends, and others go on with what it leaves.

A segment with blocks in use waits in the heap's list. There its blocks can still be used, and freed as any of
another thread's. Two threads take it from there: one that needs a page and has none (supply.pyx), and one
that frees a block in it, since who frees the blocks of a thread that has ended will free more of them: as its
own, each costs a few instructions, and what it frees it can hand out again. Without the second, a server whose
threads follow one another (larson) kept putting blocks on pages where nobody looked for them.
"""

from libc.stdint cimport uint32_t

from mrm.heap.page cimport (
    ALL_SLICES, DONE_ALWAYS, SEGMENT_USED, SLICES, mrm_owner, mrm_set_owner, segment_push, segment_remove,
)
from mrm.heap.pages cimport (
    page_full, page_unfull, page_unlist, segment_collect, segment_drop, segment_link, segment_unlink,
)
from mrm.heap.state cimport ABANDONED, heap_t


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef void segment_adopt(local_t *local, segment_t *segment) noexcept nogil:
    """Make a segment a thread's, with its pages, those that are full with the wish to be told."""
    cdef page_t *page = &local.heap.pages[<size_t>segment.number * SLICES]
    cdef uint32_t i = 0
    segment_link(local, segment)
    while i < SLICES:
        if segment.free >> i & 1:
            i += 1
            continue
        mrm_set_owner(&page[i].owner, local)
        page[i].next = page[i].previous = NULL
        page[i].done = DONE_ALWAYS
        # Owned first, then asked for a wake: whoever frees a block after that finds the new owner.
        if page[i].free != NULL or page[i].fresh < page[i].end or not page_full(&page[i]):
            page_unfull(local, &page[i])
        i += page[i].slices


cdef void orphan_unlink(local_t *local, segment_t *segment) noexcept nogil:
    """Take a segment out of the list of those without a thread, for this one; the lock is held."""
    cdef heap_t *heap = local.heap
    segment_remove(&heap.orphans, segment)
    # Before the lock is let go: who frees a block in it must not take it, too.
    mrm_set_owner(&segment.owner, local)
    mrm_store32(&heap.abandoned, heap.abandoned - 1)


cdef segment_t *orphan_take(local_t *local) noexcept nogil:
    """A segment whose thread has ended, and which is this one's now; or NULL."""
    cdef heap_t *heap = local.heap
    cdef segment_t *segment
    # A look without the lock: whoever misses one takes a new segment.
    if mrm_load32(&heap.abandoned) == 0:
        return NULL
    mrm_lock(&heap.lock)
    segment = heap.orphans
    if segment != NULL:
        orphan_unlink(local, segment)
    mrm_unlock(&heap.lock)
    if segment != NULL:
        segment_adopt(local, segment)
    return segment


cdef bint orphan_adopt(local_t *local, page_t *page) noexcept nogil:
    """Make the segment of a page this thread's, as one of its blocks is freed here; False if it is another's."""
    cdef heap_t *heap = local.heap
    cdef segment_t *segment = &heap.segments[page.segment]
    cdef bint adopted = False
    if segment.state != SEGMENT_USED:       # frozen by a fork: it stays as it is
        return False
    mrm_lock(&heap.lock)
    if mrm_owner(&segment.owner) == ABANDONED:
        orphan_unlink(local, segment)
        adopted = True
    mrm_unlock(&heap.lock)
    if adopted:
        segment_adopt(local, segment)
    return adopted


cdef void segment_leave(local_t *local, segment_t *segment) noexcept nogil:
    """Take a segment from its thread: give it back if nothing in it is used, else it waits for another."""
    cdef heap_t *heap = local.heap
    cdef page_t *page = &heap.pages[<size_t>segment.number * SLICES]
    cdef uint32_t i
    segment_collect(local, segment)
    if segment.free == ALL_SLICES:
        segment_drop(local, segment)
        return
    for i in range(<uint32_t>SLICES):
        if page[i].nbytes:
            page_unlist(local, &page[i])
        mrm_set_owner(&page[i].owner, ABANDONED if page[i].nbytes else NULL)
    segment_unlink(local, segment)
    mrm_lock(&heap.lock)
    mrm_set_owner(&segment.owner, ABANDONED)
    segment_push(&heap.orphans, segment)
    mrm_store32(&heap.abandoned, heap.abandoned + 1)
    mrm_unlock(&heap.lock)


cdef void orphans_trim(local_t *local) noexcept nogil:
    """Give back what is free of all segments that wait for a thread."""
    cdef heap_t *heap = local.heap
    cdef segment_t *segment
    cdef segment_t *next
    mrm_lock(&heap.lock)
    next = heap.orphans
    while heap.orphans != NULL:
        orphan_unlink(local, heap.orphans)
    mrm_unlock(&heap.lock)
    while next != NULL:
        segment = next
        next = segment.next
        segment_adopt(local, segment)
        segment_leave(local, segment)
