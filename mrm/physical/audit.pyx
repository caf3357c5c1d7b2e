"""The frames counted, and the proof that none is lost.

The audit walks every stack, the strict list and the bitmap, ticks off each frame that
it meets, and then asks of each whether its place fits its state: a ready one is in a
stack or in the bitmap, a strict one in the list, one without memory in the balloon,
a held or broken one nowhere, and none is in two places. On the way it counts what each
account has, which has to be what it is charged for; and funds have to add up to the pool,
and balances to their funds.

What it says is exact while nobody takes or gives. In a busy pool a frame
may move from one place to another between the two looks, and be reported falsely; but
the walks end in any case, because none ticks a frame off twice.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from mrm cimport (
    MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_POISONED, MRM_FRAME_READY, MRM_FRAME_RELEASED, MRM_FRAME_STRICT,
    MRM_INCONSISTENT, MRM_NO_MEMORY, MRM_OK,
)
from mrm.physical.bitmap cimport bitmap_check, bitmap_has
from mrm.physical.books cimport POOL_ACCOUNT, books_check
from mrm.physical.frames cimport (
    NO_FRAME, frame_counts_t, frames_mappings, frames_owner, frames_state, frames_t,
)
from mrm.physical.stack cimport STATE_BITS, mrm_load16, mrm_load32, mrm_load64, stack_depth, stack_t
from mrm.physical.stock cimport stock_pause, stock_resume
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef void frames_count(const frames_t *frames, frame_counts_t *counts) noexcept nogil:
    """Count the frames by state, one after the other."""
    cdef uint32_t frame, state
    counts.ready = counts.released = counts.strict = counts.held = counts.mapped = counts.pending = 0
    counts.inflated = counts.poisoned = 0
    for frame in range(frames.count):
        state = frames_state(frames, frame)
        if state == MRM_FRAME_READY:
            counts.ready += 1
        elif state == MRM_FRAME_RELEASED:
            counts.released += 1
        elif state == MRM_FRAME_STRICT:
            counts.strict += 1
        elif state == MRM_FRAME_INFLATED:
            counts.inflated += 1
        elif state == MRM_FRAME_POISONED:
            counts.poisoned += 1
        else:
            counts.held += 1
            counts.mapped += frames_mappings(frames, frame) != 0
        counts.pending += mrm_load16(&frames.frame[frame].pending)


cdef int lost(uint32_t frame, const char *what) noexcept nogil:
    """Say what is wrong with a frame."""
    return mrm_fail(
        failure(), MRM_INCONSISTENT, 0, 0, NULL, 0,
        "the books of the frames do not balance: frame %u %s; if no thread was taking or giving frames "
        "meanwhile, this is a defect of mrm, or its memory was overwritten",
        frame, what,
    )


cdef int tick_off(
    const frames_t *frames, uint64_t head, uint32_t status, uint8_t *ticked, uint32_t *ticks
) noexcept nogil:
    """Tick off every frame of a list, all of which should have ``status``."""
    cdef uint32_t frame = <uint32_t>head
    ticks[0] = 0
    while frame != NO_FRAME:
        if mrm_load32(&frames.frame[frame].status) & STATE_BITS != status:
            return lost(frame, b"is in a free list that does not fit its state")
        if ticked[frame // 8] >> frame % 8 & 1:
            return lost(frame, b"is in two free lists, or twice in one")
        ticked[frame // 8] |= 1 << frame % 8
        ticks[0] += 1
        frame = mrm_load32(&frames.frame[frame].next)
    return MRM_OK


cdef int check_stacks(const frames_t *frames, uint32_t account, uint8_t *ticked, uint32_t *had) noexcept nogil:
    """Tick off what is in an account's stacks, and count it."""
    cdef stack_t *stack
    cdef uint32_t i, ticks
    cdef uint64_t head
    cdef int status
    for i in range(frames.stack_count):
        stack = &frames.stacks[(account << frames.cpu_shift) + i]
        head = mrm_load64(&stack.head)
        status = tick_off(frames, head, MRM_FRAME_READY, ticked, &ticks)
        if status != MRM_OK:
            return status
        if ticks != stack_depth(frames.frame, stack):
            return lost(<uint32_t>head, b"is on top of a stack of another depth than is recorded")
        had[0] += ticks
    return MRM_OK


cdef int check_lists(const frames_t *frames, uint8_t *ticked, uint32_t *had) noexcept nogil:
    """Tick off what is in the stacks and in the strict list, and check how many that is."""
    cdef uint32_t i, ticks
    cdef uint64_t head
    cdef int status
    for i in range(POOL_ACCOUNT, frames.books.accounts):
        if frames.books.account[i].open:
            status = check_stacks(frames, i, ticked, &had[i])
            if status != MRM_OK:
                return status
    head = mrm_load64(&frames.strict)
    status = tick_off(frames, head, MRM_FRAME_STRICT, ticked, &ticks)
    if status == MRM_OK and ticks != mrm_load32(&frames.strict_count):
        return lost(<uint32_t>head, b"is first in a strict list of another length than is recorded")
    return status


cdef int check_stock(const frames_t *frames, uint8_t *ticked) noexcept nogil:
    """Tick off what is in stock, none of it in the thread's hand, and check how many that is."""
    cdef uint32_t clean, dirty, i, zeroed = 0, total = 0
    cdef uint64_t head = NO_FRAME
    cdef int status
    for i in range(frames.stock.shelves):
        head = mrm_load64(&frames.stock.shelf[i].clean.head)
        status = tick_off(frames, head, MRM_FRAME_READY, ticked, &clean)
        if status != MRM_OK:
            return status
        head = mrm_load64(&frames.stock.shelf[i].dirty.head)
        status = tick_off(frames, head, MRM_FRAME_READY, ticked, &dirty)
        if status != MRM_OK:
            return status
        if clean + dirty != frames.stock.shelf[i].count:
            return lost(<uint32_t>head, b"and others are on a shelf of another size than is recorded")
        zeroed += clean
        total += clean + dirty
    if zeroed != mrm_load32(&frames.stock.zeroed):
        return lost(<uint32_t>head, b"is first of another number of cleared ones than is recorded")
    if total != frames.stock.count:
        return lost(<uint32_t>head, b"and others are in a stock of another size than is recorded")
    return MRM_OK


