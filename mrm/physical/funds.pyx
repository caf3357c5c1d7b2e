"""Funds: made, moved between, and looked at.

What they mean as figures is in books.pyx. Each call checks everything first, under the free
lists' lock, and then changes it, so that a refused call has changed nothing. Frames that
lie free in somebody's stacks, lent but not used, never stand in the way of a promise: they
are put back first, where that helps.
"""

from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset, strcmp, strlen, strncpy

from mrm cimport (
    MRM_API_VERSION, MRM_BAD_ARGUMENT, MRM_NO_MEMORY, MRM_OK, MRM_OUT_OF_FRAMES, MRM_POOL_ACCOUNT, mrm_fund_stats,
)
from mrm.physical.books cimport MOST_FUNDS, NAME_BYTES, account_t, available, fund_t, overdrawn
from mrm.physical.common cimport flush_stacks
from mrm.physical.pool cimport pool_t, pool_usable
from mrm.physical.stack cimport mrm_load32, mrm_store32
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


# ---- names and numbers --------------------------------------------------------------------

cdef int refuse_number(const char *what, uint32_t number) noexcept nogil:
    """Say that there is no fund or account of this number."""
    return mrm_fail(
        failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
        b"%s %u is none of this pool's, or closed: %s_open() gives out their numbers", what, number, what,
    )


cdef int check_name(const char *what, const char *name) noexcept nogil:
    """MRM_OK for a name of some bytes, and not too many."""
    if name != NULL and 0 < strlen(name) < NAME_BYTES:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
        b"the name of %s has 1 to %d bytes, not %zu", what, <int>NAME_BYTES - 1, strlen(name) if name != NULL else 0,
    )


cdef uint32_t find_fund(const frames_t *frames, const char *name) noexcept nogil:
    """The fund of a name, or NONE."""
    cdef uint32_t i
    for i in range(frames.books.funds):
        if strcmp(frames.books.fund[i].name, name) == 0:
            return i
    return NONE


# ---- funds ---------------------------------------------------------------------------------

cdef int fund_open(pool_t *pool, const char *name, uint32_t *fund) noexcept nogil:
    """The fund of this name, made if there is none."""
    cdef frames_t *frames = &pool.frames
    cdef uint32_t found
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        status = check_name(b"a fund", name)
    if status != MRM_OK:
        return status
    mrm_lock(&frames.lock)
    found = find_fund(frames, name)
    if found == NONE and frames.books.funds < MOST_FUNDS:
        found = frames.books.funds
        strncpy(frames.books.fund[found].name, name, NAME_BYTES - 1)
        mrm_store32(&frames.books.funds, found + 1)     # its name first: fund_name() takes no lock
    mrm_unlock(&frames.lock)
    if found == NONE:
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 0, NULL, 0, b"a pool has up to %d funds, and this one has as many: use one of "
            b"them for '%s'", <int>MOST_FUNDS, name,
        )
    fund[0] = found
    return MRM_OK


cdef const char *fund_name(pool_t *pool, uint32_t fund) noexcept nogil:
    """Its name, or NULL; never changes."""
    if fund < mrm_load32(&pool.frames.books.funds):
        return pool.frames.books.fund[fund].name
    return NULL


cdef void free_promises(frames_t *frames, uint32_t fund, uint32_t wanted) noexcept nogil:
    """Put back what was lent by a fund and lies free in stacks, until so much of it is available."""
    cdef account_t *account
    cdef uint32_t i
    for i in range(MRM_POOL_ACCOUNT, frames.books.accounts):
        if available(&frames.books.fund[fund]) >= wanted:
            return
        account = &frames.books.account[i]
        if account.open and account.overdraft == fund and overdrawn(account):
            flush_stacks(frames, i)


cdef int fund_transfer(pool_t *pool, uint32_t source, uint32_t to, uint32_t n) noexcept nogil:
    """Move n available frames' worth from one fund to another."""
    cdef frames_t *frames = &pool.frames
    cdef fund_t *fund
    cdef uint32_t has = 0
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    mrm_lock(&frames.lock)
    if source >= frames.books.funds or to >= frames.books.funds:
        mrm_unlock(&frames.lock)
        return refuse_number(b"fund", max(source, to))
    fund = &frames.books.fund[source]
    free_promises(frames, source, n)
    has = available(fund)
    if has >= n:
        fund.frames -= n
        frames.books.fund[to].frames += n
    else:
        status = refuse_fund(frames, source, n, has)
    mrm_unlock(&frames.lock)
    return status


cdef int refuse_fund(const frames_t *frames, uint32_t number, uint32_t n, uint32_t has) noexcept nogil:
    """Say that a fund has fewer than ``n`` frames available."""
    cdef const fund_t *fund = &frames.books.fund[number]
    return mrm_fail(
        failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, 0,
        b"of %u frames' worth asked of fund '%s', %u are available: of its %u, %u are granted to accounts and %u lent; "
        b"lower balances, give frames back that were lent, or transfer from another fund",
        n, fund.name, has, fund.frames, fund.granted, fund.lent,
    )


cdef int fund_stats(pool_t *pool, uint32_t number, mrm_fund_stats *stats) noexcept nogil:
    """Figures of a fund; as much of the table as the caller knows."""
    cdef mrm_fund_stats full
    cdef const fund_t *fund
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    if number >= mrm_load32(&pool.frames.books.funds):
        return refuse_number(b"fund", number)
    fund = &pool.frames.books.fund[number]
    memset(&full, 0, sizeof(full))
    full.size = min(stats.size, <uint32_t>sizeof(full))
    full.version = MRM_API_VERSION
    mrm_lock(&pool.frames.lock)
    full.frames = fund.frames
    full.granted = fund.granted
    full.lent = fund.lent
    full.available = available(fund)
    mrm_unlock(&pool.frames.lock)
    memcpy(stats, &full, full.size)
    return MRM_OK
