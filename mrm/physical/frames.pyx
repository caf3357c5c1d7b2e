"""Every frame's state, and the free lists that they are taken from.

A frame is in one place at a time. Free ones are in the stack of some account and
processor or, behind the stacks, in one common list (common.pyx); strict ones, which must
wait for a retire, in a list; held ones nowhere. The state in a frame's record says
which, and is what decides: giving (giving.pyx) claims a frame by swapping HELD, shown by no slot,
for READY or STRICT, so that of two who give the same frame one is told.

Taking and giving one frame work on the account's stack of the processor that the thread
runs on, without a lock, last in, first out: a warm frame comes back warm. A frame goes
back to the stack that it was taken from, wherever its thread has gone meanwhile: four
records share a cache line, and if frames stayed where threads drop them, two
processors would soon take and give neighbours, at a third of the speed each. The number
of that stack, which the record keeps, is also what says whose the frame is.

Only when a stack is empty or has grown deep does a batch move between it and the common
list, under a lock, and only then is the account charged (books.pyx): it may have as many
as its balance; then what lies in its other stacks; and where the caller allows it, what
is lent, one at a time. The coldest go back. Arrays of 64 and more pass the stacks by: the
common list has the lowest frames, and neighbours make short plans for whoever maps them.

"Too few are free" is said under the same lock, after the common list, every stack of
the account, and a second look that nothing has changed meanwhile; frames that are in
nobody's hands but ours (on the way from a stack to the list, say) are only ever so under
the lock. So nobody is refused a frame that was free all the time.

A frame that was given with ``reuse="now"`` while deferred aliases still show it is
ready like any other: that it is *released* follows from its count of aliases. What
reservations count, and what a strict frame waits for, is in showing.pyx. Frames without
memory are in the balloon (balloon.pyx), a bitmap too, and no promise counts them.
Some of the free ones may be in stock, cleared (stock.pyx): they belong to the common list.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_OK, MRM_OVERDRAFT, MRM_ZEROED,
)
from mrm.physical.bitmap cimport bitmap_close, bitmap_longest, bitmap_open, bitmap_withhold
from mrm.physical.books cimport (
    MOST_ACCOUNTS, MOST_FUNDS, POOL_ACCOUNT, account_t, books_open, entitled, fund_t, overdrawn,
)
from mrm.physical.common cimport (
    books_begin, books_end, common_exchange, common_refill, common_return, common_take, common_take_run, flush_stacks,
    in_stacks,
)
from mrm.physical.ledger cimport aligned, figures_t, head_t, ledger_close, ledger_open
from mrm.physical.near cimport near_borrow, near_home, near_take, near_take_run
from mrm.physical.nodes cimport nodes_close, nodes_t
from mrm.physical.refusals cimport refuse_run, refuse_take
from mrm.physical.stack cimport (
    FOREIGN, NO_FRAME, ZERO, frame_t, mrm_add64, mrm_load16, mrm_load32, mrm_load64, mrm_store16, mrm_store32,
    stack_pop, stack_pop_many, stack_push, stack_t,
)
from mrm.physical.stock cimport stock_close, stock_open, stock_pause, stock_resume, stock_withdraw
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_cpus()

cdef extern from "physical/clear.h" nogil:
    void mrm_clear(void *p, size_t nbytes)

cdef extern from * nogil:
    """
    #define MRM_ASSERT(condition) _Static_assert(condition, #condition)
    """
    void static_assert "MRM_ASSERT"(bint condition)


cdef enum:
    BATCH = 32                  # frames that a stack is filled up with
    MOST_STACKS = 1 << 16       # numbers that a frame's record can hold
    MOST_CPU_SHIFT = 12         # so that there are numbers for 14 accounts at the least


# ---- open and close ------------------------------------------------------------------

cdef int frames_open(
    frames_t *frames, uint32_t count, uint32_t funded, uint32_t frame_shift, const char *name, bint reserve,
    nodes_t *nodes,
) noexcept nogil:
    """Begin with ``count`` frames: the ``funded`` lowest free, zero, and nobody's; the others in the balloon.

    ``nodes``, if there are any, are the frames' from then on.
    """
    cdef size_t stacks
    cdef uint32_t most_accounts, frame
    cdef char *memory
    cdef head_t head
    cdef int status
    static_assert(sizeof(frame_t) == 16)
    static_assert(sizeof(stack_t) == 128)         # LEDGER_LINE
    frames.ledger = NULL
    frames.nodes = NULL
    status = bitmap_open(&frames.bitmap, count)
    if status != MRM_OK:
        return status
    status = bitmap_open(&frames.balloon, count)
    if status != MRM_OK:
        bitmap_close(&frames.bitmap)
        return status
    bitmap_withhold(&frames.bitmap, funded, count - funded)
    bitmap_withhold(&frames.balloon, 0, funded)

    frames.count = count
    frames.frame_shift = frame_shift
    frames.contents = NULL
    frames.stack_count = min(mrm_cpus(), <uint32_t>1 << MOST_CPU_SHIFT) if nodes == NULL else nodes.stacks
    frames.cpu_shift = 0
    while <uint32_t>1 << frames.cpu_shift < frames.stack_count:
        frames.cpu_shift += 1
    # Account 0 is nobody, and the last number is SOMEBODY's: never an account's.
    most_accounts = min(<uint32_t>MOST_ACCOUNTS, (<uint32_t>MOST_STACKS >> frames.cpu_shift) - 1)
    stacks = <size_t>most_accounts << frames.cpu_shift
    # Pages of zeros come from the kernel when they are touched: a million records
    # that say READY, and the stacks of accounts that nobody opens, cost nothing until then.
    memset(&head, 0, sizeof(head))
    head.figures = aligned(sizeof(head_t))
    head.funds = head.figures + aligned(sizeof(figures_t))
    head.stacks = head.funds + aligned(MOST_FUNDS * sizeof(fund_t))
    head.records = head.stacks + stacks * sizeof(stack_t)
    head.accounts = head.records + <size_t>count * sizeof(frame_t)
    head.nbytes = head.accounts + most_accounts * sizeof(account_t)
    head.frames = count
    head.frame_shift = frame_shift
    head.stack_count = frames.stack_count
    head.cpu_shift = frames.cpu_shift
    head.most_accounts = most_accounts
    head.most_funds = MOST_FUNDS
    frames.ledger = ledger_open(&head, name, reserve)
    if frames.ledger == NULL:
        bitmap_close(&frames.bitmap)
        bitmap_close(&frames.balloon)
        return failure().status
    memory = frames.ledger.memory
    frames.figures = <figures_t *>(memory + head.figures)
    frames.stacks = <stack_t *>(memory + head.stacks)
    frames.frame = <frame_t *>(memory + head.records)
    for frame in range(funded, count):
        frames.frame[frame].status = MRM_FRAME_INFLATED
    books_open(
        &frames.books, count, funded, <fund_t *>(memory + head.funds), <account_t *>(memory + head.accounts),
        most_accounts,
    )
    frames_open_stacks(frames, POOL_ACCOUNT)
    frames.nodes = nodes
    status = stock_open(frames)
    if status != MRM_OK:
        frames.nodes = NULL
        frames_close(frames)
        return status
    frames.lock = 0
    frames.moving = 0
    frames.poisoned = 0
    frames.retiring = 0
    frames.strict = NO_FRAME
    frames.strict_count = 0
    return MRM_OK


cdef void frames_open_stacks(frames_t *frames, uint32_t account) noexcept nogil:
    """Empty stacks for an account that begins."""
    cdef uint32_t i
    for i in range(frames.stack_count):
        frames.stacks[(account << frames.cpu_shift) + i].head = NO_FRAME


cdef void frames_close(frames_t *frames) noexcept nogil:
    """Free the books; frames that are held are forgotten."""
    if frames.ledger != NULL:
        bitmap_close(&frames.bitmap)
        bitmap_close(&frames.balloon)
        ledger_close(frames.ledger)
        stock_close(frames)
        nodes_close(frames.nodes)
        frames.nodes = NULL
        frames.ledger = NULL


# ---- take ------------------------------------------------------------------------------

cdef inline void note_depth(stack_t *stack, uint32_t depth) noexcept nogil:
    """Keep the lowest depth of a stack: the account's high watermark follows from it."""
    if depth < mrm_load32(&stack.least):
        mrm_store32(&stack.least, depth)


