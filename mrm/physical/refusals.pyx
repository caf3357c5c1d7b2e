"""What is said when a frame cannot be taken, given or mapped.

Each function fills this thread's failure record and returns the status, so that a
caller ends with ``return refuse_...(...)``. A sentence names the frame, says what it
is instead, and the way out. Other threads go on meanwhile: the figures are those of
the moment at which they are read.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdio cimport snprintf

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_BAD_FRAME, MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_POISONED, MRM_FRAME_READY,
    MRM_FRAME_RELEASED, MRM_FRAME_STRICT, MRM_NO_ADDRESSES, MRM_OUT_OF_FRAMES, MRM_OVERDRAFT,
    MRM_REUSE_AFTER_RETIRE, MRM_REUSE_NOW,
)
from mrm.physical.books cimport NO_FUND, POOL_ACCOUNT, available, account_t, books_t
from mrm.physical.frames cimport frames_mappings, frames_state, frames_t
from mrm.physical.showing cimport MAX_MAPPINGS, MAX_PENDING
from mrm.physical.stack cimport mrm_load32
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef const char *word_for(uint32_t state) noexcept nogil:
    """A frame's state as people say it."""
    if state == MRM_FRAME_READY:
        return b"ready"
    if state == MRM_FRAME_RELEASED:
        return b"released"
    if state == MRM_FRAME_STRICT:
        return b"strict"
    if state == MRM_FRAME_INFLATED:
        return b"in the balloon"
    if state == MRM_FRAME_POISONED:
        return b"in quarantine, as its memory is broken"
    return b"held"


cdef int refuse_frame(
    const frames_t *frames, uint32_t frame, const char *place, const char *deed
) noexcept nogil:
    """Say why ``frame`` cannot have ``deed`` done to it; ``place`` is where it stands."""
    cdef uint32_t state
    if frame >= frames.count:
        return mrm_fail(
            failure(), MRM_BAD_FRAME, 0, 0, NULL, 0,
            "%sframe %u cannot be %s: this pool has frames 0 to %u; is it another pool's?",
            place, frame, deed, frames.count - 1,
        )
    state = frames_state(frames, frame)
    if state == MRM_FRAME_HELD:
        return mrm_fail(
            failure(), MRM_BAD_FRAME, 0, 0, NULL, 0,
            "%sframe %u cannot be %s: slots that show it: %u; unmap those first",
            place, frame, deed, frames_mappings(frames, frame),
        )
    return mrm_fail(
        failure(), MRM_BAD_FRAME, 0, 0, NULL, 0,
        "%sframe %u cannot be %s: it is %s, not held; it was never taken, or has been given already: "
        "who takes a frame gives it, once, and uses it no more",
        place, frame, deed, word_for(state),
    )


cdef int refuse_in_array(const frames_t *frames, const uint32_t *given, size_t i) noexcept nogil:
    """Say why ``given[i]`` cannot be given; those before it are still claimed."""
    cdef char place[40]
    cdef size_t j
    snprintf(place, sizeof(place), "at index %zu: ", i)
    for j in range(i):
        if given[j] == given[i]:
            return mrm_fail(
                failure(), MRM_BAD_FRAME, 0, 0, NULL, 0,
                "%sframe %u cannot be given: it is in the array twice, at index %zu too; name every frame once",
                place, given[i], j,
            )
    return refuse_frame(frames, given[i], place, b"given")


cdef int refuse_quarantine(const frames_t *frames, uint32_t frame) noexcept nogil:
    """Say why a frame cannot be taken out of use for good."""
    cdef uint32_t state
    cdef const char *way = b"somebody else gets it at this moment: quarantine it when he has given it back"
    if frame >= frames.count:
        return refuse_frame(frames, frame, b"", b"taken out of use")
    state = frames_state(frames, frame)
    if state == MRM_FRAME_HELD:
        return refuse_frame(frames, frame, b"", b"taken out of use")
    if state == MRM_FRAME_STRICT:
        way = b"retire first"
    elif state == MRM_FRAME_INFLATED:
        way = b"it has no memory that could be broken"
    elif state == MRM_FRAME_POISONED:
        way = b"nothing more is to be done"
    return mrm_fail(
        failure(), MRM_BAD_FRAME, 0, 0, NULL, 0, "frame %u cannot be taken out of use: it is %s; %s", frame,
        word_for(state), way,
    )


cdef int refuse_mapping(uint32_t frame) noexcept nogil:
    """Say that as many slots show ``frame`` as can be counted."""
    return mrm_fail(
        failure(), MRM_BAD_FRAME, 0, 0, NULL, 0,
        "frame %u cannot be mapped: %u slots show it, which is the most; unmap some of them",
        frame, <uint32_t>MAX_MAPPINGS,
    )


