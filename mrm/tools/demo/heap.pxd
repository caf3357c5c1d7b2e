"""The heap of the demo: references, handles, frames, forwarding, and who has passed."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from mrm cimport mrm_layout
from mrm.physical.pool cimport pool_t
from mrm.space.views cimport view_t
from mrm.tools.demo.latency cimport latency_t


cdef enum:
    CHUNK = 1 << 16             # what a copier claims of the destination frame at a time
    NONE = 0xFFFFFFFFu          # no frame


# What a frame is used for.
cdef enum:
    FRAME_FREE = 0              # the pool's
    FRAME_OPEN = 1              # objects are still being put into it
    FRAME_CLOSED = 2            # full: may be evacuated in a cycle whose marking begins after this


# Where a frame that is being evacuated has got to.
cdef enum:
    PENDING = 0                 # its objects are used in place, its references stay stale
    ACTIVE = 1                  # whoever needs an object first copies it
    DONE = 2                    # all forwarded; the frame may be in use for something else


# A frame of the evacuation set of a cycle, and where its objects went. Outlives the
# frame's contents, until no handle is stale any more.
cdef struct evacuation_t:
    uint32_t frame
    uint32_t state              # PENDING, ACTIVE, DONE
    uint32_t live               # bytes
    uint32_t objects
    uint64_t *marks             # the frame's, as they were when it was chosen
    uint64_t *forward           # reference to each live object's copy, by rank; 0: not yet copied
    uint16_t *ranks             # live objects before each word of marks


# Where a copier puts copies: a chunk of the destination, which only it fills.
cdef struct room_t:
    uint64_t at                 # address of the next copy, in view `view`
    uint64_t end
    uint32_t view               # number of the view in which it was claimed
    uint32_t unused
    uint64_t copied             # objects that this thread moved
    uint64_t bytes              # ... and what they came to
    uint64_t lost               # copies thrown away: another thread was first


# What a mutator knows about a handle's object, to hold against what it reads.
cdef struct shadow_t:
    uint32_t generation         # of the object last seen
    uint32_t own                # additions of this mutator to that one's own counter
    uint32_t owns               # ... to own counters of this handle, all generations
    uint32_t shareds            # ... to shared counters of this handle, all generations


# Last values of the counters of a handle's dropped objects, summed; written by its owner.
cdef struct finals_t:
    uint64_t own
    uint64_t shared


cdef struct mutator_t:
    uint64_t passed             # the heap's `now` when it last passed a checkpoint
    uint64_t unused[15]         # the relocator polls that line, and only that one
    uint64_t now                # the heap's `now` that it works by
    uint32_t view               # ... and the view in it
    uint32_t number
    uint64_t random
    uint32_t frame              # that it allocates in, or NONE
    uint32_t bump               # ... from this offset on
    shadow_t *shadow            # by handle
    room_t room
    # Counted.
    uint64_t steps, reads, writes, replaced, refused
    uint64_t healed             # references that it brought up to date
    uint64_t in_place           # objects used in a frame whose evacuation was still to come
    uint64_t again              # operations begun again: the object was frozen, dropped or newer
    uint64_t worst_lately       # longest operation since the display last asked, ns
    uint64_t blocked            # times that the thread slept in the kernel
    uint64_t calls              # system calls of mrm
    latency_t all               # every operation
    latency_t own               # ... less the time in which others had the processor


# What a cycle did and how long its parts took.
cdef struct cycle_t:
    uint64_t begun              # ns
    uint64_t mark               # ns to walk every handle, heal it, and count what is live
    uint64_t settle             # ns until every mutator had passed, so that old forwarding could go
    uint64_t open               # ns to open the next view and link its page tables
    uint64_t flip               # ns until every mutator worked in it
    uint64_t retire             # ns to retire the old view
    uint64_t relocate           # ns to empty the sparse frames
    uint64_t slowest            # longest wait for a checkpoint, ns
    uint32_t live_objects
    uint32_t sparse             # frames evacuated
    uint32_t empty              # frames in which nothing lived
    uint32_t batches            # ... each let its frames go by one checkpoint
    uint64_t copied             # bytes, by whomever
    uint64_t live               # bytes


# The first thing that was wrong.
cdef struct flaw_t:
    uint32_t kind               # FLAW_..., 0: none
    uint32_t who                # mutator, or their number for the relocator
    uint32_t handle
    uint32_t unused
    uint64_t step
    uint64_t expected
    uint64_t found


cdef enum:
    FLAW_NONE = 0
    FLAW_STAMP                  # no object where a handle points, or another handle's
    FLAW_PATTERN                # a word of the pattern changed
    FLAW_OWN                    # a mutator's own counter is not what it wrote: a write was lost
    FLAW_SHARED                 # a shared counter is not the sum of what was written
    FLAW_GENERATION             # an older object came back
    FLAW_UNMARKED               # an object was reached that marking had not seen
    FLAW_NO_ROOM                # the destination was too small for what was live
    FLAW_STUCK                  # an operation did not come to an end
    FLAW_STALE                  # a handle that no cycle brought up to date
    FLAW_NO_TRAP                # a retired view could still be read
    FLAW_ENGINE                 # mrm refused something


cdef enum:
    SABOTAGE_NONE = 0
    SABOTAGE_BARRIER = 1        # mutators recolour references into active frames, and do not follow
    SABOTAGE_FREEZE = 2         # copiers do not freeze what they copy


cdef struct heap_t:
    uint64_t now                # handshakes so far << 32 | number of the view; one word, so that both agree
    uint64_t unused[15]
    uint64_t claimed            # chunks that copiers have claimed of `into`
    uint32_t into[2]            # frames copied into, the second one after the first; or NONE
    uint64_t unused_too[14]
    uint32_t stop               # mutators: come to an end
    uint32_t finish             # relocator: end with this cycle
    pool_t *pool
    mrm_layout layout
    uint32_t handle_count
    uint32_t mutator_count
    uint32_t sabotage
    uint32_t jitter             # one operation in so many yields the processor half way; 0: none
    uint64_t *handle            # the table: a reference each, or 0
    finals_t *finals            # by handle
    mutator_t **mutator
    # By frame.
    uint8_t *use                # FRAME_...
    evacuation_t **evacuating   # NULL: not in the evacuation set
    uint64_t *marks             # a bit per granule at which a live object begins
    uint32_t *live              # bytes
    uint32_t *objects
    uint8_t *candidate          # closed when marking began
    # The relocator's.
    view_t *view                # the current one
    view_t *retired             # the one before it, until no handle shows it any more
    evacuation_t *set           # the evacuation set: frames, most sparse first
    void *forwarding            # memory of their marks, ranks and entries
    size_t forwarding_size      # bytes of it
    uint32_t set_count
    int trap[2]                 # a pipe: writing from a stale address must fail
    room_t room
    # Counted.
    uint64_t calls              # system calls of mrm, made by the relocator
    uint64_t cycles, flips, sparse, empty, batches, checkpoints, copied, traps
    uint64_t slowest            # longest wait for a checkpoint, ns
    cycle_t *history            # the first HISTORY cycles
    flaw_t flaw


cdef enum:
    HISTORY = 1 << 16


cdef extern from *:
    """
    #define DEMO_ADDRESS ((1ull << 56) - 1)
    #define DEMO_GONE (~0ull)
    """
    # `passed` of a mutator that has ended: it holds up nobody.
    const uint64_t GONE "DEMO_GONE"
    const uint64_t ADDRESS "DEMO_ADDRESS"


# A reference: an object's address in some view, and its size in granules in the top byte.

cdef inline uint64_t *pointer(uint64_t reference) noexcept nogil:
    return <uint64_t *>(reference & ADDRESS)


cdef inline uint32_t view_of(const heap_t *heap, uint64_t reference) noexcept nogil:
    return <uint32_t>(((reference & ADDRESS) - heap.layout.base) >> heap.layout.stride_shift)


cdef inline uint32_t frame_of(const heap_t *heap, uint64_t reference) noexcept nogil:
    return <uint32_t>((reference >> heap.layout.frame_shift) & heap.layout.frame_mask)


cdef inline uint32_t offset_of(const heap_t *heap, uint64_t reference) noexcept nogil:
    return <uint32_t>(reference & (heap.layout.frame_size - 1))


cdef inline uint64_t address_in(const heap_t *heap, uint32_t view, uint32_t frame) noexcept nogil:
    return (
        heap.layout.base + (<uint64_t>view << heap.layout.stride_shift)
        + (<uint64_t>frame << heap.layout.frame_shift)
    )


cdef inline uint64_t recolour(const heap_t *heap, uint64_t reference, uint32_t view) noexcept nogil:
    """The same place, seen in another view."""
    return (
        (reference & ~ADDRESS) | (address_in(heap, view, frame_of(heap, reference)) + offset_of(heap, reference))
    )


cdef int heap_open(
    heap_t **opened, pool_t *pool, uint32_t handles, uint32_t mutators, uint64_t seed, uint32_t sabotage,
    uint32_t jitter
) noexcept nogil
cdef void *cleared(size_t nbytes) noexcept nogil
cdef void heap_close(heap_t *heap) noexcept nogil
cdef void heap_flaw(
    heap_t *heap, uint32_t kind, uint32_t who, uint32_t handle, uint64_t step, uint64_t expected, uint64_t found
) noexcept nogil
cdef uint64_t room_take(heap_t *heap, room_t *room, uint32_t view, uint64_t nbytes) noexcept nogil
cdef uint64_t room_bound(const heap_t *heap, uint64_t chunks) noexcept nogil