cdef inline void hold(frames_t *frames, uint32_t frame, uint32_t stack) noexcept nogil:
    """Make a frame that was taken off its list a held one, which goes back to stack number ``stack``."""
    mrm_store16(&frames.frame[frame].depth, <uint16_t>stack)
    mrm_store32(&frames.frame[frame].status, MRM_FRAME_HELD)


cdef inline bint wants_clearing(const frames_t *frames, uint32_t frame, int how) noexcept nogil:
    """Whether another account left something in a frame off its list, or zeros are wanted and not known to be there."""
    cdef uint32_t was = mrm_load32(&frames.frame[frame].status)
    return was & FOREIGN or (how & MRM_ZEROED and not was & ZERO)


cdef void clear(frames_t *frames, uint32_t frame) noexcept nogil:
    """Clear a frame while its taker waits."""
    mrm_add64(&frames.stock.cleared_late, 1)
    if frames.contents != NULL:
        mrm_clear(frames.contents + (<size_t>frame << frames.frame_shift), <size_t>1 << frames.frame_shift)


cdef uint32_t cleared(frames_t *frames, uint32_t account, uint32_t frame) noexcept nogil:
    """A frame of zeros in the place of one off its list: from stock if there is one, else the same, cleared."""
    cdef uint32_t clean = NO_FRAME
    if mrm_load32(&frames.stock.zeroed):
        mrm_lock(&frames.lock)
        clean = common_exchange(frames, account, frame)
        common_refill(frames)
        mrm_unlock(&frames.lock)
    if clean == NO_FRAME:
        clear(frames, frame)
        return frame
    return clean


