"""Every frame's state, and the free lists that they are taken from.

A frame is in one place at a time. Free ones are in the stack of some processor or,
behind the stacks, in one bitmap; strict ones, which must wait for a retire, in a list;
held ones nowhere. The state in a frame's record says which, and is what decides:
``give`` claims a frame by swapping HELD, shown by no slot, for READY or STRICT, so
that of two who give the same frame one is told.

Taking and giving one frame work on the stack of the processor that the thread runs
on, without a lock, last in, first out: a warm frame comes back warm. A frame goes back
to the stack that it was taken from, wherever its thread has gone meanwhile: four
records share a cache line, and if frames stayed where threads drop them, two
processors would soon take and give neighbours, at a third of the speed each.

Only when a stack is empty or has grown deep does a batch move between it and the
bitmap, under a lock; the coldest go. Arrays of 64 and more pass the stacks by: the bitmap has the
lowest frames, and neighbours make short plans for whoever maps them.

"Too few are free" is said under the same lock, after the bitmap, every stack, and a
second look that nothing has changed meanwhile; frames that are in nobody's hands
but ours (on the way from a stack to the bitmap, say) are only ever so under the lock.
So nobody is refused a frame that was free all the time.

A frame that was given with ``reuse="now"`` while deferred aliases still show it is
ready like any other: that it is *released* follows from its count of aliases. A
strict one remembers the number of the retire that it waits for. That number goes up
when a retire begins, not when it ends: what is given in between may have been
unmapped after the invalidation, and has to wait for the next.
"""

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_FRAME_HELD, MRM_FRAME_READY, MRM_FRAME_STRICT, MRM_NO_MEMORY, MRM_OK,
    MRM_REUSE_AFTER_RETIRE, MRM_REUSE_NOW,
)
from mrm.physical.bitmap cimport (
    bitmap_close,
    bitmap_give,
    bitmap_give_run,
    bitmap_longest,
    bitmap_open,
    bitmap_take,
    bitmap_take_run,
)
from mrm.physical.stack cimport (
    NO_FRAME,
    frame_t,
    list_push,
    list_take_all,
    mrm_add32,
    mrm_add64,
    mrm_cas16,
    mrm_cas32,
    mrm_cpu,
    mrm_load16,
    mrm_load32,
    mrm_load64,
    mrm_store16,
    mrm_store32,
    mrm_sub16,
    mrm_sub32,
    stack_depth,
    stack_pop,
    stack_pop_many,
    stack_push,
    stack_t,
)
from mrm.physical.refusals cimport (
    refuse_alias,
    refuse_frame,
    refuse_in_array,
    refuse_mapping,
    refuse_reuse,
    refuse_run,
    refuse_take,
)
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_cpus()

cdef extern from * nogil:
    """
    #define MRM_ASSERT(condition) _Static_assert(condition, #condition)
    """
    void static_assert "MRM_ASSERT"(bint condition)


cdef enum:
    BATCH = 32                  # frames that a stack is filled up with
    DEEP = 128                  # frames that a stack may keep; beyond, half of them go
    LARGE = 64                  # frames from which on an array passes the stacks by
    CHUNK = 256                 # frames that are moved at a time, on the C stack
    MAX_STACKS = 0xFFFF         # what a frame's record can name


cdef inline stack_t *own_stack(const frames_t *frames) noexcept nogil:
    """The stack of the processor that this thread runs on.

    Processors with numbers beyond those that were foreseen share stacks with others.
    """
    cdef uint32_t cpu = mrm_cpu()
    if cpu >= frames.stack_count:
        cpu %= frames.stack_count
    return &frames.stacks[cpu]


# ---- open and close ------------------------------------------------------------------

