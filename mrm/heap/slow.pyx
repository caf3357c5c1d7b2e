"""What malloc, free and their kin do when it is not the usual thing.

A page has run out, a block is another thread's, large, or none at all; a thread comes to the heap for the
first time; memory has run out. In that case what the heap has but does not need is given back first:
large blocks that were freed and are kept, pages and segments without a block, those of threads that have
ended. Only then is the caller told.

A heap that looks for mistakes goes another way, here, where it costs nothing to ask.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mrm cimport MRM_BAD_ARGUMENT, MRM_BAD_BLOCK, MRM_OK, MRM_OUT_OF_FRAMES
from mrm.heap.classes cimport CLASSES, GRAIN, LARGEST_SMALL, class_bytes, class_of
from mrm.heap.local cimport local_find, local_flush, local_free_later
from mrm.heap.orphans cimport orphans_trim
from mrm.heap.page cimport PAGE_ZERO, SLICE_BYTES, SLICE_SHIFT, mrm_relaxed, page_put, page_t
from mrm.heap.pages cimport page_freed, pages_release
from mrm.heap.runs cimport runs_allocate, runs_contain, runs_free, runs_resize, runs_trim, runs_usable
from mrm.heap.segments cimport segments_trim
from mrm.heap.supply cimport page_with_room
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)


cdef uint64_t MOST_BYTES = <uint64_t>1 << 47    # no block has more, since no process has addresses for it


# ---- memory is short ----------------------------------------------------------------------

cdef void release(local_t *local, uint64_t *private) noexcept nogil:
    """Give back what no block is in; what the kernel gets of private memory is added to ``private``."""
    local_flush(local)
    pages_release(local)
    orphans_trim(local)
    runs_trim(local.heap, private)


cdef uint64_t heap_trim(heap_t *heap) noexcept nogil:
    """Give back all memory that no block is in, but for what other threads have at hand; how many bytes."""
    cdef local_t *local = local_find(heap)
    cdef uint64_t before = mrm_load64(&heap.bytes_now), now
    cdef uint64_t private = 0
    if local == NULL:
        return 0
    if heap.debug != NULL:
        heap.debug.trim(heap)
    release(local, &private)
    private += segments_trim(heap)
    if heap.pool == NULL:
        return private
    now = mrm_load64(&heap.bytes_now)
    return before - now if now < before else 0


cdef bint relieve(local_t *local) noexcept nogil:
    """Whether there is hope after a shortage: frames have been given back that the heap did not need."""
    cdef heap_t *heap = local.heap
    cdef uint64_t before = mrm_load64(&heap.bytes_now)
    cdef uint64_t private = 0
    if failure().status != MRM_OUT_OF_FRAMES:
        return False
    release(local, &private)
    return mrm_load64(&heap.bytes_now) < before


# ---- small blocks ---------------------------------------------------------------------

cdef void *small(local_t *local, uint32_t number, bint zero) noexcept nogil:
    """A block of a class; NULL, with the failure."""
    cdef page_t *page = local.queue[number]
    cdef void *block = page.free
    if block == NULL:
        if zero and page.flags & PAGE_ZERO and page.fresh < page.end:
            block = page.fresh          # never written to: there is nothing to clear
            page.fresh += page.nbytes
            page.used += 1
            return block
        page = page_with_room(local, number)
        if page == NULL:
            if relieve(local):
                page = page_with_room(local, number)
            if page == NULL:
                return NULL
        block = page.free
    page.free = (<void **>block)[0]
    page.used += 1
    if zero:
        memset(block, 0, page.nbytes)
    return block


cdef uint32_t aligned_class(size_t alignment, size_t nbytes) noexcept nogil:
    """The smallest class whose blocks are aligned and suffice; CLASSES, if there is none."""
    cdef uint32_t number
    if alignment <= GRAIN:
        return class_of(nbytes if nbytes else 1)
    nbytes = (max(nbytes, <size_t>1) + alignment - 1) & ~(alignment - 1)
    if alignment > SLICE_BYTES or nbytes > LARGEST_SMALL:
        return CLASSES
    # Pages begin at a multiple of 32 KiB: a block is aligned if its size is a multiple of that.
    number = class_of(nbytes)
    while number < CLASSES and class_bytes(number) % alignment:
        number += 1
    return number


# ---- any block, without looking for mistakes --------------------------------------------------

cdef void *allocate(heap_t *heap, local_t *local, size_t alignment, size_t nbytes, bint zero) noexcept nogil:
    cdef uint32_t number = CLASSES
    cdef void *block
    if nbytes <= LARGEST_SMALL:
        number = aligned_class(alignment, nbytes)
    if number < CLASSES:
        return small(local, number, zero)
    if nbytes >= MOST_BYTES or alignment >= MOST_BYTES:
        mrm_fail(
            failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, nbytes,
            b"a block of %zu bytes is more than a process can address", max(nbytes, alignment),
        )
        return NULL
    block = runs_allocate(heap, nbytes, alignment, zero)
    if block == NULL and relieve(local):
        block = runs_allocate(heap, nbytes, alignment, zero)
    return block


cdef void *raw_allocate(heap_t *heap, size_t alignment, size_t nbytes, bint zero) noexcept nogil:
    """A block; NULL, with the failure."""
    cdef local_t *local = local_find(heap)
    if local == NULL:
        return NULL
    return allocate(heap, local, alignment, nbytes, zero)


cdef page_t *page_at(heap_t *heap, const void *block) noexcept nogil:
    """The page that an address is the beginning of a block of; NULL, with the failure, if it is none's."""
    cdef uint64_t into = <uint64_t>(<const char *>block - heap.base)
    cdef page_t *page = &heap.pages[into >> SLICE_SHIFT]
    cdef char *memory
    page -= page.back
    memory = heap.base + (<uint64_t>(page - heap.pages) << SLICE_SHIFT)
    if page.nbytes == 0:
        mrm_fail(
            failure(), MRM_BAD_BLOCK, 0, 0, block, 0,
            b"%p is no block of heap %s: nothing is allocated there; it was freed before, or it never was one",
            block, heap.label,
        )
        return NULL
    if <size_t>(<const char *>block - memory) % page.nbytes or <const char *>block >= page.end:
        mrm_fail(
            failure(), MRM_BAD_BLOCK, 0, 0, block, page.nbytes,
            b"%p is no block of heap %s: blocks of %u bytes lie there, and none begins at this address",
            block, heap.label, page.nbytes,
        )
        return NULL
    return page


