"""What reservations do to frames: counts of the slots that show one, and what strict frames wait for.

A frame that a slot shows cannot be given: the count lies above the state in the same
word, so that one compare and swap sees both. A *deferred alias* is an old address that
still shows its frame, counted apart, until a retire takes it away.

A strict frame remembers the number of the retire that it waits for. That number goes up
when a retire begins, not when it ends: what is given in between may have been
unmapped after the invalidation, and has to wait for the next. Until then its account
is charged for it, as if it were held: others' promises are kept by frames that are ready.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from mrm cimport MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_READY, MRM_OK
from mrm.physical.common cimport common_give
from mrm.physical.ledger cimport ledger_line
from mrm.physical.refusals cimport refuse_alias, refuse_frame, refuse_mapping
from mrm.physical.stack cimport (
    NO_FRAME, STATE_BITS, list_push, list_take_all, mrm_add64, mrm_cas16, mrm_cas32, mrm_load16, mrm_load32,
    mrm_store32, mrm_sub16, mrm_sub32,
)
from mrm.system.events cimport events_on, line_begin, line_end, line_number, line_t


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    CHUNK = 256                 # frames that are moved at a time, on the C stack


# ---- shown by slots ----------------------------------------------------------------------

cdef int frames_map(frames_t *frames, uint32_t frame) noexcept nogil:
    """Count one more slot that shows a frame; it has to be held."""
    cdef uint32_t status
    if frame >= frames.count:
        return refuse_frame(frames, frame, b"", b"mapped")
    status = mrm_load32(&frames.frame[frame].status)
    while True:
        if status % ONE_MAPPING != MRM_FRAME_HELD:
            return refuse_frame(frames, frame, b"", b"mapped")
        if status // ONE_MAPPING == MAX_MAPPINGS:
            return refuse_mapping(frame)
        if mrm_cas32(&frames.frame[frame].status, &status, status + ONE_MAPPING):
            return MRM_OK


cdef void frames_unmap(frames_t *frames, uint32_t frame) noexcept nogil:
    """Count one slot less that shows a frame."""
    mrm_sub32(&frames.frame[frame].status, ONE_MAPPING)


cdef int frames_defer(frames_t *frames, uint32_t frame) noexcept nogil:
    """Count one deferred alias more; the slot stays counted until frames_unmap.

    In this order the frame cannot be given before it would be seen as released.
    """
    cdef uint16_t pending = mrm_load16(&frames.frame[frame].pending)
    while True:
        if pending == MAX_PENDING:
            return refuse_alias(frame)
        if mrm_cas16(&frames.frame[frame].pending, &pending, pending + 1):
            return MRM_OK


cdef int frames_look(frames_t *frames, uint32_t frame, bint *counted) noexcept nogil:
    """Note that somebody looks at a frame through its window; it keeps its memory then.

    A held one does anyhow. A free one is counted as if an old address showed it, until
    ``frames_settle``: under the lock under which the balloon looks at that count.
    """
    cdef uint32_t state
    cdef int status = MRM_OK
    counted[0] = False
    mrm_lock(&frames.lock)
    state = mrm_load32(&frames.frame[frame].status) & STATE_BITS
    if state == MRM_FRAME_INFLATED:
        status = refuse_frame(frames, frame, b"", b"looked at")
    elif state != MRM_FRAME_HELD:
        status = frames_defer(frames, frame)
        counted[0] = status == MRM_OK
    mrm_unlock(&frames.lock)
    return status


cdef void frames_settle(frames_t *frames, uint32_t frame) noexcept nogil:
    """Count one deferred alias less: its address shows the frame no more."""
    mrm_sub16(&frames.frame[frame].pending, 1)


# ---- retire --------------------------------------------------------------------------------

cdef uint64_t frames_retire_begin(frames_t *frames) noexcept nogil:
    """Number of a retire that begins: frames given strictly until now wait for it."""
    return mrm_add64(&frames.figures.epoch, 1) - 1


cdef void frames_retire_end(frames_t *frames, uint64_t begun) noexcept nogil:
    """Make the strict frames ready that were given before ``begun`` and that nothing shows."""
    cdef uint32_t ready[CHUNK]
    cdef uint32_t frame, next, first = NO_FRAME, last = NO_FRAME, total = 0
    cdef int32_t waits          # retires begun between the one it waits for and this one
    cdef size_t n = 0
    # One at a time: while the list is taken apart here, another retire would miss
    # the frames that it has to make ready.
    mrm_lock(&frames.retiring)
    next = list_take_all(&frames.strict)
    while next != NO_FRAME:
        frame = next
        next = frames.frame[frame].next
        # Numbers are kept in 32 bits, and compared as if they went round.
        waits = <int32_t>(<uint32_t>begun - frames.frame[frame].epoch)
        if waits >= 0 and mrm_load16(&frames.frame[frame].pending) == 0:
            mrm_store32(&frames.frame[frame].status, MRM_FRAME_READY)
            ready[n] = frame
            n += 1
        else:
            if last == NO_FRAME:
                first = frame
            else:
                mrm_store32(&frames.frame[last].next, frame)
            last = frame
        if n == CHUNK or (n and next == NO_FRAME):
            mrm_lock(&frames.lock)
            common_give(frames, ready, n, False, False)
            mrm_sub32(&frames.strict_count, <uint32_t>n)
            mrm_unlock(&frames.lock)
            total += <uint32_t>n
            n = 0
    if first != NO_FRAME:
        list_push(frames.frame, &frames.strict, first, last)
    mrm_unlock(&frames.retiring)
    if events_on():
        log_retire(frames, begun, total)


cdef void log_retire(const frames_t *frames, uint64_t begun, uint32_t ready) noexcept nogil:
    """An event: a retire has ended, by which so many frames became ready."""
    cdef line_t line
    line_begin(&line, b"retire")
    ledger_line(frames.ledger, &line)
    line_number(&line, b"retire", <int64_t>begun + 1)
    line_number(&line, b"ready", ready)
    line_end(&line)