cdef int frames_take_cleared(frames_t *frames, uint32_t account, uint32_t *frame) noexcept nogil:
    """Hold a frame of zeros in the place of ``frame``, which ``frames_take`` left to be cleared."""
    frame[0] = cleared(frames, account, frame[0])
    hold(frames, frame[0], near_home(frames, <uint32_t>(own_stack(frames, account) - frames.stacks), frame[0]))
    return MRM_OK


cdef inline int take_one(
    frames_t *frames, uint32_t account, int how, uint32_t found, stack_t *stack, uint32_t *frame
) noexcept nogil:
    """Hold a frame that was taken off its list; with LATER one that wants clearing stays in the caller's hand."""
    frame[0] = found
    if wants_clearing(frames, found, how):
        return LATER if how & LATER else frames_take_cleared(frames, account, frame)
    hold(frames, found, <uint32_t>(stack - frames.stacks))
    return MRM_OK


cdef uint64_t stack_changes(const frames_t *frames, uint32_t account) noexcept nogil:
    """A number that stays the same only while none of an account's stacks changes."""
    cdef stack_t *stacks = &frames.stacks[account << frames.cpu_shift]
    cdef uint64_t changes = 0
    cdef uint32_t i
    for i in range(frames.stack_count):
        changes += mrm_load64(&stacks[i].head) >> 32
    return changes


cdef size_t steal(
    frames_t *frames, uint32_t account, const stack_t *own, uint32_t *taken, size_t least, size_t most
) noexcept nogil:
    """Take from any of an account's stacks until there are ``least``; fewer when no more are free.

    The lock is held.
    """
    cdef stack_t *stacks = &frames.stacks[account << frames.cpu_shift]
    cdef uint32_t first = <uint32_t>(own - stacks), i
    cdef size_t n = 0, before
    cdef uint64_t changes
    while n < least:
        changes = stack_changes(frames, account)
        before = n
        for i in range(frames.stack_count):
            n += stack_pop_many(
                frames.frame, &stacks[(first + i) % frames.stack_count], taken + n, 1, most - n
            )
            if n >= least:
                break
        # Every stack was empty, and at one and the same moment when none has changed
        # since: then there really is nothing left.
        if n == before and stack_changes(frames, account) == changes:
            break
    return n


cdef void reclaim(frames_t *frames, uint32_t account) noexcept nogil:
    """Get back what is free in the stacks of others, but was lent by the fund that lends to this account."""
    cdef account_t *other
    cdef uint32_t fund = frames.books.account[account].overdraft, i
    for i in range(POOL_ACCOUNT, frames.books.accounts):
        other = &frames.books.account[i]
        if i != account and other.open and other.overdraft == fund and overdrawn(other):
            flush_stacks(frames, i)


cdef size_t gather(
    frames_t *frames, uint32_t account, int how, const stack_t *own, uint32_t *taken, size_t least, size_t most
) noexcept nogil:
    """Charge an account for frames, or take them from its own stacks: ``least`` to ``most``, or too few.

    In this order: what it is entitled to, as many as there are; what is in its stacks; and what
    can be lent, no more than needed. Where frames are told apart by nodes, of each the nearest.
    The lock is held.
    """
    cdef account_t *payer = &frames.books.account[account]
    cdef uint32_t promised
    cdef bint lent = how & MRM_OVERDRAFT or payer.lends
    cdef size_t n
    if frames.nodes == NULL:
        promised = entitled(&frames.books, payer, False)
        n = common_take(frames, account, taken, <uint32_t>least, <uint32_t>min(<size_t>promised, most))
    else:
        n = near_take(frames, account, <uint32_t>(own - frames.stacks), taken, least, most)
        most = least                # what is far away fills no stack up
    if n < least:
        n += steal(frames, account, own, taken + n, least - n, most - n)
    if n < least and lent:
        if entitled(&frames.books, payer, True) < least - n:
            reclaim(frames, account)
        promised = entitled(&frames.books, payer, True)
        promised = min(promised, <uint32_t>(least - n))
        if frames.nodes == NULL:
            n += common_take(frames, account, taken + n, promised, promised)
        else:
            n += near_borrow(frames, account, <uint32_t>(own - frames.stacks), taken + n, promised)
    return n


