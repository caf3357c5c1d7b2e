"""Frames whose memory is broken: found, and kept out of use.

When the hardware finds an error that it cannot correct, the kernel takes the page away from
whoever maps it (mm/memory-failure.c): the next touch dies of SIGBUS, with the address. The
contents are lost, and nothing that mrm does brings them back; but the frame must never be
handed out again, and the rest of the pool goes on. A frame in quarantine keeps its number
and its page, so that a late touch still traps, and is in no list and no fund.

Which frames are broken the kernel says without a touch: MADV_POPULATE_READ of an address
whose page is broken answers EHWPOISON, and of one that is there does nothing. Frames in the balloon
are left out, since it would fetch them; the lock that is held meanwhile, for 64 frames
at a time, keeps others from going in.

A promise is kept by memory. What is lost here is taken from the committed fund if it has
frames that nobody was promised, else from another fund, and if none has any, from a balance: that of
the account that held the frame first.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_POISONED, MRM_FRAME_READY, MRM_OK,
    MRM_SYSTEM_CALL, mrm_address,
)
from mrm.physical.bitmap cimport bitmap_has, bitmap_withhold
from mrm.physical.books cimport POOL_ACCOUNT, account_t, available, set_balance, uncharge
from mrm.physical.common cimport books_begin, books_end, flush_stacks
from mrm.physical.frames cimport frames_owner, frames_t
from mrm.physical.pool cimport pool_t, pool_usable
from mrm.physical.refusals cimport refuse_quarantine
from mrm.physical.stack cimport STATE_BITS, mrm_cas32, mrm_load32, mrm_store32
from mrm.physical.stock cimport stock_resume, stock_withdraw
from mrm.system.calls cimport CALL_MADVISE, advise
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef extern from "<errno.h>" nogil:
    enum:
        EHWPOISON


cdef enum:
    ADVICE_POPULATE_READ = 22   # older headers do not know it (5.14)
    CHUNK = 64                  # frames that are asked about at a time, under the lock: huge pages, which are there
    TRIES = 10000               # looks at a frame that is in somebody's hand


# ---- out of use ---------------------------------------------------------------------------

cdef bint lower(frames_t *frames, account_t *account) noexcept nogil:
    """Take a frame's worth that it does not use off a balance, and its fund; whether it had any."""
    if not account.open or account.balance.now <= account.charged:
        return False
    books_begin(frames, account)
    set_balance(&frames.books, account, account.balance.now - 1)
    books_end(frames, account)
    frames.books.fund[account.committed].frames -= 1
    return True


cdef void lose(frames_t *frames, account_t *holder) noexcept nogil:
    """Promise a frame less than before."""
    cdef uint32_t i
    for i in range(frames.books.funds):     # the committed one is the first
        if available(&frames.books.fund[i]):
            frames.books.fund[i].frames -= 1
            return
    if holder != NULL and lower(frames, holder):
        return
    for i in range(POOL_ACCOUNT, frames.books.accounts):
        if lower(frames, &frames.books.account[i]):
            return


cdef bint take_out(frames_t *frames, uint32_t frame) noexcept nogil:
    """Take a frame out of use, if it is free, or held and shown by nothing. The lock is held."""
    cdef uint32_t held = MRM_FRAME_HELD
    cdef account_t *holder = NULL
    cdef uint32_t i
    if mrm_load32(&frames.frame[frame].status) & STATE_BITS == MRM_FRAME_READY:
        for i in range(POOL_ACCOUNT, frames.books.accounts):
            if frames.books.account[i].open and not bitmap_has(&frames.bitmap, frame):
                flush_stacks(frames, i)
    if bitmap_has(&frames.bitmap, frame):
        bitmap_withhold(&frames.bitmap, frame, 1)
        mrm_store32(&frames.frame[frame].status, MRM_FRAME_POISONED)
    elif mrm_cas32(&frames.frame[frame].status, &held, MRM_FRAME_POISONED):
        holder = &frames.books.account[frames_owner(frames, frame)]
        books_begin(frames, holder)
        uncharge(&frames.books, holder, 1)
        books_end(frames, holder)
    else:
        return False
    frames.poisoned += 1
    lose(frames, holder)
    return True


cdef int pool_quarantine(pool_t *pool, uint32_t frame) noexcept nogil:
    """Take a frame out of use for good."""
    cdef frames_t *frames = &pool.frames
    cdef uint32_t tries = 0
    cdef bint done = False
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    while frame < frames.count and not done and tries < TRIES:
        mrm_lock(&frames.lock)
        stock_withdraw(frames)      # all free frames are in the bitmap, or a stack
        done = take_out(frames, frame)
        stock_resume(frames)
        mrm_unlock(&frames.lock)
        if mrm_load32(&frames.frame[frame].status) & STATE_BITS != MRM_FRAME_READY:
            break
        # On its way between a stack and a taker, for some instructions.
        sched_yield()
        tries += 1
    return MRM_OK if done else refuse_quarantine(frames, frame)


# ---- found ----------------------------------------------------------------------------------

cdef int64_t ask(pool_t *pool, uint32_t frame, uint32_t n) noexcept nogil:
    """What the kernel says of ``n`` frames from ``frame`` on: 0, or ``-errno``."""
    return advise(mrm_address(&pool.layout, 0, frame), <size_t>n << pool.layout.frame_shift, ADVICE_POPULATE_READ)


cdef uint32_t with_memory(const frames_t *frames, uint32_t frame, uint32_t end) noexcept nogil:
    """How many frames from ``frame`` on, up to ``end``, are not in the balloon. The lock is held."""
    cdef uint32_t n = 0
    while frame + n < end and mrm_load32(&frames.frame[frame + n].status) & STATE_BITS != MRM_FRAME_INFLATED:
        n += 1
    return n


cdef int pool_scan(pool_t *pool, uint32_t *broken, size_t *n) noexcept nogil:
    """Which frames are broken: up to ``n`` of them, and how many in all."""
    cdef frames_t *frames = &pool.frames
    cdef size_t room = n[0]
    cdef uint32_t frame = 0, end, run, i
    # Asking fills page tables, which takes a table a frame where pages are small.
    cdef uint32_t chunk = CHUNK if pool.layout.backing == MRM_BACKING_HUGETLB else 1
    cdef int64_t got = 0
    cdef int status = pool_usable(pool)
    n[0] = 0
    if status != MRM_OK:
        return status
    while frame < frames.count:
        end = min(frame + chunk, frames.count)
        mrm_lock(&frames.lock)
        while frame < end:
            run = with_memory(frames, frame, end)
            got = ask(pool, frame, run) if run else 0
            if got == -EHWPOISON:
                for i in range(frame, frame + run):
                    if run == 1 or ask(pool, i, 1) == -EHWPOISON:
                        if n[0] < room:
                            broken[n[0]] = i
                        n[0] += 1
            elif got < 0:
                break
            frame += run if run else 1
        mrm_unlock(&frames.lock)
        if got < 0 and got != -EHWPOISON:
            return mrm_fail(
                failure(), MRM_SYSTEM_CALL, CALL_MADVISE, <int>-got, mrm_address(&pool.layout, 0, frame), 0,
                b"the kernel does not say which frames are broken (%s): it can from 5.14 on (MADV_POPULATE_READ)",
                strerror(<int>-got),
            )
    return MRM_OK