cdef bint is_small(const heap_t *heap, const void *block) noexcept nogil:
    return <uint64_t>(<const char *>block - heap.base) < heap.nbytes


cdef int refuse_block(const heap_t *heap, const void *block) noexcept nogil:
    return mrm_fail(
        failure(), MRM_BAD_BLOCK, 0, 0, block, 0, b"%p is no block of heap %s: it was never its memory",
        block, heap.label,
    )


cdef int raw_free(heap_t *heap, void *block) noexcept nogil:
    """End a block."""
    cdef local_t *local = local_find(heap)
    cdef page_t *page
    if local == NULL:
        return failure().status
    if not is_small(heap, block):
        return runs_free(heap, block) if runs_contain(heap, block) else refuse_block(heap, block)
    page = page_at(heap, block)
    if page == NULL:
        return failure().status
    if mrm_relaxed(&page.owner) != local:
        local_free_later(local, page, block)
        return MRM_OK
    if page_put(page, block):
        page_freed(local, page)
    return MRM_OK


cdef size_t raw_usable(heap_t *heap, const void *block) noexcept nogil:
    """Bytes that a block has; 0, with the failure, for what is none."""
    cdef page_t *page
    if is_small(heap, block):
        page = page_at(heap, block)
        return page.nbytes if page != NULL else 0
    if runs_contain(heap, block):
        return runs_usable(heap, block)
    refuse_block(heap, block)
    return 0


cdef void *raw_resize(heap_t *heap, void *block, size_t nbytes) noexcept nogil:
    """Make a block larger or smaller; NULL, with the failure, leaves it as it was."""
    cdef local_t *local = local_find(heap)
    cdef void *moved
    cdef size_t had
    if local == NULL:
        return NULL
    had = raw_usable(heap, block)
    if had == 0:
        return NULL
    if had > LARGEST_SMALL and nbytes > LARGEST_SMALL and nbytes < MOST_BYTES and not is_small(heap, block):
        moved = runs_resize(heap, block, nbytes)
        if moved == NULL and relieve(local):
            moved = runs_resize(heap, block, nbytes)
        return moved
    if nbytes <= had and nbytes >= had >> 1 and nbytes:
        return block
    moved = allocate(heap, local, GRAIN, nbytes, False)
    if moved == NULL:
        # A block that suffices stays: who makes one smaller (Lua, say) may count on that.
        return block if nbytes <= had else NULL
    memcpy(moved, block, min(had, nbytes))
    raw_free(heap, block)
    return moved


# ---- what callers call ---------------------------------------------------------------------

cdef void *slow_malloc(heap_t *heap, local_t *local, size_t nbytes) noexcept nogil:
    """malloc, where the page at hand has nothing, or none is."""
    if heap.debug != NULL:
        return heap.debug.allocate(heap, GRAIN, nbytes, False)
    return allocate(heap, local, GRAIN, nbytes, False)


cdef void *slow_calloc(heap_t *heap, local_t *local, size_t count, size_t size) noexcept nogil:
    """calloc."""
    if size and count > <size_t>-1 // size:
        mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"%zu times %zu bytes is more than a size can be", count, size
        )
        return NULL
    if heap.debug != NULL:
        return heap.debug.allocate(heap, GRAIN, count * size, True)
    return allocate(heap, local, GRAIN, count * size, True)


cdef void *slow_realloc(heap_t *heap, void *block, size_t nbytes) noexcept nogil:
    """realloc, where the block cannot stay, or is large."""
    if heap.debug != NULL:
        return heap.debug.resize(heap, block, nbytes)
    if block == NULL:
        return raw_allocate(heap, GRAIN, nbytes, False)
    return raw_resize(heap, block, nbytes)


cdef void *slow_aligned(heap_t *heap, size_t alignment, size_t nbytes) noexcept nogil:
    """A block that is aligned."""
    if alignment == 0 or alignment & (alignment - 1):
        mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, nbytes,
            b"an alignment is a power of two, which %zu is not", alignment,
        )
        return NULL
    if heap.debug != NULL:
        return heap.debug.allocate(heap, alignment, nbytes, False)
    return raw_allocate(heap, alignment, nbytes, False)


cdef int slow_free(heap_t *heap, void *block) noexcept nogil:
    """free, of another thread's block, of a large one, or of none."""
    if block == NULL:
        return MRM_OK
    if heap.debug != NULL:
        return heap.debug.free(heap, block)
    return raw_free(heap, block)


cdef size_t slow_usable_size(heap_t *heap, const void *block) noexcept nogil:
    """Bytes that a block has."""
    if heap.debug != NULL:
        return heap.debug.usable(heap, block)
    return raw_usable(heap, block)