cdef int check_places(const frames_t *frames, const uint8_t *ticked, uint32_t *had) noexcept nogil:
    """Check every frame's place against its state; ``ticked`` are those in lists.

    Adds those that are held or strict to what their accounts ``had``.
    """
    cdef uint32_t frame, state, in_bitmap = 0, in_balloon = 0, moving = 0, poisoned = 0
    cdef bint listed, mapped, ballooned
    for frame in range(frames.count):
        listed = ticked[frame // 8] >> frame % 8 & 1
        mapped = bitmap_has(&frames.bitmap, frame)
        in_bitmap += mapped
        ballooned = bitmap_has(&frames.balloon, frame)
        in_balloon += ballooned
        state = mrm_load32(&frames.frame[frame].status) & STATE_BITS
        if listed and mapped:
            return lost(frame, b"is in a free list and in the bitmap too")
        if (state == MRM_FRAME_INFLATED) != ballooned and (ballooned or frames.moving == 0):
            return lost(frame, b"is in the balloon and has memory, or is not and has none")
        if state == MRM_FRAME_INFLATED:
            if listed or mapped or frames_mappings(frames, frame):
                return lost(frame, b"is in the balloon, and yet free or shown")
            moving += not ballooned
        elif state == MRM_FRAME_POISONED:
            if listed or mapped or frames_mappings(frames, frame):
                return lost(frame, b"is in quarantine, and yet free or shown")
            poisoned += 1
        elif state == MRM_FRAME_HELD:
            if listed or mapped:
                return lost(frame, b"is held, and yet free")
            had[frames_owner(frames, frame)] += 1
        elif frames_mappings(frames, frame):
            return lost(frame, b"is free, and yet shown by a slot")
        elif state == MRM_FRAME_STRICT:
            if not listed:
                return lost(frame, b"is strict, and not in the list of those")
            had[frames_owner(frames, frame)] += 1
        elif not (listed or mapped):
            return lost(frame, b"is ready, and in no free list")
    if in_bitmap != frames.bitmap.free:
        return lost(0, b"and all others in the bitmap are not as many as is recorded")
    if poisoned != frames.poisoned:
        return lost(0, b"and all others in quarantine are not as many as is recorded")
    if in_balloon != frames.balloon.free or moving != frames.moving:
        return lost(0, b"and all others in the balloon are not as many as is recorded")
    return MRM_OK


cdef int check_books(const frames_t *frames, const uint32_t *had) noexcept nogil:
    """Check what the books say against what accounts ``had``, and against themselves."""
    cdef uint32_t i, number
    cdef const char *wrong
    for i in range(POOL_ACCOUNT, frames.books.accounts):
        if had[i] != frames.books.account[i].charged:
            return mrm_fail(
                failure(), MRM_INCONSISTENT, 0, 0, NULL, 0,
                "the books of the frames do not balance: account '%s' has %u frames and is charged for %u; if no "
                "thread was taking or giving frames meanwhile, this is a defect of mrm, or its memory was overwritten",
                frames.books.account[i].name, had[i], frames.books.account[i].charged,
            )
    wrong = books_check(&frames.books, frames.count - frames.balloon.free - frames.moving - frames.poisoned, &number)
    if wrong != NULL:
        return mrm_fail(
            failure(), MRM_INCONSISTENT, 0, 0, NULL, 0,
            "the books of the frames do not balance: fund '%s' %s; this is a defect of mrm, or its memory was "
            "overwritten", frames.books.fund[number].name, wrong,
        )
    return MRM_OK


cdef int frames_audit(frames_t *frames, frame_counts_t *counts) noexcept nogil:
    """Prove that every frame is in exactly one place, and count them by state."""
    cdef size_t bits = (<size_t>frames.count // 8 + 4) & ~<size_t>3
    # A number of frames for every account that a record can name, those that are none included.
    cdef uint8_t *ticked = <uint8_t *>calloc(1, bits + (<size_t>1 << 16 >> frames.cpu_shift) * sizeof(uint32_t))
    cdef uint32_t *had = <uint32_t *>(ticked + bits)
    cdef int64_t wrong
    cdef int status
    if ticked == NULL:
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 0, NULL, frames.count // 8 + 1,
            "no memory to audit %u frames: a bit for each", frames.count,
        )
    # What may have to wait for the thread that clears frames comes before the lock of retires.
    mrm_lock(&frames.lock)
    stock_pause(frames)
    mrm_unlock(&frames.lock)
    mrm_lock(&frames.retiring)
    mrm_lock(&frames.lock)
    status = check_lists(frames, ticked, had)
    if status == MRM_OK:
        status = check_stock(frames, ticked)
    if status == MRM_OK:
        status = check_places(frames, ticked, had)
    if status == MRM_OK:
        wrong = bitmap_check(&frames.bitmap)
        if wrong < 0:
            wrong = bitmap_check(&frames.balloon)
        if wrong >= 0:
            status = lost(<uint32_t>wrong, b"is the first below a summary that is wrong")
    if status == MRM_OK:
        status = check_books(frames, had)
    stock_resume(frames)
    mrm_unlock(&frames.lock)
    mrm_unlock(&frames.retiring)
    free(ticked)
    frames_count(frames, counts)
    return status
