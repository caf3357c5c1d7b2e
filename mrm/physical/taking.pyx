"""Taking and giving, as callers do it: whose the pool is, who pays, and what is done about a shortage.

The free lists know no processes and call nobody: this asks first whose the pool is, and
when a taker finds too few frames, it calls whoever wants to know (``pool_on_shortage``),
in the taker's thread and with no lock held, and then tries the taker once more. What the
called function takes itself does not call it again: a shortage in a shortage is one.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_OK, MRM_OUT_OF_FRAMES, MRM_OVERDRAFT, MRM_POOL_ACCOUNT, MRM_ZEROED, mrm_pool, mrm_shortage,
)
from mrm.physical.frames cimport frames_take, frames_take_many, frames_take_run
from mrm.physical.funds cimport refuse_number
from mrm.physical.giving cimport frames_give, frames_give_many
from mrm.physical.ledger cimport ledger_line
from mrm.physical.pool cimport pool_t, pool_usable
from mrm.physical.zeroing cimport zeroing_keep
from mrm.system.events cimport events_on, line_begin, line_bool, line_end, line_number, line_t, line_text
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.ranges cimport STATE_OPEN


cdef extern from "system/atomic.h" nogil:
    void *mrm_load_ptr(void *const *p)
    void mrm_store_ptr(void **p, void *v)
    uint32_t mrm_load32(const uint32_t *p)

cdef extern from * nogil:
    """
    static _Thread_local int mrm_shortages;
    static int mrm_in_shortage(void) { return mrm_shortages; }
    static void mrm_set_shortage(int is) { mrm_shortages = is; }
    """
    bint mrm_in_shortage()
    void mrm_set_shortage(bint is_in)


cdef bint relieved(pool_t *pool, uint32_t account, size_t wanted) noexcept nogil:
    """Call whoever wants to know of a shortage; whether there is hope to find more now."""
    cdef void *call = mrm_load_ptr(&pool.shortage)
    if call == NULL or mrm_in_shortage():
        return False
    mrm_set_shortage(True)
    (<mrm_shortage>call)(mrm_load_ptr(&pool.shortage_context), <mrm_pool *>pool, account, wanted)
    mrm_set_shortage(False)
    # What was called may have forked, and this be the child, which has no books to look at.
    return mrm_load32(&pool.state) == STATE_OPEN


cdef int over(pool_t *pool, uint32_t account, size_t wanted, int status) noexcept nogil:
    """A shortage is over, one way or the other: tell the log; the taker's status."""
    if mrm_load32(&pool.state) != STATE_OPEN:
        return pool_usable(pool)
    if events_on():
        log_shortage(pool, account, wanted, status == MRM_OK)
    return status


cdef void log_shortage(pool_t *pool, uint32_t account, size_t wanted, bint helped) noexcept nogil:
    """An event: somebody wanted frames that were not free; whether they were found in the end."""
    cdef line_t line
    line_begin(&line, b"shortage")
    ledger_line(pool.frames.ledger, &line)
    line_text(&line, b"account", pool.frames.books.account[account].name)
    line_number(&line, b"wanted", <int64_t>wanted)
    line_bool(&line, b"relieved", helped)
    line_end(&line)


cdef int pool_on_shortage(pool_t *pool, void *call, void *context) noexcept nogil:
    """Have ``call(context, ...)`` called when frames are short; nobody, if it is NULL."""
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        mrm_store_ptr(&pool.shortage, NULL)
        mrm_store_ptr(&pool.shortage_context, context)
        mrm_store_ptr(&pool.shortage, call)
    return status


# ---- from the pool's own account -----------------------------------------------------------

cdef int pool_take(pool_t *pool, uint32_t *frame) noexcept nogil:
    """Take one frame."""
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        status = frames_take(&pool.frames, MRM_POOL_ACCOUNT, 0, frame)
    if status == MRM_OUT_OF_FRAMES:
        if relieved(pool, MRM_POOL_ACCOUNT, 1):
            status = frames_take(&pool.frames, MRM_POOL_ACCOUNT, 0, frame)
        status = over(pool, MRM_POOL_ACCOUNT, 1, status)
    return status


