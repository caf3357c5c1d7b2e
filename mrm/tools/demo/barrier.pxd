"""The load barrier, and the copying of objects by whoever needs them first."""

from libc.stdint cimport uint32_t, uint64_t

from mrm.tools.demo.heap cimport evacuation_t, heap_t, mutator_t, room_t, view_of


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    void mrm_store64(uint64_t *p, uint64_t v)


cdef enum:
    AGAIN = 1                   # instead of a reference: pass a checkpoint, and begin the operation anew

cdef uint64_t follow(
    heap_t *heap, room_t *room, uint32_t who, uint32_t view, evacuation_t *gone, uint64_t reference
) noexcept nogil
cdef uint64_t load_stale(heap_t *heap, mutator_t *m, uint32_t handle, uint64_t reference) noexcept nogil


cdef inline void checkpoint(heap_t *heap, mutator_t *m) noexcept nogil:
    """Say that this mutator holds no address, and learn in which view to go on."""
    cdef uint64_t current = mrm_load64(&heap.now)
    if current != m.now:
        m.now = current
        m.view = <uint32_t>current
        mrm_store64(&m.passed, current)


cdef inline uint64_t load(heap_t *heap, mutator_t *m, uint32_t handle, uint64_t *held) noexcept nogil:
    """The object of a handle, in the mutator's view; 0 when there is none; or AGAIN.

    ``held`` is what the handle holds, for the owner's compare-and-swap: others only ever
    bring the reference up to date.
    """
    cdef uint64_t reference = mrm_load64(&heap.handle[handle])
    held[0] = reference
    if reference == 0 or view_of(heap, reference) == m.view:
        return reference
    reference = load_stale(heap, m, handle, reference)
    held[0] = mrm_load64(&heap.handle[handle])
    return reference
