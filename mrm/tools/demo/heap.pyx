"""The heap's tables: opened with everything in its place, closed with every frame given back.

The table of handles is the only way to an object. A handle holds a reference: an address
in one of the pool's views, and the object's size. The number of the view is the colour of
the reference: it says up to which cycle it has been corrected (barrier.pyx).

Copies go into what is left of the last destination, and then into the spare, the one
frame that is held back. Each copier claims a chunk of them at a time, by one atomic
addition, and fills it alone. So a copy that comes second is taken back by moving the
thread's own pointer back, and wastes nothing. What can be copied for certain is therefore
known beforehand (room_bound), and no more than that is begun: no copier ever finds the
destination full, and none has to wait for room.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memset

from mrm cimport MRM_NO_MEMORY, MRM_OK, MRM_REUSE_NOW
from mrm.physical.pool cimport pool_release, pool_retain, pool_t
from mrm.physical.taking cimport pool_give, pool_take
from mrm.space.views cimport view_close, view_open
from mrm.system.failure cimport failure, mrm_fail
from mrm.tools.demo.objects cimport GRANULE_SHIFT, MOST_GRANULES, mix


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    void mrm_store32(uint32_t *p, uint32_t v)
    int mrm_cas32(uint32_t *p, uint32_t *expected, uint32_t v)

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int pipe(int *ends)


cdef void *cleared(size_t nbytes) noexcept nogil:
    """Zeroed memory on cache lines of its own, all of it touched.

    Fresh memory that is read before it is written, as calloc's may be, costs a shootdown a
    page: the kernel first shows its page of zeros there, and then takes it away again.
    """
    cdef size_t whole = (nbytes + 127) & ~<size_t>127
    cdef void *memory = aligned_alloc(128, whole)
    if memory != NULL:
        memset(memory, 0, whole)
    return memory


cdef bint _tables(heap_t *heap, uint64_t seed) noexcept nogil:
    """Everything that is sized by handles, frames and mutators; False when memory ran out."""
    cdef size_t frames = heap.layout.frame_count
    cdef size_t granules = heap.layout.frame_size >> GRANULE_SHIFT
    cdef uint32_t i
    cdef mutator_t *m
    heap.handle = <uint64_t *>cleared(heap.handle_count * sizeof(uint64_t))
    heap.finals = <finals_t *>cleared(heap.handle_count * sizeof(finals_t))
    heap.mutator = <mutator_t **>cleared(heap.mutator_count * sizeof(mutator_t *))
    heap.use = <uint8_t *>cleared(frames * sizeof(uint8_t))
    heap.evacuating = <evacuation_t **>cleared(frames * sizeof(evacuation_t *))
    heap.marks = <uint64_t *>cleared(frames * granules // 8)
    heap.live = <uint32_t *>cleared(frames * sizeof(uint32_t))
    heap.objects = <uint32_t *>cleared(frames * sizeof(uint32_t))
    heap.candidate = <uint8_t *>cleared(frames * sizeof(uint8_t))
    heap.set = <evacuation_t *>cleared(frames * sizeof(evacuation_t))
    heap.history = <cycle_t *>cleared(HISTORY * sizeof(cycle_t))
    if (
        heap.handle == NULL or heap.finals == NULL or heap.mutator == NULL or heap.use == NULL
        or heap.evacuating == NULL or heap.marks == NULL or heap.live == NULL
        or heap.objects == NULL or heap.candidate == NULL or heap.set == NULL or heap.history == NULL
    ):
        return False
    for i in range(heap.mutator_count):
        m = <mutator_t *>cleared(sizeof(mutator_t))
        heap.mutator[i] = m
        if m == NULL:
            return False
        m.shadow = <shadow_t *>cleared(heap.handle_count * sizeof(shadow_t))
        if m.shadow == NULL:
            return False
        m.number = i
        m.frame = NONE
        m.random = mix(seed * MOST_GRANULES + i + 1) | 1
    return True


cdef int heap_open(
    heap_t **opened, pool_t *pool, uint32_t handles, uint32_t mutators, uint64_t seed, uint32_t sabotage,
    uint32_t jitter
) noexcept nogil:
    """A heap without objects: one view open, one spare frame held back, nobody at work."""
    cdef heap_t *heap = <heap_t *>cleared(sizeof(heap_t))
    cdef int status = MRM_OK
    cdef uint32_t i
    if heap == NULL:
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(heap_t), b"no memory for the demo's tables")
    pool_retain(pool)
    heap.pool = pool
    heap.layout = pool.layout
    heap.handle_count = handles
    heap.mutator_count = mutators
    heap.sabotage = sabotage
    heap.jitter = jitter
    heap.into[0] = heap.into[1] = NONE
    if pipe(heap.trap) < 0 or not _tables(heap, seed):
        status = mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 12, NULL, handles * sizeof(uint64_t),
            b"no memory for the demo's tables of %u handles", handles,
        )
    if status == MRM_OK:
        status = pool_take(pool, &heap.into[0])
    if status == MRM_OK:
        status = view_open(pool, &heap.view)
    if status != MRM_OK:
        heap_close(heap)
        return status
    heap.use[heap.into[0]] = FRAME_OPEN
    heap.now = heap.view.number
    for i in range(mutators):
        heap.mutator[i].passed = heap.mutator[i].now = heap.now
        heap.mutator[i].view = heap.view.number
    opened[0] = heap
    return MRM_OK


cdef void heap_close(heap_t *heap) noexcept nogil:
    """Give every frame back and end the views. Nobody may be at work any more."""
    cdef uint32_t i
    if heap.use != NULL:
        for i in range(heap.layout.frame_count):
            if heap.use[i] != FRAME_FREE:
                pool_give(heap.pool, i, MRM_REUSE_NOW)
    if heap.retired != NULL:
        view_close(heap.retired)
    if heap.view != NULL:
        view_close(heap.view)
    if heap.mutator != NULL:
        for i in range(heap.mutator_count):
            if heap.mutator[i] != NULL:
                free(heap.mutator[i].shadow)
                free(heap.mutator[i])
    if heap.trap[1]:
        close(heap.trap[0])
        close(heap.trap[1])
    free(heap.handle)
    free(heap.finals)
    free(heap.mutator)
    free(heap.use)
    free(heap.evacuating)
    free(heap.marks)
    free(heap.live)
    free(heap.objects)
    free(heap.candidate)
    free(heap.set)
    free(heap.forwarding)
    free(heap.history)
    pool_release(heap.pool)
    free(heap)


cdef void heap_flaw(
    heap_t *heap, uint32_t kind, uint32_t who, uint32_t handle, uint64_t step, uint64_t expected, uint64_t found
) noexcept nogil:
    """Note what is wrong, if it is the first thing, and bring the run to an end."""
    cdef uint32_t none = FLAW_NONE
    if mrm_cas32(&heap.flaw.kind, &none, kind):
        heap.flaw.who = who
        heap.flaw.handle = handle
        heap.flaw.step = step
        heap.flaw.expected = expected
        heap.flaw.found = found
    mrm_store32(&heap.stop, 1)
    mrm_store32(&heap.finish, 1)


cdef uint64_t room_bound(const heap_t *heap, uint64_t chunks) noexcept nogil:
    """Bytes of objects that surely fit into ``chunks`` of the destination, whoever copies what.

    A chunk that a copier has left behind is full but for less than one object; each copier
    has one more that may be all but empty. The copiers are the mutators and the relocator.
    """
    cdef uint64_t partial = heap.mutator_count + 1
    if chunks <= partial:
        return 0
    return (chunks - partial) * (CHUNK - (MOST_GRANULES << GRANULE_SHIFT))


cdef uint64_t room_take(heap_t *heap, room_t *room, uint32_t view, uint64_t nbytes) noexcept nogil:
    """The address, in ``view``, for a copy of ``nbytes``; 0 when there is no room.

    A chunk claimed in an earlier cycle is left: its frame may be about to be evacuated.
    """
    cdef uint64_t chunks = heap.layout.frame_size // CHUNK
    cdef uint64_t claim
    if room.view != view or room.end - room.at < nbytes:
        claim = mrm_add64(&heap.claimed, 1) - 1
        if claim >= 2 * chunks or heap.into[claim // chunks] == NONE:
            return 0
        room.view = view
        room.at = address_in(heap, view, heap.into[claim // chunks]) + claim % chunks * CHUNK
        room.end = room.at + CHUNK
    room.at += nbytes
    return room.at - nbytes
