"""The stock: free frames that a thread clears ahead of those who want zeros.

The stock is a part of the common list: its frames are free, no account is charged for
them, and whoever finds no others takes them. They come from the top of the bitmap, so that
low runs stay together, and lie in two lists, linked through their records: *dirty* ones,
and *clean* ones, which hold zeros and are nobody's. Frames of the bitmap that hold zeros
anyway go to the clean ones at once.

The thread (zeroing.pyx) moves frames from dirty to clean, one in its hand at a time. It
takes no lock: it runs when a processor has nothing else to do, so it may stand still at any
instruction for as long as others work, and nobody must wait for it meanwhile. The lists are
changed by compare and swap, as stacks are; only who moves frames between them and the
bitmap holds the free lists' lock.

What is left are those who need the very frame that may be in its hand: a taker who was
promised it, as all others are gone; who wants a run, or to inflate, and found too few; who
ends an account, audits, or sets the stock. They wait, without the lock (``stock_pause``). The
thread looks whether anybody waits after every 64 KiB, puts what it has back on the dirty
list, and takes no other until all have what they need.

``turn`` says whether something may be in its hand: it is odd from before a frame leaves the
dirty list until after it has come to a list again. Who counts himself as waiting first and
then sees it even knows that all is in the lists and stays there.

Frames that a deferred alias still shows are left out: a late write through it would not be
cleared.

A pool whose frames are told apart by nodes has a shelf for each node, with the same share of what is
wanted: who wants zeros gets them from where the frame lies that it would have had to clear.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from mrm cimport MRM_NO_MEMORY, MRM_OK
from mrm.physical.bitmap cimport bitmap_give, bitmap_take_high
from mrm.physical.books cimport NOBODY
from mrm.physical.frames cimport frames_owner, shelf_t
from mrm.physical.nodes cimport nodes_place, nodes_t
from mrm.physical.stack cimport (
    NO_FRAME, list_push, mrm_add32, mrm_add64, mrm_load16, mrm_load32, mrm_load64, mrm_store16, mrm_sub32,
    stack_pop,
)
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/atomic.h" nogil:
    void mrm_fence()

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "system/sleep.h" nogil:
    void mrm_sleep(uint32_t *word, uint32_t seen)
    void mrm_wake(uint32_t *word)


cdef enum:
    CHUNK = 256                 # frames that are moved at a time, on the C stack


cdef int stock_open(frames_t *frames) noexcept nogil:
    """Nothing in stock, and no thread; the memory is zeros."""
    cdef uint32_t i
    frames.stock.shelves = 1 if frames.nodes == NULL else frames.nodes.count
    frames.stock.shelf = <shelf_t *>calloc(frames.stock.shelves, sizeof(shelf_t))
    if frames.stock.shelf == NULL:
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, 0, b"no memory for the stock of cleared frames")
    for i in range(frames.stock.shelves):
        frames.stock.shelf[i].below = frames.count
        frames.stock.shelf[i].clean.head = NO_FRAME
        frames.stock.shelf[i].dirty.head = NO_FRAME
    return MRM_OK


cdef void stock_close(frames_t *frames) noexcept nogil:
    """Free the shelves."""
    free(frames.stock.shelf)
    frames.stock.shelf = NULL


cdef uint32_t stock_place(const frames_t *frames, uint32_t frame) noexcept nogil:
    """The shelf that a frame belongs on."""
    return 0 if frames.nodes == NULL else nodes_place(frames.nodes, frame)


# ---- from the bitmap, and back -------------------------------------------------------------

cdef void call_thread(frames_t *frames) noexcept nogil:
    """There is something to clear."""
    mrm_add32(&frames.stock.work, 1)
    mrm_fence()
    if mrm_load32(&frames.stock.sleeping):
        mrm_wake(&frames.stock.work)


cdef uint32_t take_high(frames_t *frames, uint32_t place, uint32_t *chunk, uint32_t n) noexcept nogil:
    """Take up to ``n`` free frames that belong on a shelf, from where it looks on downwards; how many."""
    cdef nodes_t *nodes = frames.nodes
    cdef uint32_t below = frames.stock.shelf[place].below, found = 0, i
    if nodes == NULL:
        return <uint32_t>bitmap_take_high(&frames.bitmap, chunk, n, 0, below)
    i = nodes.begin[place + 1]
    while i > nodes.begin[place] and found == 0:
        i -= 1
        found = <uint32_t>bitmap_take_high(
            &frames.bitmap, chunk, n, nodes.part[i].first, min(below, nodes.part[i].end)
        )
    return found


cdef uint32_t fill(frames_t *frames, uint32_t place, bint whole) noexcept nogil:
    """Fill one shelf up; how many frames came to be cleared."""
    cdef shelf_t *shelf = &frames.stock.shelf[place]
    cdef uint32_t wanted = frames.stock.wanted // frames.stock.shelves
    cdef uint32_t chunk[CHUNK]
    cdef uint32_t i, n, passed, dirtied = 0
    wanted += place < frames.stock.wanted % frames.stock.shelves
    if whole:
        shelf.below = frames.count
    while shelf.count < wanted:
        n = take_high(frames, place, chunk, min(wanted - shelf.count, <uint32_t>CHUNK))
        shelf.below = chunk[n - 1] if n else frames.count
        passed = 0
        for i in range(n):
            if mrm_load16(&frames.frame[chunk[i]].pending):
                chunk[passed] = chunk[i]
                passed += 1
            elif frames_owner(frames, chunk[i]) == NOBODY:
                list_push(frames.frame, &shelf.clean.head, chunk[i], chunk[i])
                mrm_add32(&frames.stock.zeroed, 1)
            else:
                list_push(frames.frame, &shelf.dirty.head, chunk[i], chunk[i])
                dirtied += 1
        shelf.count += n - passed
        frames.stock.count += n - passed
        bitmap_give(&frames.bitmap, chunk, passed)
        if n == 0 or not whole:
            break
    return dirtied


cdef void stock_refill(frames_t *frames, bint whole) noexcept nogil:
    """Take what is missing from the top of the bitmap, as far as there is something.

    One chunk is looked at, unless the ``whole`` is to be: takers and givers come by here
    often, and free frames that must be left out may be many. The next one goes on below.
    """
    cdef uint32_t place, dirtied = 0
    if mrm_load32(&frames.stock.waiting):
        return
    for place in range(frames.stock.shelves):
        dirtied += fill(frames, place, whole)
    if dirtied:
        call_thread(frames)


cdef void count_off(frames_t *frames, uint32_t place) noexcept nogil:
    """A frame has left the stock."""
    frames.stock.shelf[place].count -= 1
    frames.stock.count -= 1


cdef uint32_t stock_take_clean(frames_t *frames, uint32_t place) noexcept nogil:
    """A frame that holds zeros, or NO_FRAME."""
    cdef uint32_t frame = stack_pop(frames.frame, &frames.stock.shelf[place].clean)
    if frame != NO_FRAME:
        mrm_sub32(&frames.stock.zeroed, 1)
        count_off(frames, place)
    return frame


cdef uint32_t stock_take(frames_t *frames, uint32_t place, uint32_t *taken, uint32_t n) noexcept nogil:
    """Up to ``n`` frames for whoever finds no others, dirty ones first; how many."""
    cdef uint32_t found = 0, frame
    while found < n:
        frame = stack_pop(frames.frame, &frames.stock.shelf[place].dirty)
        if frame == NO_FRAME:
            break
        count_off(frames, place)
        taken[found] = frame
        found += 1
    while found < n:
        frame = stock_take_clean(frames, place)
        if frame == NO_FRAME:
            break
        taken[found] = frame
        found += 1
    return found


cdef void stock_withdraw(frames_t *frames) noexcept nogil:
    """Put all that is in stock back into the bitmap, until ``stock_resume``."""
    cdef uint32_t chunk[CHUNK]
    cdef uint32_t n, place
    stock_pause(frames)
    for place in range(frames.stock.shelves):
        n = CHUNK
        while n == CHUNK:
            n = stock_take(frames, place, chunk, CHUNK)
            bitmap_give(&frames.bitmap, chunk, n)


# ---- the thread's hand -------------------------------------------------------------------------

cdef void stock_pause(frames_t *frames) noexcept nogil:
    """Wait until nothing is in the thread's hand, and have it take nothing, until ``stock_resume``."""
    cdef uint32_t turn
    mrm_add32(&frames.stock.waiting, 1)
    mrm_fence()
    turn = mrm_load32(&frames.stock.turn)
    if turn % 2:
        mrm_unlock(&frames.lock)
        while mrm_load32(&frames.stock.turn) == turn:
            mrm_sleep(&frames.stock.turn, turn)
        mrm_lock(&frames.lock)