cdef bint is_in_hand(const frames_t *frames, uint32_t account, int how, size_t n) noexcept nogil:
    """Whether an account that found fewer than ``n`` frames was promised them: then the thread that clears has one."""
    return frames.stock.count and entitled(&frames.books, &frames.books.account[account], how & MRM_OVERDRAFT) >= n


cdef int take_from_others(frames_t *frames, uint32_t account, int how, stack_t *stack, uint32_t *frame) noexcept nogil:
    """Take a frame from the common list or any stack of the account's, and fill ``stack`` up on the way."""
    cdef account_t *payer = &frames.books.account[account]
    cdef uint32_t batch[BATCH]
    cdef size_t n
    cdef bint waits
    mrm_lock(&frames.lock)
    books_begin(frames, payer)
    n = gather(frames, account, how, stack, batch, 1, BATCH)
    waits = n == 0 and is_in_hand(frames, account, how, 1)
    if waits and not how & LATER:
        stock_pause(frames)
        books_begin(frames, payer)
        n = gather(frames, account, how, stack, batch, 1, BATCH)
        stock_resume(frames)
    if n > 1:
        stack_push(frames.frame, stack, batch + 1, n - 1)
    books_end(frames, payer)
    mrm_unlock(&frames.lock)
    if n:
        stack = &frames.stacks[near_home(frames, <uint32_t>(stack - frames.stacks), batch[0])]
        return take_one(frames, account, how, batch[0], stack, frame)
    frame[0] = NO_FRAME
    return LATER if waits and how & LATER else refuse_take(frames, account, how, 1, 0)


cdef int frames_take(frames_t *frames, uint32_t account, int how, uint32_t *frame) noexcept nogil:
    """Take one frame: the one given last on this processor, else the lowest free one."""
    cdef stack_t *stack = own_stack(frames, account)
    cdef uint32_t top = stack_pop(frames.frame, stack)
    if top == NO_FRAME:
        return take_from_others(frames, account, how, stack, frame)
    note_depth(stack, mrm_load16(&frames.frame[top].depth) - 1)
    return take_one(frames, account, how, top, stack, frame)


cdef int take_many_from_others(
    frames_t *frames, uint32_t account, int how, stack_t *stack, uint32_t *taken, size_t n
) noexcept nogil:
    """Take ``n`` frames, or none, from wherever they are."""
    cdef account_t *payer = &frames.books.account[account]
    cdef size_t found = 0
    mrm_lock(&frames.lock)
    books_begin(frames, payer)
    if n < LARGE:
        found = stack_pop_many(frames.frame, stack, taken, 1, n)
    found += gather(frames, account, how, stack, taken + found, n - found, n - found)
    if found < n:
        common_return(frames, account, taken, found)
        if is_in_hand(frames, account, how, n):
            stock_pause(frames)
            books_begin(frames, payer)
            found = gather(frames, account, how, stack, taken, n, n)
            if found < n:
                common_return(frames, account, taken, found)
            stock_resume(frames)
    books_end(frames, payer)
    mrm_unlock(&frames.lock)
    return MRM_OK if found == n else refuse_take(frames, account, how, n, found)


cdef void exchange_many(frames_t *frames, uint32_t account, int how, uint32_t *taken, size_t n) noexcept nogil:
    """Put frames of zeros from stock in the place of those that want clearing, as far as there are some."""
    cdef uint32_t clean
    cdef size_t i = 0
    while i < n and not wants_clearing(frames, taken[i], how):
        i += 1
    if i == n:
        return
    mrm_lock(&frames.lock)
    for i in range(i, n):
        if wants_clearing(frames, taken[i], how):
            clean = common_exchange(frames, account, taken[i])
            if clean != NO_FRAME:
                taken[i] = clean
            elif frames.nodes == NULL:  # another node's may be there
                break
    common_refill(frames)
    mrm_unlock(&frames.lock)


