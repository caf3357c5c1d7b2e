"""Giving frames back: the other half of frames.pyx, which says how the free lists are made.

A frame is claimed first, by the compare-and-swap that says whether it may be given at all; from then
on it is this thread's, to put where it belongs. That is the stack that it was taken from, whose
number its record keeps. The common list gets it instead where the account was lent something, or
passes its promises on (``common``), where the array is large, and, of the coldest, when the stack
has grown deep. A frame that waits for a retire goes to the strict list, whoever had it.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t

from mrm cimport (
    MRM_FRAME_HELD, MRM_FRAME_READY, MRM_FRAME_STRICT, MRM_OK, MRM_REUSE_AFTER_RETIRE, MRM_REUSE_NOW,
)
from mrm.physical.common cimport books_begin, books_end, common_give, common_return
from mrm.physical.frames cimport LARGE, frames_owner, own_stack
from mrm.physical.near cimport near_home
from mrm.physical.refusals cimport refuse_frame, refuse_in_array, refuse_reuse
from mrm.physical.stack cimport (
    list_push, mrm_add32, mrm_cas32, mrm_load16, mrm_load32, mrm_load64, mrm_store32, stack_pop_many, stack_push,
    stack_t,
)


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    DEEP = 128                  # frames that a stack may keep; beyond, half of them go
    CHUNK = 256                 # frames that are moved at a time, on the C stack


cdef void spill(frames_t *frames, stack_t *stack) noexcept nogil:
    """Move the colder half of a stack that has grown deep to the common list."""
    cdef uint32_t account = <uint32_t>(stack - frames.stacks) >> frames.cpu_shift
    cdef uint32_t popped[CHUNK]
    cdef size_t n
    mrm_lock(&frames.lock)
    books_begin(frames, &frames.books.account[account])
    n = stack_pop_many(frames.frame, stack, popped, DEEP, CHUNK)
    if n:
        stack_push(frames.frame, stack, popped, DEEP // 2)
        common_return(frames, account, popped + DEEP // 2, n - DEEP // 2)
    books_end(frames, &frames.books.account[account])
    mrm_unlock(&frames.lock)


cdef inline void push(frames_t *frames, stack_t *stack, const uint32_t *given, size_t n) noexcept nogil:
    """Put frames that were claimed on a stack, which keeps no more than a few."""
    cdef uint32_t depth = stack_push(frames.frame, stack, given, n)
    if depth > mrm_load32(&stack.most):
        mrm_store32(&stack.most, depth)
    if depth > DEEP:
        spill(frames, stack)


cdef void push_near(frames_t *frames, const stack_t *own, const uint32_t *given, size_t n) noexcept nogil:
    """Put frames of one account that were claimed on stacks that they are near to, its own for this processor first."""
    cdef uint32_t number = <uint32_t>(own - frames.stacks), stack
    cdef size_t i = 0, end
    while i < n:
        stack = near_home(frames, number, given[i])
        end = i + 1
        while end < n and near_home(frames, number, given[end]) == stack:
            end += 1
        push(frames, &frames.stacks[stack], given + i, end - i)
        i = end


cdef void give_past(
    frames_t *frames, const uint32_t *given, size_t n, bint is_run, bint is_one_owners
) noexcept nogil:
    """Put frames that were claimed in the common list."""
    mrm_lock(&frames.lock)
    common_give(frames, given, n, is_run, is_one_owners)
    mrm_unlock(&frames.lock)


cdef inline bint claim(frames_t *frames, uint32_t frame, uint32_t state) noexcept nogil:
    """Make a frame that is held, and shown by no slot, ours to put on a list."""
    cdef uint32_t held = MRM_FRAME_HELD
    return frame < frames.count and mrm_cas32(&frames.frame[frame].status, &held, state)


cdef void push_strict(frames_t *frames, const uint32_t *given, size_t n, uint64_t epoch) noexcept nogil:
    """Put ``n`` frames that were claimed on the strict list."""
    cdef size_t i
    for i in range(n):
        frames.frame[given[i]].epoch = <uint32_t>epoch
        if i + 1 < n:
            mrm_store32(&frames.frame[given[i]].next, given[i + 1])
    mrm_add32(&frames.strict_count, <uint32_t>n)
    list_push(frames.frame, &frames.strict, given[0], given[n - 1])


cdef int frames_give(frames_t *frames, uint32_t frame, int reuse) noexcept nogil:
    """Give a frame back, for reuse now or after the next retire that begins."""
    cdef stack_t *stack
    cdef uint64_t epoch
    if reuse == MRM_REUSE_NOW:
        if not claim(frames, frame, MRM_FRAME_READY):
            return refuse_frame(frames, frame, b"", b"given")
        stack = &frames.stacks[mrm_load16(&frames.frame[frame].depth)]
        if mrm_load32(&stack.common):
            give_past(frames, &frame, 1, False, True)
        else:
            push(frames, stack, &frame, 1)
        return MRM_OK
    if reuse != MRM_REUSE_AFTER_RETIRE:
        return refuse_reuse(reuse)
    epoch = mrm_load64(&frames.figures.epoch)
    if not claim(frames, frame, MRM_FRAME_STRICT):
        return refuse_frame(frames, frame, b"", b"given")
    push_strict(frames, &frame, 1, epoch)
    return MRM_OK


cdef int frames_give_many(frames_t *frames, const uint32_t *given, size_t n, int reuse) noexcept nogil:
    """Give ``n`` frames back, or none when one of them cannot be."""
    cdef uint32_t state = MRM_FRAME_READY if reuse == MRM_REUSE_NOW else MRM_FRAME_STRICT
    cdef uint64_t epoch = 0
    cdef bint is_run = True, is_one_owners = True
    cdef stack_t *stack
    cdef uint32_t owner = 0
    cdef size_t i
    cdef int status
    if reuse != MRM_REUSE_NOW and reuse != MRM_REUSE_AFTER_RETIRE:
        return refuse_reuse(reuse)
    if n == 0:
        return MRM_OK
    if state == MRM_FRAME_STRICT:
        epoch = mrm_load64(&frames.figures.epoch)   # before the first is claimed; commits write to that line
    for i in range(n):
        is_run &= given[i] == given[0] + <uint32_t>i
        if not claim(frames, given[i], state):
            status = refuse_in_array(frames, given, i)
            while i > 0:
                i -= 1
                mrm_store32(&frames.frame[given[i]].status, MRM_FRAME_HELD)
            return status
        if i == 0:
            owner = frames_owner(frames, given[0])
        is_one_owners &= frames_owner(frames, given[i]) == owner
    if state == MRM_FRAME_STRICT:
        push_strict(frames, given, n, epoch)
        return MRM_OK
    if n < LARGE and is_one_owners:
        stack = own_stack(frames, owner)
        if not mrm_load32(&stack.common):
            if frames.nodes == NULL:
                push(frames, stack, given, n)
            else:
                push_near(frames, stack, given, n)
            return MRM_OK
    give_past(frames, given, n, is_run, is_one_owners)
    return MRM_OK