cdef void stock_resume(frames_t *frames) noexcept nogil:
    """End what ``stock_pause`` or ``stock_withdraw`` began; the last one fills the stock up."""
    cdef uint32_t place
    if mrm_sub32(&frames.stock.waiting, 1):
        return
    stock_refill(frames, True)
    for place in range(frames.stock.shelves):
        if <uint32_t>mrm_load64(&frames.stock.shelf[place].dirty.head) != NO_FRAME:
            call_thread(frames)
            return


cdef uint32_t stock_begin(frames_t *frames) noexcept nogil:
    """A frame to clear, or NO_FRAME; ``stock_end`` comes after it in either case."""
    cdef uint32_t place, frame = NO_FRAME
    mrm_add32(&frames.stock.turn, 1)
    mrm_fence()
    if mrm_load32(&frames.stock.waiting):
        return NO_FRAME
    for place in range(frames.stock.shelves):
        frame = stack_pop(frames.frame, &frames.stock.shelf[place].dirty)
        if frame != NO_FRAME:
            break
    return frame


cdef void stock_end(frames_t *frames, uint32_t frame, bint cleared) noexcept nogil:
    """Put the frame in its list; wake who waits for that."""
    cdef shelf_t *shelf = &frames.stock.shelf[0 if frame == NO_FRAME else stock_place(frames, frame)]
    if frame != NO_FRAME and cleared:
        mrm_store16(&frames.frame[frame].depth, <uint16_t>NOBODY)
        # Counted first: who takes it counts it off.
        mrm_add32(&frames.stock.zeroed, 1)
        mrm_add64(&frames.stock.cleared, 1)
        list_push(frames.frame, &shelf.clean.head, frame, frame)
    elif frame != NO_FRAME:
        list_push(frames.frame, &shelf.dirty.head, frame, frame)
    mrm_add32(&frames.stock.turn, 1)
    mrm_fence()
    if mrm_load32(&frames.stock.waiting):
        mrm_wake(&frames.stock.turn)