cdef size_t frames_available(frames_t *frames, uint32_t account, int how) noexcept nogil:
    """Frames that an account could take now."""
    cdef size_t n
    mrm_lock(&frames.lock)
    n = entitled(&frames.books, &frames.books.account[account], how & MRM_OVERDRAFT) + in_stacks(frames, account)
    mrm_unlock(&frames.lock)
    return n


cdef int frames_take_many(
    frames_t *frames, uint32_t account, int how, uint32_t *taken, size_t n
) noexcept nogil:
    """Take ``n`` frames, or none: warm ones when few, else the lowest, ascending but for those exchanged for zeros.

    ``taken`` is not looked at when ``n`` is more than there are frames.
    """
    cdef stack_t *stack = own_stack(frames, account)
    cdef size_t i
    cdef int status = MRM_OK
    if n == 0:
        return MRM_OK
    if n > frames.count:
        return refuse_take(frames, account, how, n, frames_available(frames, account, how))
    if n >= LARGE or stack_pop_many(frames.frame, stack, taken, n, n) == 0:
        status = take_many_from_others(frames, account, how, stack, taken, n)
    else:
        note_depth(stack, mrm_load16(&frames.frame[taken[n - 1]].depth) - 1)
    if status != MRM_OK:
        return status
    if mrm_load32(&frames.stock.zeroed):
        exchange_many(frames, account, how, taken, n)
    for i in range(n):
        if wants_clearing(frames, taken[i], how):
            clear(frames, taken[i])
        hold(frames, taken[i], near_home(frames, <uint32_t>(stack - frames.stacks), taken[i]))
    return MRM_OK


cdef inline int64_t take_run(frames_t *frames, uint32_t account, const stack_t *own, uint32_t n) noexcept nogil:
    """A run of the common list, charged to the account: the lowest, or the nearest; or -1."""
    if frames.nodes == NULL:
        return common_take_run(frames, account, n)
    return near_take_run(frames, account, <uint32_t>(own - frames.stacks), n)


cdef int64_t gather_run(
    frames_t *frames, uint32_t account, int how, const stack_t *own, uint32_t n, uint32_t *longest
) noexcept nogil:
    """A run, with what is free in the stacks of this account, then of all, and in stock, put into the list before."""
    cdef account_t *payer = &frames.books.account[account]
    cdef bint lent = how & MRM_OVERDRAFT
    cdef int64_t found = -1
    cdef uint32_t i
    if entitled(&frames.books, payer, lent) < n:
        flush_stacks(frames, account)
    if entitled(&frames.books, payer, lent) < n:
        reclaim(frames, account)
    if entitled(&frames.books, payer, lent) >= n:
        found = take_run(frames, account, own, n)
        if found < 0:
            for i in range(POOL_ACCOUNT, frames.books.accounts):
                if frames.books.account[i].open:
                    flush_stacks(frames, i)
            found = take_run(frames, account, own, n)
        if found < 0 and frames.stock.count:
            stock_withdraw(frames)
            books_begin(frames, payer)
            # Asked again, as the lock may have been let go.
            if entitled(&frames.books, payer, lent) >= n:
                found = take_run(frames, account, own, n)
            longest[0] = bitmap_longest(&frames.bitmap)
            stock_resume(frames)
    return found


cdef int frames_take_run(
    frames_t *frames, uint32_t account, int how, uint32_t n, uint32_t *first
) noexcept nogil:
    """Take the lowest run of ``n`` neighbouring frames."""
    cdef account_t *payer = &frames.books.account[account]
    cdef stack_t *stack = own_stack(frames, account)
    cdef int64_t found
    cdef uint32_t i, longest, allowed
    cdef bint alone
    if n == 0:
        return mrm_fail(failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, "a run has 1 frame or more, not 0")
    mrm_lock(&frames.lock)
    books_begin(frames, payer)
    longest = 0
    found = gather_run(frames, account, how, stack, n, &longest)
    books_end(frames, payer)
    longest = max(longest, bitmap_longest(&frames.bitmap))
    alone = frames.books.accounts == POOL_ACCOUNT + 1
    allowed = entitled(&frames.books, payer, how & MRM_OVERDRAFT)
    mrm_unlock(&frames.lock)
    if found < 0:
        if allowed < n and not alone:
            return refuse_take(frames, account, how, n, allowed)
        return refuse_run(frames, n, longest, allowed)
    for i in range(n):
        if wants_clearing(frames, <uint32_t>found + i, how):
            clear(frames, <uint32_t>found + i)
        hold(frames, <uint32_t>found + i, near_home(frames, <uint32_t>(stack - frames.stacks), <uint32_t>found + i))
    first[0] = <uint32_t>found
    return MRM_OK