cdef int frames_open(frames_t *frames, uint32_t count) noexcept nogil:
    """Begin with ``count`` frames, all of them free."""
    cdef size_t nbytes, line = sizeof(stack_t)
    cdef uint32_t i
    cdef int status
    static_assert(sizeof(frame_t) == 16)
    static_assert(sizeof(stack_t) == 128)
    frames.memory = NULL
    status = bitmap_open(&frames.bitmap, count)
    if status != MRM_OK:
        return status

    frames.count = count
    frames.stack_count = min(mrm_cpus(), <uint32_t>MAX_STACKS)
    # Pages of zeros come from the kernel when they are touched: a million records
    # that say READY cost nothing until then.
    nbytes = line + frames.stack_count * line + <size_t>count * sizeof(frame_t)
    frames.memory = calloc(1, nbytes)
    if frames.memory == NULL:
        bitmap_close(&frames.bitmap)
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 0, NULL, nbytes,
            "no memory for the records of %u frames: %zu bytes", count, nbytes,
        )
    frames.stacks = <stack_t *>((<uintptr_t>frames.memory + line - 1) & ~<uintptr_t>(line - 1))
    frames.frame = <frame_t *>(frames.stacks + frames.stack_count)
    for i in range(frames.stack_count):
        frames.stacks[i].head = NO_FRAME
    frames.lock = 0
    frames.retiring = 0
    frames.strict = NO_FRAME
    frames.strict_count = 0
    frames.epoch = 0
    return MRM_OK


cdef void frames_close(frames_t *frames) noexcept nogil:
    """Free the books; frames that are held are forgotten."""
    if frames.memory != NULL:
        bitmap_close(&frames.bitmap)
        free(frames.memory)
        frames.memory = NULL


# ---- take ------------------------------------------------------------------------------

cdef uint64_t stack_changes(const frames_t *frames) noexcept nogil:
    """A number that stays the same only while no stack changes."""
    cdef uint64_t changes = 0
    cdef uint32_t i
    for i in range(frames.stack_count):
        changes += mrm_load64(&frames.stacks[i].head) >> 32
    return changes


cdef size_t steal(frames_t *frames, uint32_t *taken, size_t least, size_t most) noexcept nogil:
    """Take from any stacks until there are ``least``; fewer when no more are free.

    The bitmap is empty, and the lock held.
    """
    cdef uint32_t first = <uint32_t>(own_stack(frames) - frames.stacks), i
    cdef size_t n = 0, before
    cdef uint64_t changes
    while n < least:
        changes = stack_changes(frames)
        before = n
        for i in range(frames.stack_count):
            n += stack_pop_many(
                frames.frame, &frames.stacks[(first + i) % frames.stack_count], taken + n, 1, most - n
            )
            if n >= least:
                break
        # Every stack was empty, and at one and the same moment when none has changed
        # since: then there really is nothing left.
        if n == before and stack_changes(frames) == changes:
            break
    return n


cdef inline void hold(frames_t *frames, uint32_t frame, stack_t *stack) noexcept nogil:
    """Make a frame that was taken off its list a held one, which goes back to ``stack``."""
    mrm_store16(&frames.frame[frame].depth, <uint16_t>(stack - frames.stacks))
    mrm_store32(&frames.frame[frame].status, MRM_FRAME_HELD)


cdef int take_from_others(frames_t *frames, stack_t *stack, uint32_t *frame) noexcept nogil:
    """Take a frame from the bitmap or any stack, and fill ``stack`` up on the way."""
    cdef uint32_t batch[BATCH]
    cdef size_t n
    mrm_lock(&frames.lock)
    n = bitmap_take(&frames.bitmap, batch, BATCH)
    if n == 0:
        n = steal(frames, batch, 1, BATCH)
    if n > 1:
        stack_push(frames.frame, stack, batch + 1, n - 1)
    mrm_unlock(&frames.lock)
    if n == 0:
        return refuse_take(frames, 1, 0)
    hold(frames, batch[0], stack)
    frame[0] = batch[0]
    return MRM_OK


