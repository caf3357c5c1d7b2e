"""Where a thread finds a page with something free, when the one at hand has nothing.

In this order, from what costs least: another page of the queue; pages in which other threads have freed
something meanwhile; free slices of its own segments; what threads that have ended left; a new segment.
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm.heap.orphans cimport orphan_take
from mrm.heap.page cimport segment_t
from mrm.heap.pages cimport page_cut, page_fill, page_first, pages_wake, segment_link
from mrm.heap.segments cimport segment_take


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)


cdef enum:
    ADOPTED = 8                 # orphans that one malloc looks into at the most


cdef page_t *page_at_hand(local_t *local, uint32_t number) noexcept nogil:
    """A page from a segment of the thread's, or from one that lost its thread; or NULL."""
    cdef segment_t *segment = local.open
    cdef page_t *page
    cdef int _tries
    while segment != NULL:
        page = page_cut(local, segment, number)
        if page != NULL:
            return page
        segment = segment.open_next
    for _tries in range(ADOPTED):
        segment = orphan_take(local)
        if segment == NULL:
            break
        page = page_first(local, number)
        if page == NULL and segment.free:
            page = page_cut(local, segment, number)
        if page != NULL:
            return page
    return NULL


cdef page_t *page_new(local_t *local, uint32_t number) noexcept nogil:
    """A page from a segment at hand, or from a new one; NULL, with the failure."""
    cdef page_t *page = page_at_hand(local, number)
    cdef segment_t *segment
    if page != NULL:
        return page
    segment = segment_take(local.heap)
    if segment == NULL:
        # Whoever was told of the shortage may have freed blocks of this heap, and not a whole frame.
        page = page_first(local, number)
        return page if page != NULL else page_at_hand(local, number)
    segment_link(local, segment)
    return page_cut(local, segment, number)


cdef page_t *page_with_room(local_t *local, uint32_t number) noexcept nogil:
    """A page of the class with something free, the first of its queue; NULL, with the failure."""
    cdef page_t *page = page_first(local, number)
    if page == NULL and mrm_load64(&local.notice):
        pages_wake(local)
        page = page_first(local, number)
    if page == NULL:
        page = page_new(local, number)
        if page != NULL and page.free == NULL:
            page_fill(page)
    return page
