"""The common list: free frames that no account is charged for.

It is a bitmap, so that the lowest frame, or a run, is found at once. What takers get from it
is charged to an account, what they give back is taken off: here, under the free lists'
lock, so that the books and the lists always agree. (Frames that lose their memory leave
it uncharged: their worth goes out of a fund, in balloon.pyx and quarantine.pyx. Those that
a restart finds begin charged: holding.pyx.) An account's stacks
(frames.pyx) hold frames that it is charged for already: between them and their users no
book is touched, which is why an account costs what a plain free list does.

A free frame remembers in its record whose contents it holds, as the number of the stack
that it was last taken from; 0 is nobody's, and means zeros, which is how the kernel
gives frames. When it goes to an account's stack this becomes two bits: ZERO, or FOREIGN
if it held another account's contents, and those two have not agreed to share. A foreign
frame is cleared when it is taken, not before: refilling a stack takes no longer for it.

How many frames an account *holds* changes without the lock, so its watermarks are taken
from the stacks' own: each notes how deep it was at the least and at the most since the
account was last charged. While one thread works they are exact. Among several, what
each stack had at its lowest is added up as if it had been at one moment, so that the
high mark is never too low.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t

from mrm cimport MRM_FRAME_READY
from mrm.physical.bitmap cimport bitmap_give, bitmap_give_run, bitmap_take, bitmap_take_run
from mrm.physical.books cimport NOBODY, charge, mark_allocated, overdrawn, set_balance, uncharge
from mrm.physical.frames cimport frames_owner
from mrm.physical.stack cimport (
    FOREIGN, NO_FRAME, ZERO, mrm_load32, mrm_store16, mrm_store32, stack_depth, stack_pop_many, stack_t,
)
from mrm.physical.stock cimport stock_place, stock_refill, stock_take, stock_take_clean


cdef enum:
    CHUNK = 256                 # frames that are moved at a time, on the C stack


# ---- around every change of an account's books -----------------------------------------

cdef void books_begin(frames_t *frames, account_t *account) noexcept nogil:
    """Note how many frames the account held, as long as its charge was what it is now."""
    cdef stack_t *stacks = &frames.stacks[(account - frames.books.account) << frames.cpu_shift]
    cdef uint32_t least = 0, most = 0, i
    for i in range(frames.stack_count):
        least += mrm_load32(&stacks[i].least)
        most += mrm_load32(&stacks[i].most)
    mark_allocated(account, account.charged - min(most, account.charged), account.charged - min(least, account.charged))


cdef void books_end(frames_t *frames, account_t *account) noexcept nogil:
    """Begin to note anew, and say to the stacks whether what is given may stay in them.

    Not where something was lent, which others may want, nor where another account gets
    the promise of what is given.
    """
    cdef stack_t *stacks = &frames.stacks[(account - frames.books.account) << frames.cpu_shift]
    cdef uint32_t past = account.credits or (overdrawn(account) and not account.lends)
    cdef uint32_t i, depth
    for i in range(frames.stack_count):
        depth = stack_depth(frames.frame, &stacks[i])
        # What is so already is not written: other processors have these lines in their caches.
        if mrm_load32(&stacks[i].least) != depth:
            mrm_store32(&stacks[i].least, depth)
        if mrm_load32(&stacks[i].most) != depth:
            mrm_store32(&stacks[i].most, depth)
        if mrm_load32(&stacks[i].common) != past:
            mrm_store32(&stacks[i].common, past)


# ---- from the list to an account -------------------------------------------------------

cdef inline uint32_t contents_for(const frames_t *frames, uint32_t account, uint32_t frame) noexcept nogil:
    """What the contents of a frame in the common list are to an account: ZERO, FOREIGN or its own (0)."""
    cdef uint32_t owner = frames_owner(frames, frame)
    if owner == NOBODY:
        return ZERO
    if owner == account:
        return 0
    if owner < frames.books.accounts and frames.books.account[owner].shares and frames.books.account[account].shares:
        return 0
    return FOREIGN


cdef void common_charge(frames_t *frames, uint32_t account, const uint32_t *taken, uint32_t n) noexcept nogil:
    """Charge an account for ``n`` frames that left the list, and note what their contents are to it."""
    cdef uint32_t i, contents
    for i in range(n):
        contents = contents_for(frames, account, taken[i])
        if contents:                # what it says already is not written: for large arrays a quarter of their time
            mrm_store32(&frames.frame[taken[i]].status, MRM_FRAME_READY | contents)
    charge(&frames.books, &frames.books.account[account], n)


cdef void common_charge_run(frames_t *frames, uint32_t account, uint32_t first, uint32_t n) noexcept nogil:
    """The same for a run of ``n``."""
    cdef uint32_t i
    for i in range(first, first + n):
        mrm_store32(&frames.frame[i].status, MRM_FRAME_READY | contents_for(frames, account, i))
    charge(&frames.books, &frames.books.account[account], n)


cdef uint32_t common_take(
    frames_t *frames, uint32_t account, uint32_t *taken, uint32_t least, uint32_t n
) noexcept nogil:
    """Charge an account for up to ``n`` frames that it is entitled to, the lowest; how many.

    Those in stock only up to ``least``, which the account needs now: they are not for its stacks.
    """
    cdef uint32_t found = <uint32_t>bitmap_take(&frames.bitmap, taken, n)
    least = min(least, n)
    if found < least and frames.stock.count:
        found += stock_take(frames, 0, taken + found, least - found)
    common_charge(frames, account, taken, found)
    return found


cdef int64_t common_take_run(frames_t *frames, uint32_t account, uint32_t n) noexcept nogil:
    """The same for the lowest run of ``n``; its first frame, or -1."""
    cdef int64_t first = bitmap_take_run(&frames.bitmap, n)
    if first >= 0:
        common_charge_run(frames, account, <uint32_t>first, n)
    return first


# ---- and back ----------------------------------------------------------------------------

cdef void pass_on(frames_t *frames, account_t *account, uint32_t n) noexcept nogil:
    """Let others have the promise of ``n`` frames that an account gave back, as far as they can have more.

    The promise goes with the frames behind it, from fund to fund.
    """
    cdef account_t *other
    cdef uint32_t i, moved
    for i in range(account.credits):
        other = &frames.books.account[account.credit[i]]
        if not other.open or other.balance.now >= other.maximum.now:
            continue
        # Never more than it does not use itself.
        moved = account.balance.now - account.charged if account.balance.now > account.charged else 0
        moved = min(moved, min(n, other.maximum.now - other.balance.now))
        set_balance(&frames.books, account, account.balance.now - moved)
        frames.books.fund[account.committed].frames -= moved
        frames.books.fund[other.committed].frames += moved
        books_begin(frames, other)
        set_balance(&frames.books, other, other.balance.now + moved)
        books_end(frames, other)
        n -= moved
        if n == 0:
            return


cdef void discharge(frames_t *frames, uint32_t owner, uint32_t n) noexcept nogil:
    """Take ``n`` frames off an account that gave them back."""
    cdef account_t *account = &frames.books.account[owner]
    books_begin(frames, account)
    uncharge(&frames.books, account, n)
    if account.credits:
        pass_on(frames, account, n)
    books_end(frames, account)


cdef void common_refill(frames_t *frames) noexcept nogil:
    """Fill the stock up, a little, if something is missing there."""
    if frames.stock.count < frames.stock.wanted:
        stock_refill(frames, False)


cdef void common_add(frames_t *frames, const uint32_t *free, size_t n) noexcept nogil:
    """Put frames in the list that no account is charged for, and what the stock misses of them into stock."""
    bitmap_give(&frames.bitmap, free, n)
    common_refill(frames)


cdef void discharge_all(frames_t *frames, const uint32_t *given, size_t n) noexcept nogil:
    """Charge each account that gave some of these frames for that many less."""
    cdef size_t i, begin = 0
    cdef uint32_t owner, last = frames_owner(frames, given[0])
    for i in range(1, n):
        owner = frames_owner(frames, given[i])
        if owner != last:
            discharge(frames, last, <uint32_t>(i - begin))
            begin = i
            last = owner
    discharge(frames, last, <uint32_t>(n - begin))


cdef void common_give(
    frames_t *frames, const uint32_t *given, size_t n, bint is_run, bint is_one_owners
) noexcept nogil:
    """Put frames that were claimed in the list; each account that gave some is charged for that many less.

    A run of one owner's, which is how large arrays are taken, holds the lock a tenth as long.
    """
    if is_one_owners:
        discharge(frames, frames_owner(frames, given[0]), <uint32_t>n)
    else:
        discharge_all(frames, given, n)
    if is_run:
        bitmap_give_run(&frames.bitmap, given[0], <uint32_t>n)
        common_refill(frames)
    else:
        common_add(frames, given, n)


cdef inline void note_contents(frames_t *frames, uint32_t account, uint32_t frame) noexcept nogil:
    """Note whose contents a frame holds that was popped off an account's stack and goes to the list."""
    cdef uint32_t status = mrm_load32(&frames.frame[frame].status)
    cdef uint16_t owner = <uint16_t>(account << frames.cpu_shift)
    if status & ZERO:
        owner = 0
    elif status & FOREIGN:
        owner = SOMEBODY
    mrm_store16(&frames.frame[frame].depth, owner)
    mrm_store32(&frames.frame[frame].status, MRM_FRAME_READY)