cdef int frames_take(frames_t *frames, uint32_t *frame) noexcept nogil:
    """Take one frame: the one given last on this processor, else the lowest free one."""
    cdef stack_t *stack = own_stack(frames)
    cdef uint32_t top = stack_pop(frames.frame, stack)
    if top == NO_FRAME:
        return take_from_others(frames, stack, frame)
    hold(frames, top, stack)
    frame[0] = top
    return MRM_OK


cdef int take_many_from_others(frames_t *frames, stack_t *stack, uint32_t *taken, size_t n) noexcept nogil:
    """Take ``n`` frames, or none, from wherever they are."""
    cdef size_t found = 0
    mrm_lock(&frames.lock)
    if n < LARGE:
        found = stack_pop_many(frames.frame, stack, taken, 1, n)
    found += bitmap_take(&frames.bitmap, taken + found, n - found)
    if found < n:
        found += steal(frames, taken + found, n - found, n - found)
    if found < n:
        bitmap_give(&frames.bitmap, taken, found)
    mrm_unlock(&frames.lock)
    return MRM_OK if found == n else refuse_take(frames, n, found)


cdef size_t count_free(frames_t *frames) noexcept nogil:
    """Frames that could be taken now."""
    cdef size_t n
    cdef uint32_t i
    mrm_lock(&frames.lock)
    n = frames.bitmap.free
    for i in range(frames.stack_count):
        n += stack_depth(frames.frame, &frames.stacks[i])
    mrm_unlock(&frames.lock)
    return n


cdef int frames_take_many(frames_t *frames, uint32_t *taken, size_t n) noexcept nogil:
    """Take ``n`` frames, or none: warm ones when few, else the lowest, ascending.

    ``taken`` is not looked at when ``n`` is more than there are frames.
    """
    cdef stack_t *stack = own_stack(frames)
    cdef size_t i
    cdef int status = MRM_OK
    if n == 0:
        return MRM_OK
    if n > frames.count:
        return refuse_take(frames, n, count_free(frames))
    if n >= LARGE or stack_pop_many(frames.frame, stack, taken, n, n) == 0:
        status = take_many_from_others(frames, stack, taken, n)
    if status == MRM_OK:
        for i in range(n):
            hold(frames, taken[i], stack)
    return status


cdef int64_t gather_run(frames_t *frames, uint32_t n) noexcept nogil:
    """Put what is in the stacks into the bitmap too, and look for a run there again."""
    cdef uint32_t chunk[CHUNK]
    cdef uint32_t i
    cdef size_t found
    for i in range(frames.stack_count):
        while True:
            found = stack_pop_many(frames.frame, &frames.stacks[i], chunk, 1, CHUNK)
            if found == 0:
                break
            bitmap_give(&frames.bitmap, chunk, found)
    return bitmap_take_run(&frames.bitmap, n)


cdef int frames_take_run(frames_t *frames, uint32_t n, uint32_t *first) noexcept nogil:
    """Take the lowest run of ``n`` neighbouring frames."""
    cdef stack_t *stack = own_stack(frames)
    cdef int64_t found
    cdef uint32_t i, longest, available
    if n == 0:
        return mrm_fail(failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, "a run has 1 frame or more, not 0")
    mrm_lock(&frames.lock)
    found = bitmap_take_run(&frames.bitmap, n)
    if found < 0:
        found = gather_run(frames, n)
    longest = bitmap_longest(&frames.bitmap)
    available = frames.bitmap.free
    mrm_unlock(&frames.lock)
    if found < 0:
        return refuse_run(frames, n, longest, available)
    for i in range(n):
        hold(frames, <uint32_t>found + i, stack)
    first[0] = <uint32_t>found
    return MRM_OK


# ---- give ------------------------------------------------------------------------------

