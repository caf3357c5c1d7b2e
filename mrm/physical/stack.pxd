"""Stacks of free frames that need no lock: what a frame's record is, and how it moves.

A stack is one word, changed by compare and swap only: the frame on top, and above it
a count of the changes so far. The frames below are linked through their records
(Treiber's stack). The count is what makes it safe: who read the top, went to sleep,
and wakes when the same frame is on top again finds another count, and starts over;
and as long as the count is the same, nothing in the stack has changed, so that a walk
of any depth can be taken off with one swap. (It comes round after four thousand
million changes, some forty seconds of nothing else: a thread would have to sleep
for exactly a multiple of that, between two instructions.)

Records are never freed while the pool lives, so that a walk that lost the race reads
stale links, but always links to frames. All of this is inlined where it is used:
a call would cost as much as the work.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t


cdef extern from "system/atomic.h" nogil:
    unsigned int mrm_cpu()
    uint16_t mrm_load16(const uint16_t *p)
    void mrm_store16(uint16_t *p, uint16_t v)
    uint16_t mrm_sub16(uint16_t *p, uint16_t v)
    bint mrm_cas16(uint16_t *p, uint16_t *expected, uint16_t v)
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint32_t mrm_add32(uint32_t *p, uint32_t v)
    uint32_t mrm_sub32(uint32_t *p, uint32_t v)
    bint mrm_cas32(uint32_t *p, uint32_t *expected, uint32_t v)
    uint64_t mrm_load64(const uint64_t *p)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    bint mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)


cdef enum:
    NO_FRAME = 0xFFFFFFFF
    STATE_BITS = 0x3F           # of a status: MRM_FRAME_...
    ZERO = 0x40                 # in a stack: it holds zeros only
    FOREIGN = 0x80              # in a stack: it holds what another account left in it


# What is kept of a frame: 16 bytes. A frame is in one place: in a stack, in the common
# list (its bitmap or its stock), in the strict list, in the balloon, or held or broken.
cdef struct frame_t:
    uint32_t next               # the frame below it in its stack or list, or NO_FRAME
    uint32_t status             # MRM_FRAME_READY, HELD, STRICT, INFLATED or POISONED | ZERO, FOREIGN | mappings << 8
    uint32_t epoch              # STRICT: the retire that it waits for, as its number
    uint16_t pending            # deferred aliases: old addresses that still show it
    uint16_t depth              # in a stack: frames up to this one; else number of the stack it was taken from


# The free frames of one account on one processor, last in, first out, on cache lines of
# its own. Its number is the account's << frames_t.cpu_shift | the processor's.
cdef struct stack_t:
    uint64_t head               # changes so far << 32 | frame on top, or NO_FRAME
    uint32_t common             # whether what is given goes past it, to the common list
    uint32_t least              # lowest depth since the account's books last changed
    uint32_t most               # highest depth since then
    uint32_t unused[27]


cdef inline uint64_t changed_to(uint64_t head, uint32_t top) noexcept nogil:
    """The head that follows ``head`` when ``top`` comes to lie on top."""
    return ((head >> 32) + 1) << 32 | top


cdef inline void list_push(frame_t *frame, uint64_t *head, uint32_t first, uint32_t last) noexcept nogil:
    """Put a chain, linked from ``first`` to ``last``, on a list."""
    cdef uint64_t seen = mrm_load64(head)
    while True:
        mrm_store32(&frame[last].next, <uint32_t>seen)
        if mrm_cas64(head, &seen, changed_to(seen, first)):
            return


cdef inline uint32_t list_take_all(uint64_t *head) noexcept nogil:
    """Empty a list; its first frame, or NO_FRAME."""
    cdef uint64_t seen = mrm_load64(head)
    while not mrm_cas64(head, &seen, changed_to(seen, NO_FRAME)):
        pass
    return <uint32_t>seen


cdef inline uint32_t stack_depth(frame_t *frame, stack_t *stack) noexcept nogil:
    """Frames in the stack, unless it is changing."""
    cdef uint32_t top = <uint32_t>mrm_load64(&stack.head)
    return 0 if top == NO_FRAME else mrm_load16(&frame[top].depth)


cdef inline uint32_t stack_pop(frame_t *frame, stack_t *stack) noexcept nogil:
    """Take the frame on top, or NO_FRAME."""
    cdef uint64_t seen = mrm_load64(&stack.head)
    while <uint32_t>seen != NO_FRAME:
        if mrm_cas64(&stack.head, &seen, changed_to(seen, mrm_load32(&frame[<uint32_t>seen].next))):
            break
    return <uint32_t>seen


cdef inline size_t stack_pop_many(
    frame_t *frame, stack_t *stack, uint32_t *popped, size_t least, size_t most
) noexcept nogil:
    """Take between ``least`` and ``most`` frames from the top, at once; how many, or 0."""
    cdef uint64_t seen = mrm_load64(&stack.head)
    cdef uint32_t next
    cdef size_t n
    while True:
        n = 0
        next = <uint32_t>seen
        while next != NO_FRAME and n < most:
            popped[n] = next
            n += 1
            next = mrm_load32(&frame[next].next)
        if n == 0:
            return 0
        if n < least:
            # Too few, unless the walk went astray in a stack that was changing.
            if mrm_load64(&stack.head) == seen:
                return 0
            seen = mrm_load64(&stack.head)
        elif mrm_cas64(&stack.head, &seen, changed_to(seen, next)):
            return n


cdef inline uint32_t stack_push(
    frame_t *frame, stack_t *stack, const uint32_t *pushed, size_t n
) noexcept nogil:
    """Put ``n`` (1 or more) frames on the stack, the first on top; how deep it is now."""
    cdef uint64_t seen = mrm_load64(&stack.head)
    cdef uint32_t below, last = pushed[n - 1]
    cdef size_t i
    for i in range(n - 1):
        mrm_store32(&frame[pushed[i]].next, pushed[i + 1])
    while True:
        below = 0 if <uint32_t>seen == NO_FRAME else mrm_load16(&frame[<uint32_t>seen].depth)
        for i in range(n):
            mrm_store16(&frame[pushed[i]].depth, <uint16_t>(below + n - i))
        mrm_store32(&frame[last].next, <uint32_t>seen)
        if mrm_cas64(&stack.head, &seen, changed_to(seen, pushed[0])):
            return below + <uint32_t>n