cdef int pool_take_many(pool_t *pool, uint32_t *frames, size_t n) noexcept nogil:
    """Take n frames, or none."""
    return account_take_many(pool, MRM_POOL_ACCOUNT, 0, frames, n)


cdef int pool_take_run(pool_t *pool, uint32_t n, uint32_t *first) noexcept nogil:
    """Take n frames with numbers that go on, or none."""
    return account_take_run(pool, MRM_POOL_ACCOUNT, 0, n, first)


cdef int pool_keep_zeroed(pool_t *pool, uint32_t n) noexcept nogil:
    """Keep n free frames cleared, in the background; 0: none."""
    cdef int status = pool_usable(pool)
    return zeroing_keep(&pool.frames, n) if status == MRM_OK else status


# ---- from an account -------------------------------------------------------------------------

cdef int refuse(pool_t *pool, uint32_t account, int how) noexcept nogil:
    """Say which of the two is none."""
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    if how & ~(MRM_OVERDRAFT | MRM_ZEROED):
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"how is MRM_OVERDRAFT (%d), MRM_ZEROED (%d), both or 0, not %d", <int>MRM_OVERDRAFT, <int>MRM_ZEROED, how,
        )
    return refuse_number(b"account", account)


cdef inline bint may_take(pool_t *pool, uint32_t account, int how) noexcept nogil:
    """Whether the pool is ours, the account there, and the flags known."""
    return (
        pool_usable(pool) == MRM_OK and account < mrm_load32(&pool.frames.books.accounts)
        and mrm_load32(&pool.frames.books.account[account].open) and not how & ~(MRM_OVERDRAFT | MRM_ZEROED)
    )


cdef int account_take(pool_t *pool, uint32_t account, int how, uint32_t *frame) noexcept nogil:
    """Take one frame."""
    cdef int status
    if not may_take(pool, account, how):
        return refuse(pool, account, how)
    status = frames_take(&pool.frames, account, how, frame)
    if status == MRM_OUT_OF_FRAMES:
        if relieved(pool, account, 1):
            status = frames_take(&pool.frames, account, how, frame)
        status = over(pool, account, 1, status)
    return status


cdef int account_take_many(pool_t *pool, uint32_t account, int how, uint32_t *frames, size_t n) noexcept nogil:
    """Take n frames, or none."""
    cdef int status
    if not may_take(pool, account, how):
        return refuse(pool, account, how)
    status = frames_take_many(&pool.frames, account, how, frames, n)
    # More than there are is no shortage: nobody could give that many.
    if status == MRM_OUT_OF_FRAMES and n <= pool.frames.count:
        if relieved(pool, account, n):
            status = frames_take_many(&pool.frames, account, how, frames, n)
        status = over(pool, account, n, status)
    return status


cdef int account_take_run(pool_t *pool, uint32_t account, int how, uint32_t n, uint32_t *first) noexcept nogil:
    """Take n frames with numbers that go on, or none."""
    cdef int status
    if not may_take(pool, account, how):
        return refuse(pool, account, how)
    status = frames_take_run(&pool.frames, account, how, n, first)
    if status == MRM_OUT_OF_FRAMES and n <= pool.frames.count:
        if relieved(pool, account, n):
            status = frames_take_run(&pool.frames, account, how, n, first)
        status = over(pool, account, n, status)
    return status


# ---- and back, each to the account that it is charged to ------------------------------------------

cdef int pool_give(pool_t *pool, uint32_t frame, int reuse) noexcept nogil:
    """Give one frame back."""
    cdef int status = pool_usable(pool)
    return frames_give(&pool.frames, frame, reuse) if status == MRM_OK else status


cdef int pool_give_many(pool_t *pool, const uint32_t *frames, size_t n, int reuse) noexcept nogil:
    """Give n frames back, or none."""
    cdef int status = pool_usable(pool)
    return frames_give_many(&pool.frames, frames, n, reuse) if status == MRM_OK else status