cdef void spill(frames_t *frames, stack_t *stack) noexcept nogil:
    """Move the colder half of a stack that has grown deep to the bitmap."""
    cdef uint32_t popped[CHUNK]
    cdef size_t n
    mrm_lock(&frames.lock)
    n = stack_pop_many(frames.frame, stack, popped, DEEP, CHUNK)
    if n:
        stack_push(frames.frame, stack, popped, DEEP // 2)
        bitmap_give(&frames.bitmap, popped + DEEP // 2, n - DEEP // 2)
    mrm_unlock(&frames.lock)


cdef inline void push(frames_t *frames, stack_t *stack, const uint32_t *given, size_t n) noexcept nogil:
    """Put frames that were claimed on a stack, which keeps no more than a few."""
    if stack_push(frames.frame, stack, given, n) > DEEP:
        spill(frames, stack)


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
    cdef uint64_t epoch
    if reuse == MRM_REUSE_NOW:
        if not claim(frames, frame, MRM_FRAME_READY):
            return refuse_frame(frames, frame, b"", b"given")
        push(frames, &frames.stacks[mrm_load16(&frames.frame[frame].depth)], &frame, 1)
        return MRM_OK
    if reuse != MRM_REUSE_AFTER_RETIRE:
        return refuse_reuse(reuse)
    epoch = mrm_load64(&frames.epoch)
    if not claim(frames, frame, MRM_FRAME_STRICT):
        return refuse_frame(frames, frame, b"", b"given")
    push_strict(frames, &frame, 1, epoch)
    return MRM_OK


cdef int frames_give_many(frames_t *frames, const uint32_t *given, size_t n, int reuse) noexcept nogil:
    """Give ``n`` frames back, or none when one of them cannot be."""
    cdef uint32_t state = MRM_FRAME_READY if reuse == MRM_REUSE_NOW else MRM_FRAME_STRICT
    cdef uint64_t epoch = mrm_load64(&frames.epoch)
    cdef bint is_run = True
    cdef size_t i
    cdef int status
    if reuse != MRM_REUSE_NOW and reuse != MRM_REUSE_AFTER_RETIRE:
        return refuse_reuse(reuse)
    if n == 0:
        return MRM_OK
    for i in range(n):
        is_run &= given[i] == given[0] + <uint32_t>i
        if not claim(frames, given[i], state):
            status = refuse_in_array(frames, given, i)
            while i > 0:
                i -= 1
                mrm_store32(&frames.frame[given[i]].status, MRM_FRAME_HELD)
            return status
    if state == MRM_FRAME_STRICT:
        push_strict(frames, given, n, epoch)
    elif n < LARGE:
        push(frames, own_stack(frames), given, n)
    else:
        # A run, which is how large arrays are taken, holds the lock a tenth as long.
        mrm_lock(&frames.lock)
        if is_run:
            bitmap_give_run(&frames.bitmap, given[0], <uint32_t>n)
        else:
            bitmap_give(&frames.bitmap, given, n)
        mrm_unlock(&frames.lock)
    return MRM_OK


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


cdef void frames_settle(frames_t *frames, uint32_t frame) noexcept nogil:
    """Count one deferred alias less: its address shows the frame no more."""
    mrm_sub16(&frames.frame[frame].pending, 1)


# ---- retire --------------------------------------------------------------------------------

cdef uint64_t frames_retire_begin(frames_t *frames) noexcept nogil:
    """Number of a retire that begins: frames given strictly until now wait for it."""
    return mrm_add64(&frames.epoch, 1) - 1


cdef void frames_retire_end(frames_t *frames, uint64_t begun) noexcept nogil:
    """Make the strict frames ready that were given before ``begun`` and that nothing shows."""
    cdef uint32_t ready[CHUNK]
    cdef uint32_t frame, next, first = NO_FRAME, last = NO_FRAME
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
            bitmap_give(&frames.bitmap, ready, n)
            mrm_sub32(&frames.strict_count, <uint32_t>n)
            mrm_unlock(&frames.lock)
            n = 0
    if first != NO_FRAME:
        list_push(frames.frame, &frames.strict, first, last)
    mrm_unlock(&frames.retiring)
