"""Where segments come from, and go back to: frames of a pool, or private memory.

On a pool a segment is a frame, and its address is the frame's in the window, which is mapped for the
pool's life: taking and giving one costs no system call, and no shootdown. Whoever else uses the pool
has a frame as soon as the heap has done with it.

A private heap has a range of addresses, of which segments are used from the lowest on. They are memory of
the process's own, which a child gets a copy of, as with malloc. Those that are given back wait, with
their pages, for who takes the next; ``segments_trim`` has the kernel take the pages, and leaves
zeros.

A heap may have no more than its limit. It is charged for each segment and slot before it has it.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from mrm cimport MRM_OK, MRM_OUT_OF_FRAMES, MRM_REUSE_NOW
from mrm.heap.page cimport ALL_SLICES, SEGMENT_BYTES, SEGMENT_NONE, SEGMENT_SHIFT, SEGMENT_USED, mrm_set_owner
from mrm.physical.taking cimport account_take, pool_give
from mrm.system.calls cimport CALL_MPROTECT, advise, call
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.room cimport ROOM_TEXT, why_private_refused


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    bint mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ, PROT_WRITE, MADV_DONTNEED

cdef extern from "<string.h>" nogil:
    char *strerror(int error)


cdef enum:
    STEP = 16                   # segments that become writable at a time where each byte that is costs a promise


# ---- what the heap has -----------------------------------------------------------------

cdef bint heap_charge(heap_t *heap, uint64_t nbytes) noexcept nogil:
    """Count memory that the heap is about to have; whether its limit allows it."""
    cdef uint64_t now = mrm_load64(&heap.bytes_now)
    cdef uint64_t peak
    while True:
        if nbytes > heap.limit or now > heap.limit - nbytes:
            mrm_fail(
                failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, nbytes,
                b"heap %s has %llu KiB of the %llu KiB that its limit allows, and needs %llu KiB more: free blocks, or "
                b"open it with a higher limit", heap.label, <unsigned long long>(now >> 10),
                <unsigned long long>(heap.limit >> 10), <unsigned long long>(nbytes >> 10),
            )
            return False
        if mrm_cas64(&heap.bytes_now, &now, now + nbytes):
            break
    now += nbytes
    peak = mrm_load64(&heap.bytes_peak)
    while now > peak and not mrm_cas64(&heap.bytes_peak, &peak, now):
        pass
    return True


cdef void heap_uncharge(heap_t *heap, uint64_t nbytes) noexcept nogil:
    """Count memory off that the heap has no more."""
    mrm_add64(&heap.bytes_now, <uint64_t>-<int64_t>nbytes)


# ---- a pool's ----------------------------------------------------------------------

cdef segment_t *_from_pool(heap_t *heap) noexcept nogil:
    cdef uint32_t frame
    if account_take(heap.pool, heap.account, heap.how, &frame) != MRM_OK:
        return NULL
    heap.segments[frame].zero = 0
    return &heap.segments[frame]


# ---- private ones --------------------------------------------------------------------

cdef bint _cover(heap_t *heap, uint32_t number) noexcept nogil:
    """Have segments up to this one writable; the lock is held."""
    cdef uint32_t n
    cdef int64_t got
    cdef char text[ROOM_TEXT]
    if number < heap.writable:
        return True
    n = min(<uint32_t>STEP, heap.segment_count - heap.writable)
    got = call(
        CALL_MPROTECT, <int64_t>(heap.base + (<uint64_t>heap.writable << SEGMENT_SHIFT)),
        <int64_t>n << SEGMENT_SHIFT, PROT_READ | PROT_WRITE,
    )
    if got < 0:
        mrm_fail(
            failure(), MRM_OUT_OF_FRAMES, CALL_MPROTECT, <int>-got, heap.base, <size_t>n << SEGMENT_SHIFT,
            b"heap %s cannot have %u MiB more (mprotect: %s): free memory elsewhere.%s", heap.label, n * 2,
            strerror(<int>-got), why_private_refused(<int>-got, <size_t>n << SEGMENT_SHIFT, text),
        )
        return False
    heap.writable += n
    return True


cdef segment_t *_private(heap_t *heap) noexcept nogil:
    cdef segment_t *segment = NULL
    mrm_lock(&heap.lock)
    if heap.spare_count:
        heap.spare_count -= 1
        segment = &heap.segments[heap.spare[heap.spare_count]]
        segment.zero = 0
    elif heap.clean_count:
        heap.clean_count -= 1
        segment = &heap.segments[heap.clean[heap.clean_count]]
        segment.zero = ALL_SLICES
    elif heap.fresh < heap.segment_count:
        if _cover(heap, heap.fresh):
            segment = &heap.segments[heap.fresh]
            segment.zero = ALL_SLICES
            heap.fresh += 1
    else:
        mrm_fail(
            failure(), MRM_OUT_OF_FRAMES, 0, 0, heap.base, heap.nbytes,
            b"heap %s has used all %llu GiB of its addresses: open another one", heap.label,
            <unsigned long long>(heap.nbytes >> 30),
        )
    mrm_unlock(&heap.lock)
    return segment


# ---- either ----------------------------------------------------------------------------

cdef segment_t *segment_take(heap_t *heap) noexcept nogil:
    """A segment with all slices free, nobody's yet; NULL, with the failure."""
    cdef segment_t *segment
    if not heap_charge(heap, SEGMENT_BYTES):
        return NULL
    segment = _from_pool(heap) if heap.pool != NULL else _private(heap)
    if segment == NULL:
        heap_uncharge(heap, SEGMENT_BYTES)
        return NULL
    segment.number = <uint32_t>(segment - heap.segments)
    segment.free = ALL_SLICES
    segment.state = SEGMENT_USED
    return segment


cdef void segment_give(heap_t *heap, segment_t *segment) noexcept nogil:
    """Give a segment back that has no page any more, and is in no list."""
    segment.state = SEGMENT_NONE
    mrm_set_owner(&segment.owner, NULL)     # a thread that freed a block may just be looking whom to tell
    segment.free = 0
    heap_uncharge(heap, SEGMENT_BYTES)
    if heap.pool != NULL:
        pool_give(heap.pool, segment.number, MRM_REUSE_NOW)
        return
    mrm_lock(&heap.lock)
    heap.spare[heap.spare_count] = segment.number
    heap.spare_count += 1
    mrm_unlock(&heap.lock)


cdef uint64_t segments_trim(heap_t *heap) noexcept nogil:
    """Give the kernel the pages of private segments that nobody uses; how many bytes that were."""
    cdef uint64_t trimmed = 0
    cdef uint32_t number
    if heap.pool != NULL:
        return 0
    mrm_lock(&heap.lock)
    while heap.spare_count:
        number = heap.spare[heap.spare_count - 1]
        if advise(heap.base + (<uint64_t>number << SEGMENT_SHIFT), SEGMENT_BYTES, MADV_DONTNEED) < 0:
            break               # they stay, and serve as they are
        heap.spare_count -= 1
        heap.clean[heap.clean_count] = number
        heap.clean_count += 1
        trimmed += SEGMENT_BYTES
    mrm_unlock(&heap.lock)
    return trimmed
