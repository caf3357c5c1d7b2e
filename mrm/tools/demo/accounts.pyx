"""The reckoning at the end: every stamp, every word of every pattern, every write.

Mutators checked as they went; this checks all objects, when everyone is at rest. For each
handle, what all mutators have added to shared counters must be what the object there
holds, plus the last values of those that were there before it; and so for the counters of
their own, which must also agree one by one. A write that landed in a copy that nobody uses
any more, or an object that is older than it should be, cannot go unseen.
"""

from libc.stdint cimport uint32_t, uint64_t

from mrm.tools.demo.heap cimport (
    FLAW_GENERATION, FLAW_OWN, FLAW_PATTERN, FLAW_SHARED, FLAW_STALE, FLAW_STAMP, cycle_t, heap_flaw, heap_t, pointer,
    shadow_t, view_of,
)
from mrm.tools.demo.marking cimport mark
from mrm.tools.demo.objects cimport SHARED, object_flaw, object_granules, object_stamped, own_counter


cdef bint _settle_handle(heap_t *heap, uint32_t handle) noexcept nogil:
    """Check one handle's object and its account; False after a flaw was noted."""
    cdef uint64_t reference = heap.handle[handle]
    cdef uint64_t *at = pointer(reference)
    cdef uint64_t owns = 0, shareds = 0, held = heap.finals[handle].own
    cdef uint64_t flaw, own, expected
    cdef uint32_t i, generation
    cdef shadow_t *shadow
    if reference == 0 or view_of(heap, reference) != heap.view.number:
        heap_flaw(heap, FLAW_STALE, heap.mutator_count, handle, 0, heap.view.number, reference)
        return False
    if not object_stamped(at) or (at[0] & 0xFFFFFFFFu) != handle or object_granules(at) != reference >> 56:
        heap_flaw(heap, FLAW_STAMP, heap.mutator_count, handle, 0, handle, at[0])
        return False
    flaw = object_flaw(at, heap.mutator_count, 1)
    if flaw:
        heap_flaw(heap, FLAW_PATTERN, heap.mutator_count, handle, 0, flaw, at[flaw])
        return False
    generation = <uint32_t>(at[0] >> 32)
    for i in range(heap.mutator_count):
        shadow = &heap.mutator[i].shadow[handle]
        if shadow.generation > generation:
            heap_flaw(heap, FLAW_GENERATION, i, handle, 0, shadow.generation, generation)
            return False
        expected = shadow.own if shadow.generation == generation else 0
        own = own_counter(at, heap.mutator_count, i)[0]
        if own != expected:
            heap_flaw(heap, FLAW_OWN, i, handle, 0, expected, own)
            return False
        held += own
        owns += shadow.owns
        shareds += shadow.shareds
    if owns != held:
        heap_flaw(heap, FLAW_OWN, heap.mutator_count, handle, 0, owns, held)
        return False
    if shareds != heap.finals[handle].shared + at[SHARED]:
        heap_flaw(heap, FLAW_SHARED, heap.mutator_count, handle, 0, shareds, heap.finals[handle].shared + at[SHARED])
        return False
    return True


cdef void settle_accounts(heap_t *heap) noexcept nogil:
    """Bring every handle up to date, then check every object. Everyone must be at rest."""
    cdef cycle_t unkept
    cdef uint32_t handle
    unkept.live = 0
    mark(heap, &unkept)
    if heap.flaw.kind:
        return
    for handle in range(heap.handle_count):
        if not _settle_handle(heap, handle):
            return
