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
"""

from libc.stdint cimport uint16_t, uint32_t

from mrm.physical.bitmap cimport bitmap_give, bitmap_take_high
from mrm.physical.books cimport NOBODY
from mrm.physical.frames cimport frames_owner
from mrm.physical.stack cimport (
    NO_FRAME, list_push, mrm_add32, mrm_add64, mrm_load16, mrm_load32, mrm_load64, mrm_store16, mrm_sub32,
    stack_pop,
)


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


cdef void stock_open(frames_t *frames) noexcept nogil:
    """Nothing in stock, and no thread; the memory is zeros."""
    frames.stock.below = frames.count
    frames.stock.clean.head = NO_FRAME
    frames.stock.dirty.head = NO_FRAME


# ---- from the bitmap, and back -------------------------------------------------------------

cdef void call_thread(frames_t *frames) noexcept nogil:
    """There is something to clear."""
    mrm_add32(&frames.stock.work, 1)
    mrm_fence()
    if mrm_load32(&frames.stock.sleeping):
        mrm_wake(&frames.stock.work)


cdef void stock_refill(frames_t *frames, bint whole) noexcept nogil:
    """Take what is missing from the top of the bitmap, as far as there is something.

    One chunk is looked at, unless the ``whole`` is to be: takers and givers come by here
    often, and free frames that must be left out may be many. The next one goes on below.
    """
    cdef uint32_t chunk[CHUNK]
    cdef uint32_t i, n, passed, dirtied = 0
    if mrm_load32(&frames.stock.waiting):
        return
    if whole:
        frames.stock.below = frames.count
    while frames.stock.count < frames.stock.wanted:
        n = <uint32_t>bitmap_take_high(
            &frames.bitmap, chunk, min(frames.stock.wanted - frames.stock.count, <uint32_t>CHUNK), frames.stock.below
        )
        frames.stock.below = chunk[n - 1] if n else frames.count
        passed = 0
        for i in range(n):
            if mrm_load16(&frames.frame[chunk[i]].pending):
                chunk[passed] = chunk[i]
                passed += 1
            elif frames_owner(frames, chunk[i]) == NOBODY:
                list_push(frames.frame, &frames.stock.clean.head, chunk[i], chunk[i])
                mrm_add32(&frames.stock.zeroed, 1)
            else:
                list_push(frames.frame, &frames.stock.dirty.head, chunk[i], chunk[i])
                dirtied += 1
        frames.stock.count += n - passed
        bitmap_give(&frames.bitmap, chunk, passed)
        if n == 0 or not whole:
            break
    if dirtied:
        call_thread(frames)


cdef uint32_t stock_take_clean(frames_t *frames) noexcept nogil:
    """A frame that holds zeros, or NO_FRAME."""
    cdef uint32_t frame = stack_pop(frames.frame, &frames.stock.clean)
    if frame != NO_FRAME:
        mrm_sub32(&frames.stock.zeroed, 1)
        frames.stock.count -= 1
    return frame


cdef uint32_t stock_take(frames_t *frames, uint32_t *taken, uint32_t n) noexcept nogil:
    """Up to ``n`` frames for whoever finds no others, dirty ones first; how many."""
    cdef uint32_t found = 0, frame
    while found < n:
        frame = stack_pop(frames.frame, &frames.stock.dirty)
        if frame == NO_FRAME:
            break
        frames.stock.count -= 1
        taken[found] = frame
        found += 1
    while found < n:
        frame = stock_take_clean(frames)
        if frame == NO_FRAME:
            break
        taken[found] = frame
        found += 1
    return found


cdef void stock_withdraw(frames_t *frames) noexcept nogil:
    """Put all that is in stock back into the bitmap, until ``stock_resume``."""
    cdef uint32_t chunk[CHUNK]
    cdef uint32_t n
    stock_pause(frames)
    while True:
        n = stock_take(frames, chunk, CHUNK)
        if n == 0:
            return
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
    if mrm_sub32(&frames.stock.waiting, 1):
        return
    stock_refill(frames, True)
    if <uint32_t>mrm_load64(&frames.stock.dirty.head) != NO_FRAME:
        call_thread(frames)


cdef uint32_t stock_begin(frames_t *frames) noexcept nogil:
    """A frame to clear, or NO_FRAME; ``stock_end`` comes after it in either case."""
    mrm_add32(&frames.stock.turn, 1)
    mrm_fence()
    if mrm_load32(&frames.stock.waiting):
        return NO_FRAME
    return stack_pop(frames.frame, &frames.stock.dirty)


cdef void stock_end(frames_t *frames, uint32_t frame, bint cleared) noexcept nogil:
    """Put the frame in its list; wake who waits for that."""
    if frame != NO_FRAME and cleared:
        mrm_store16(&frames.frame[frame].depth, <uint16_t>NOBODY)
        # Counted first: who takes it counts it off.
        mrm_add32(&frames.stock.zeroed, 1)
        mrm_add64(&frames.stock.cleared, 1)
        list_push(frames.frame, &frames.stock.clean.head, frame, frame)
    elif frame != NO_FRAME:
        list_push(frames.frame, &frames.stock.dirty.head, frame, frame)
    mrm_add32(&frames.stock.turn, 1)
    mrm_fence()
    if mrm_load32(&frames.stock.waiting):
        mrm_wake(&frames.stock.turn)
