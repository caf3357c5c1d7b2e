"""Looking at a heap: figures, and every block.

What is free in a page is known by its lists, so that a walk marks those blocks and calls the others in use.
Threads that work meanwhile change the lists under it: counts are read as they are, and a walk is for a heap
at rest. What this thread holds in chains (local.pyx) is put on its pages first; a block in another
thread's counts as in use until that thread does so.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mrm cimport MRM_API_VERSION, MRM_OK
from mrm.heap.classes cimport class_bytes, shape_of
from mrm.heap.local cimport local_find, local_flush
from mrm.heap.page cimport (
    FREED_BITS, FREED_SHIFT, FREED_WAKES, SEGMENT_NONE, SEGMENT_SHIFT, SLICE_BYTES, SLICE_SHIFT, SLICES, page_t,
)
from mrm.heap.state cimport RUN_LIVE, local_t, runs_t


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    MOST_WORDS = 32             # of a bit for each block of a page: a slice has 2048 of 16 bytes


cdef inline uint64_t used(const page_t *page) noexcept nogil:
    """Blocks of a page in use."""
    cdef uint64_t freed = mrm_load64(&page.freed) >> FREED_SHIFT
    return page.used - freed if page.used > freed else 0


cdef void flush(heap_t *heap) noexcept nogil:
    """Have what this thread freed be free."""
    cdef local_t *local = local_find(heap)
    if local != NULL:
        local_flush(local)


cdef void heap_classes(const heap_t *heap, class_figures_t *figures) noexcept nogil:
    """Count by size class: CLASSES entries."""
    cdef const page_t *page
    cdef class_figures_t *of
    cdef uint32_t number, i
    memset(figures, 0, CLASSES * sizeof(class_figures_t))
    for number in range(heap.segment_count):
        if heap.segments[number].state == SEGMENT_NONE:
            continue
        for i in range(<uint32_t>SLICES):
            page = &heap.pages[<size_t>number * SLICES + i]
            if page.nbytes == 0:
                continue
            of = &figures[page.number]
            of.pages += 1
            of.memory += <uint64_t>page.slices * SLICE_BYTES
            of.blocks += used(page)
            of.room += shape_of(page.number).blocks


cdef int heap_stats(heap_t *heap, mrm_heap_stats *stats) noexcept nogil:
    """Count, and fill as much of the table as the caller knows (``stats.size``)."""
    cdef class_figures_t figures[CLASSES]
    cdef mrm_heap_stats full
    cdef uint32_t size = min(stats.size, <uint32_t>sizeof(mrm_heap_stats)), i
    memset(&full, 0, sizeof(full))
    flush(heap)
    heap_classes(heap, figures)
    full.size = size
    full.version = MRM_API_VERSION
    full.memory = mrm_load64(&heap.bytes_now)
    full.memory_peak = mrm_load64(&heap.bytes_peak)
    for i in range(heap.segment_count):
        full.segments += heap.segments[i].state != SEGMENT_NONE
    for i in range(<uint32_t>CLASSES):
        full.blocks += figures[i].blocks
        full.bytes += figures[i].blocks * class_bytes(i)
    mrm_lock(&heap.runs.lock)
    full.large_blocks = heap.runs.blocks
    full.large_bytes = heap.runs.nbytes
    full.large_memory = <uint64_t>heap.runs.live << SEGMENT_SHIFT
    full.kept = <uint64_t>heap.runs.kept << SEGMENT_SHIFT
    mrm_unlock(&heap.runs.lock)
    full.addresses = heap.nbytes + (<uint64_t>heap.runs.slots << SEGMENT_SHIFT)
    full.addresses_lacking = heap.lacking
    memcpy(stats, &full, size)
    return MRM_OK


cdef void walk_page(heap_t *heap, const page_t *page, visitor_t visitor, void *context) noexcept nogil:
    """Visit the blocks of a page that no list says are free."""
    cdef uint64_t free[MOST_WORDS]
    cdef char *memory = heap.base + (<uint64_t>(page - heap.pages) << SLICE_SHIFT)
    cdef uint64_t freed = mrm_load64(&page.freed)
    cdef void *block = page.free
    cdef size_t i, n = <size_t>(page.fresh - memory) // page.nbytes
    cdef int _list
    memset(free, 0, sizeof(free))
    for _list in range(2):
        while block != NULL:
            i = <size_t>(<char *>block - memory) // page.nbytes
            if i >= n or free[i // 64] >> i % 64 & 1:
                break           # the list is changing under us
            free[i // 64] |= <uint64_t>1 << i % 64
            block = (<void **>block)[0]
        block = NULL
        if freed > FREED_WAKES:
            block = heap.base + (<uint64_t>page.segment << SEGMENT_SHIFT) + ((freed & FREED_BITS) - 1) * 16
    for i in range(n):
        if not free[i // 64] >> i % 64 & 1:
            visitor(context, memory + i * page.nbytes, page.nbytes)


cdef void heap_walk(heap_t *heap, visitor_t visitor, void *context) noexcept nogil:
    """Call a visitor with each block and its bytes; it must not change the heap."""
    cdef runs_t *runs = &heap.runs
    cdef uint32_t number, i
    flush(heap)
    if heap.debug != NULL:
        heap.debug.walk(heap, visitor, context)
        return
    for number in range(heap.segment_count):
        if heap.segments[number].state == SEGMENT_NONE:
            continue
        for i in range(<uint32_t>SLICES):
            if heap.pages[<size_t>number * SLICES + i].nbytes:
                walk_page(heap, &heap.pages[<size_t>number * SLICES + i], visitor, context)
    mrm_lock(&runs.lock)
    i = 0
    while i < runs.slots:
        if runs.run[i].state == RUN_LIVE:
            visitor(context, runs.base + (<uint64_t>i << SEGMENT_SHIFT), <size_t>runs.run[i].n << SEGMENT_SHIFT)
        i += runs.run[i].n
    mrm_unlock(&runs.lock)
