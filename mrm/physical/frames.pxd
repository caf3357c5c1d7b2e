"""Every frame's state, and the free lists that they are taken from."""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from mrm cimport MRM_FRAME_READY, MRM_FRAME_RELEASED
from mrm.physical.bitmap cimport bitmap_t
from mrm.physical.books cimport books_t
from mrm.physical.ledger cimport figures_t, ledger_t
from mrm.physical.nodes cimport nodes_t
from mrm.physical.stack cimport NO_FRAME, STATE_BITS, frame_t, mrm_cpu, mrm_load16, mrm_load32, stack_t


# What is in stock of one node, or of all where frames are not told apart by nodes.
cdef struct shelf_t:
    stack_t clean               # as lists: neither depth nor watermarks
    stack_t dirty
    uint32_t count              # in both and in the thread's hand; under the lock
    uint32_t below              # where the next refill looks on in the bitmap, downwards; under the lock


# Free frames that are held ready for who wants zeros, and the thread that clears them (stock.pyx,
# zeroing.pyx). Atomic, but for what the lock of the free lists guards.
cdef struct stock_t:
    uint32_t wanted             # frames that it is to have; under the lock
    uint32_t count              # on all shelves, and in the thread's hand; under the lock
    uint32_t shelves            # one for each node of frames.nodes, or one
    uint32_t zeroed             # in the lists of clean ones
    uint32_t waiting            # who want that nothing is in its hand
    uint32_t turn               # odd while something may be
    uint32_t work               # goes up when there is something to clear
    uint32_t sleeping           # whether the thread waits for that
    uint32_t stop               # whether it is to end
    uint32_t state              # of the thread: NO_THREAD, STARTING, RUNNING, REFUSED (zeroing.pyx)
    int32_t refused             # why it is not there: an errno
    uint32_t door               # lock of starting and stopping
    uint64_t thread             # pthread_t
    uint64_t cleared            # frames that it cleared so far
    uint64_t cleared_late       # frames that takers cleared
    uint64_t apart[16]
    shelf_t *shelf


cdef struct frames_t:
    uint32_t count              # frames there are
    uint32_t stack_count        # stacks of an account: processors that there can be
    uint32_t cpu_shift          # log2 of numbers of stacks from one account to the next
    uint32_t frame_shift        # log2 of bytes of a frame
    frame_t *frame
    stack_t *stacks
    char *contents              # where frame 0 can be cleared; NULL where there is no memory
    ledger_t *ledger            # the memory that stacks, records, accounts, funds and figures lie in
    figures_t *figures
    nodes_t *nodes              # which frames are near whom; NULL where that is no matter
    uint64_t apart[16]          # what is above is read by every call and never written
    uint32_t lock               # of the common list and the books, and of every verdict that too few are free
    uint32_t retiring           # lock of the strict list's sorting
    bitmap_t bitmap             # free frames that no account is charged for
    bitmap_t balloon            # frames without memory
    uint32_t poisoned           # frames in quarantine
    uint32_t moving             # frames on their way into the balloon or out of it, which nothing lists
    uint64_t strict             # head of the strict list, as a stack's
    uint32_t strict_count       # frames in it
    books_t books
    uint64_t apart_too[16]
    stock_t stock
    uint64_t end[16]            # what follows is on lines of its own


# Counts by state; the first six add up to the frames there are.
cdef struct frame_counts_t:
    uint64_t ready
    uint64_t released
    uint64_t strict
    uint64_t held
    uint64_t inflated
    uint64_t poisoned
    uint64_t mapped             # held and shown by a reservation
    uint64_t pending            # deferred aliases


cdef int frames_open(
    frames_t *frames, uint32_t count, uint32_t funded, uint32_t frame_shift, const char *name, bint reserve,
    nodes_t *nodes,
) noexcept nogil
cdef void frames_open_stacks(frames_t *frames, uint32_t account) noexcept nogil
cdef void frames_close(frames_t *frames) noexcept nogil

# All of these are thread-safe; taking one frame takes no lock while the
# processor's own stack serves. The account exists; how is MRM_OVERDRAFT, MRM_ZEROED, both or 0.
# With LATER, frames_take gives LATER back where it would have to clear a frame, with that frame, which
# frames_take_cleared has to go on with; or where it would have to wait, with NO_FRAME.
cdef int frames_take(frames_t *frames, uint32_t account, int how, uint32_t *frame) noexcept nogil
cdef int frames_take_cleared(frames_t *frames, uint32_t account, uint32_t *frame) noexcept nogil
cdef size_t frames_available(frames_t *frames, uint32_t account, int how) noexcept nogil
cdef int frames_take_many(
    frames_t *frames, uint32_t account, int how, uint32_t *taken, size_t n
) noexcept nogil
cdef int frames_take_run(
    frames_t *frames, uint32_t account, int how, uint32_t n, uint32_t *first
) noexcept nogil


cdef enum:
    LARGE = 64                  # frames from which on an array passes the stacks by
    LATER = 1 << 8              # of how
    ONE_MAPPING = 1 << 8        # of a frame's status


cdef inline uint32_t frames_state(const frames_t *frames, uint32_t frame) noexcept nogil:
    """State of a frame, MRM_FRAME_RELEASED included."""
    cdef uint32_t state = mrm_load32(&frames.frame[frame].status) & STATE_BITS
    if state == MRM_FRAME_READY and mrm_load16(&frames.frame[frame].pending):
        return MRM_FRAME_RELEASED
    return state


cdef inline uint32_t frames_mappings(const frames_t *frames, uint32_t frame) noexcept nogil:
    """How many slots show a frame, deferred aliases not counted."""
    return mrm_load32(&frames.frame[frame].status) // ONE_MAPPING


cdef inline uint32_t frames_owner(const frames_t *frames, uint32_t frame) noexcept nogil:
    """The account that a frame which is in no stack was last charged to."""
    return mrm_load16(&frames.frame[frame].depth) >> frames.cpu_shift


cdef inline stack_t *own_stack(const frames_t *frames, uint32_t account) noexcept nogil:
    """The account's stack for the processor that this thread runs on.

    Processors with numbers beyond those that were foreseen share stacks with others.
    """
    cdef uint32_t cpu = mrm_cpu()
    if cpu >= frames.stack_count:
        cpu %= frames.stack_count
    return &frames.stacks[(account << frames.cpu_shift) + cpu]
