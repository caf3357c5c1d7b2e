"""Blocks: malloc, free and their kin, from any thread, without the GIL.

Here is what they do nearly always; the rest is in slow.pyx, a module of its own, so that no compiler
puts it in between. A thread finds its part of the heap by the heap's slot in thread-local memory, which is
one load; the page, by the size; and a block, as the first on the page's list. A block is freed by
putting it on the list of its page, which its address tells, if the page is this thread's.

Sizes are those of calls: nothing here is larger than what a program may ask for, and what overflows is
refused (a calloc of 2**32 times 2**32, say) before anything is done.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from mrm cimport MRM_OK
from mrm.heap.classes cimport DIRECT, LARGEST_SMALL, class_of
from mrm.heap.local cimport local_find, local_free_later, locals_tell
from mrm.heap.page cimport SLICE_SHIFT, mrm_relaxed, page_put, page_t
from mrm.heap.pages cimport page_freed
from mrm.heap.slow cimport slow_aligned, slow_calloc, slow_free, slow_malloc, slow_realloc, slow_usable_size
from mrm.heap.state cimport heap_t, local_t


cdef extern from "system/atomic.h" nogil:
    bint likely "MRM_LIKELY"(bint condition)
    bint unlikely "MRM_UNLIKELY"(bint condition)

cdef extern from * nogil:
    """
    /* Found by the offset that the loader chose, which is a load and not a call. 64 bytes of what every
       process keeps ready for modules that are loaded late. A slot that nothing was found for has a
       local_t that is no heap's: all zeros. */
    static const uint64_t mrm_nobodys[8];
    #define MRM_NOBODYS ((void *)mrm_nobodys)
    static _Thread_local void *mrm_found[8] __attribute__((tls_model("initial-exec"))) = {
        MRM_NOBODYS, MRM_NOBODYS, MRM_NOBODYS, MRM_NOBODYS, MRM_NOBODYS, MRM_NOBODYS, MRM_NOBODYS, MRM_NOBODYS,
    };
    static inline void *mrm_found_get(uint32_t slot) { return mrm_found[slot & 7]; }
    static inline void mrm_found_set(uint32_t slot, void *local) { mrm_found[slot & 7] = local; }
    static void mrm_found_forget(void) { for (int i = 0; i < 8; i++) mrm_found[i] = MRM_NOBODYS; }
    """
    void *mrm_found_get(uint32_t slot)
    void mrm_found_set(uint32_t slot, void *local)
    void mrm_found_forget() noexcept


cdef local_t *found(heap_t *heap) noexcept nogil:
    """This thread's part of the heap, kept for the next time; NULL, with the failure."""
    cdef local_t *local = local_find(heap)
    if local != NULL:
        mrm_found_set(heap.number, local)
    return local


cdef void *heap_malloc(heap_t *heap, size_t nbytes) noexcept nogil:
    """A block of so many bytes or more, aligned to 16; NULL, with the failure, if there is no memory."""
    cdef local_t *local = <local_t *>mrm_found_get(heap.number)
    cdef page_t *page
    cdef void *block
    if unlikely(local.heap != heap):
        if heap.debug == NULL:
            local = found(heap)
            if local == NULL:
                return NULL
        return slow_malloc(heap, local, nbytes)
    if likely(nbytes <= (DIRECT - 1) * 16):
        page = local.direct[(nbytes + 15) >> 4]
    elif nbytes <= LARGEST_SMALL:
        page = local.queue[class_of(nbytes)]
    else:
        return slow_malloc(heap, local, nbytes)
    block = page.free
    if likely(block != NULL):
        page.free = (<void **>block)[0]
        page.used += 1
        return block
    return slow_malloc(heap, local, nbytes)


cdef int heap_free(heap_t *heap, void *block) noexcept nogil:
    """End a block; NULL is none. Refuses what is none of the heap's, or no block, where that costs nothing to see."""
    cdef uint64_t into = <uint64_t>(<char *>block - heap.base)
    cdef local_t *local = <local_t *>mrm_found_get(heap.number)
    cdef page_t *page
    if unlikely(into >= heap.nbytes):
        return slow_free(heap, block)
    page = &heap.pages[into >> SLICE_SHIFT]
    page -= page.back
    if unlikely(mrm_relaxed(&page.owner) != local):
        if likely(local.heap == heap and page.nbytes):
            local_free_later(local, page, block)
            return MRM_OK
        return slow_free(heap, block)
    if unlikely(page_put(page, block)):
        page_freed(local, page)
    return MRM_OK


cdef void *heap_calloc(heap_t *heap, size_t count, size_t size) noexcept nogil:
    """A block of count times size zero bytes; NULL, with the failure."""
    cdef local_t *local = <local_t *>mrm_found_get(heap.number)
    if unlikely(local.heap != heap) and heap.debug == NULL:
        local = found(heap)
        if local == NULL:
            return NULL
    return slow_calloc(heap, local, count, size)


cdef void *heap_realloc(heap_t *heap, void *block, size_t nbytes) noexcept nogil:
    """Make a block larger or smaller: in place, or by moving it. NULL, with the failure, leaves it as it was."""
    cdef uint64_t into = <uint64_t>(<char *>block - heap.base)
    cdef page_t *page
    cdef void *moved
    cdef size_t had
    if likely(into < heap.nbytes) and heap.debug == NULL:
        page = &heap.pages[into >> SLICE_SHIFT]
        page -= page.back
        had = page.nbytes
        # It stays where it is unless that wastes half of it.
        if likely(nbytes <= had) and nbytes >= had >> 1 and likely(nbytes):
            return block
        if likely(had) and nbytes > had and nbytes <= LARGEST_SMALL:
            moved = heap_malloc(heap, nbytes)
            if likely(moved != NULL):
                memcpy(moved, block, had)
                heap_free(heap, block)
            return moved
    return slow_realloc(heap, block, nbytes)


cdef void *heap_aligned(heap_t *heap, size_t alignment, size_t nbytes) noexcept nogil:
    """A block at a multiple of ``alignment``, a power of two; NULL, with the failure."""
    return slow_aligned(heap, alignment, nbytes)


cdef size_t heap_usable_size(heap_t *heap, const void *block) noexcept nogil:
    """Bytes that a block has, which are at least what was asked for; 0 for what is none of the heap's."""
    return slow_usable_size(heap, block)


cdef void *heap_lua_alloc(void *heap, void *block, size_t osize, size_t nsize) noexcept nogil:
    """The same as one function, as Lua wants it (lua_Alloc): the first argument is the heap."""
    if nsize == 0:
        heap_free(<heap_t *>heap, block)
        return NULL
    if block == NULL:
        return heap_malloc(<heap_t *>heap, nsize)
    return heap_realloc(<heap_t *>heap, block, nsize)


locals_tell(mrm_found_forget)