cdef int refuse_alias(uint32_t frame) noexcept nogil:
    """Say that ``frame`` has as many deferred aliases as can be counted."""
    return mrm_fail(
        failure(), MRM_NO_ADDRESSES, 0, 0, NULL, 0,
        "frame %u cannot have its unmapping deferred: %u deferred aliases show it, which is the most; "
        "retire the reservations that keep them",
        frame, <uint32_t>MAX_PENDING,
    )


cdef void holders(const books_t *books, char *text, size_t nbytes) noexcept nogil:
    """Who has how many frames, as far as it fits: ``'heap' 12 (of 16), 'pool' 3``."""
    cdef const account_t *account
    cdef size_t used = 0
    cdef uint32_t i
    text[0] = 0
    for i in range(POOL_ACCOUNT, books.accounts):
        account = &books.account[i]
        if not account.open or used + 80 > nbytes:
            continue
        used += snprintf(
            text + used, nbytes - used, b"%s'%s' %u", b", " if used else b"", account.name, account.charged
        )
        if account.balance.now:
            used += snprintf(text + used, nbytes - used, b" (of %u)", account.balance.now)


cdef int refuse_promise(const frames_t *frames, uint32_t number, int how, size_t n, size_t found) noexcept nogil:
    """Say that an account was not promised ``n`` frames, only ``found``."""
    cdef const account_t *account = &frames.books.account[number]
    cdef char holding[400]
    cdef char balloon[40]
    cdef const char *way = b"give frames back, fund() the account, or open a larger pool"
    cdef int status
    mrm_lock(<uint32_t *>&frames.lock)
    holders(&frames.books, holding, sizeof(holding))
    if account.charged + n > account.maximum.now:
        way = b"give frames back, or raise its limit"
    elif account.overdraft != NO_FUND and not how & MRM_OVERDRAFT and not account.lends:
        if available(&frames.books.fund[account.overdraft]) >= n:
            way = b"give frames back, fund() the account, or allow overdraft"
    status = mrm_fail(
        failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, 0,
        "of %zu frames asked for, account '%s' can have %zu: its balance is %u, its limit %u, and it has %u; "
        "frames held, free in stacks, or strict: %s; of the pool's %u, %u are available from its fund%s; %s",
        n, account.name, found, account.balance.now, account.maximum.now, account.charged,
        holding, frames.count, available(&frames.books.fund[account.committed]),
        in_balloon(frames.balloon.free + frames.moving, balloon, sizeof(balloon)), way,
    )
    mrm_unlock(<uint32_t *>&frames.lock)
    return status


cdef const char *in_balloon(uint32_t inflated, char *text, size_t nbytes) noexcept nogil:
    """How many frames have no memory, if some have none, to end a list with."""
    text[0] = 0
    if inflated:
        snprintf(text, nbytes, b", and %u in the balloon", inflated)
    return text


cdef int refuse_take(const frames_t *frames, uint32_t account, int how, size_t n, size_t found) noexcept nogil:
    """Say that of ``n`` frames only ``found`` are free for an account."""
    cdef uint32_t strict = mrm_load32(&frames.strict_count), inflated
    cdef char balloon[40]
    cdef int64_t held = <int64_t>frames.count - <int64_t>found - strict
    if mrm_load32(&frames.books.accounts) > POOL_ACCOUNT + 1:
        return refuse_promise(frames, account, how, n, found)
    mrm_lock(<uint32_t *>&frames.lock)
    inflated = frames.balloon.free + frames.moving
    held -= inflated + frames.poisoned
    mrm_unlock(<uint32_t *>&frames.lock)
    return mrm_fail(
        failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, 0,
        "of %zu frames asked for, %zu are free: this pool has %u, and of these %u are held and %u strict%s; "
        "give frames back, retire to make strict ones ready, %s",
        n, found, frames.count, <uint32_t>max(held, <int64_t>0), strict, in_balloon(inflated, balloon, sizeof(balloon)),
        b"or deflate" if inflated else b"or open a larger pool",
    )


cdef int refuse_run(const frames_t *frames, uint32_t n, uint32_t longest, uint32_t free) noexcept nogil:
    """Say that the ``longest`` run of free frames is shorter than ``n``."""
    return mrm_fail(
        failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, 0,
        "of a run of %u frames asked for, %u are free: this pool has %u, and of these %u are free, but scattered; "
        "take single ones and map them side by side, or give neighbours back",
        n, longest, frames.count, free,
    )


cdef int refuse_reuse(int reuse) noexcept nogil:
    """Say that ``reuse`` is neither of the two."""
    return mrm_fail(
        failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
        "reuse is MRM_REUSE_NOW (%d) or MRM_REUSE_AFTER_RETIRE (%d), not %d",
        <int>MRM_REUSE_NOW, <int>MRM_REUSE_AFTER_RETIRE, reuse,
    )