cdef void common_return(frames_t *frames, uint32_t account, uint32_t *popped, size_t n) noexcept nogil:
    """Put frames that were popped off an account's stacks in the list, for which it is charged no more.

    ``books_begin`` came before the popping, and ``books_end`` comes after.
    """
    cdef size_t i
    for i in range(n):
        note_contents(frames, account, popped[i])
    uncharge(&frames.books, &frames.books.account[account], <uint32_t>n)
    common_add(frames, popped, n)


cdef uint32_t common_exchange(frames_t *frames, uint32_t account, uint32_t popped) noexcept nogil:
    """A frame of zeros, of the same node, for one popped off an account's stacks, which is charged no more and no less.

    NO_FRAME if none is in stock. A refill comes after it, of one or several.
    """
    cdef uint32_t clean = stock_take_clean(frames, stock_place(frames, popped))
    if clean != NO_FRAME:
        note_contents(frames, account, popped)
        bitmap_give(&frames.bitmap, &popped, 1)
    return clean


cdef uint32_t flush_stacks(frames_t *frames, uint32_t account) noexcept nogil:
    """Empty an account's stacks into the list; how many frames that were."""
    cdef stack_t *stacks = &frames.stacks[account << frames.cpu_shift]
    cdef uint32_t chunk[CHUNK]
    cdef uint32_t i, flushed = 0
    cdef size_t n
    books_begin(frames, &frames.books.account[account])
    for i in range(frames.stack_count):
        while True:
            n = stack_pop_many(frames.frame, &stacks[i], chunk, 1, CHUNK)
            if n == 0:
                break
            common_return(frames, account, chunk, n)
            flushed += <uint32_t>n
    books_end(frames, &frames.books.account[account])
    return flushed


cdef uint32_t in_stacks(const frames_t *frames, uint32_t account) noexcept nogil:
    """Frames in an account's stacks, unless they are changing."""
    cdef stack_t *stacks = &frames.stacks[account << frames.cpu_shift]
    cdef uint32_t i, n = 0
    for i in range(frames.stack_count):
        n += stack_depth(frames.frame, &stacks[i])
    return n
