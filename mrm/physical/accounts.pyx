"""Accounts: opened, funded, limited, and looked at.

What they mean as figures is in books.pyx; here the calls of those who set them. As in
funds.pyx, each checks everything first and then changes it, and frames that lie free in
somebody's stacks never stand in the way of a promise.

Taking is in taking.pyx. A closed account's number is used again, so closing forgets whose
contents its free frames hold: whoever takes one of them next finds it cleared.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset, strcmp, strncpy

from mrm cimport (
    MRM_API_VERSION, MRM_BAD_ARGUMENT, MRM_BAD_FRAME, MRM_FRAME_HELD, MRM_FRAME_STRICT, MRM_NO_MEMORY,
    MRM_NO_OVERDRAFT, MRM_OK, MRM_OUT_OF_FRAMES, MRM_OVERDRAFT_ONLY, MRM_POOL_ACCOUNT, MRM_SHARE_CONTENTS,
    mrm_account_options, mrm_account_stats,
)
from mrm.physical.bitmap cimport bitmap_has
from mrm.physical.books cimport (
    COMMITTED, MOST_CREDITS, NAME_BYTES, NO_FUND, OVERDRAFT, account_t, available, overdrawn, reset_marks, set_balance,
    set_maximum,
)
from mrm.physical.common cimport SOMEBODY, books_begin, books_end, flush_stacks, in_stacks
from mrm.physical.frames cimport frames_open_stacks, frames_owner, frames_state, frames_t
from mrm.physical.funds cimport NONE, check_name, find_fund, free_promises, refuse_fund, refuse_number
from mrm.physical.pool cimport pool_t, pool_usable
from mrm.physical.stack cimport mrm_store16, mrm_store32
from mrm.physical.refusals cimport refuse_frame, word_for
from mrm.physical.stock cimport stock_resume, stock_withdraw
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


# ---- names and numbers --------------------------------------------------------------------

cdef uint32_t find_account(const frames_t *frames, const char *name) noexcept nogil:
    """The account of a name, or NONE."""
    cdef uint32_t i
    for i in range(MRM_POOL_ACCOUNT, frames.books.accounts):
        if frames.books.account[i].open and strcmp(frames.books.account[i].name, name) == 0:
            return i
    return NONE


cdef account_t *known(frames_t *frames, uint32_t number) noexcept nogil:
    """The account of a number, or NULL."""
    if number < frames.books.accounts and frames.books.account[number].open:
        return &frames.books.account[number]
    return NULL


cdef int begin(pool_t *pool, uint32_t number, account_t **account) noexcept nogil:
    """Lock the books and find an account; if it is none, they are not locked."""
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    mrm_lock(&pool.frames.lock)
    account[0] = known(&pool.frames, number)
    if account[0] == NULL:
        mrm_unlock(&pool.frames.lock)
        return refuse_number(b"account", number)
    return MRM_OK


# ---- opened and closed ------------------------------------------------------------------------

cdef int fund_named(const frames_t *frames, const char *name, uint32_t otherwise, uint32_t *fund) noexcept nogil:
    """The fund of a name that an account is to draw on."""
    fund[0] = otherwise if name == NULL else find_fund(frames, name)
    if fund[0] != NONE:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"there is no fund '%.47s': make it first, by fund_open()", name,
    )


cdef uint32_t unused(const frames_t *frames) noexcept nogil:
    """A number that no open account has, or NONE."""
    cdef uint32_t i
    for i in range(MRM_POOL_ACCOUNT + 1, frames.books.accounts):
        if not frames.books.account[i].open:
            return i
    return frames.books.accounts if frames.books.accounts < frames.books.most_accounts else <uint32_t>NONE


cdef int account_open(pool_t *pool, const mrm_account_options *given, uint32_t *number) noexcept nogil:
    """A new account, with a balance of 0."""
    cdef mrm_account_options options
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    if not 0 < given.size <= sizeof(options):
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, given, given.size,
            b"mrm_account_options.size is %u: set it to sizeof(mrm_account_options), which this mrm knows %zu bytes of",
            given.size, sizeof(options),
        )
    memset(&options, 0, sizeof(options))
    memcpy(&options, given, given.size)
    status = check_name(b"an account", options.name)
    if status != MRM_OK:
        return status
    mrm_lock(&pool.frames.lock)
    status = open_account(&pool.frames, &options, number)
    mrm_unlock(&pool.frames.lock)
    return status


cdef int open_account(frames_t *frames, const mrm_account_options *options, uint32_t *number) noexcept nogil:
    """The same, with the lock held and the name checked."""
    cdef uint32_t committed, overdraft = NO_FUND, found
    cdef account_t *account
    cdef int status
    if find_account(frames, options.name) != NONE:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"there is an account '%s' already: account_find() gives its number", options.name,
        )
    status = fund_named(frames, options.committed, COMMITTED, &committed)
    if status == MRM_OK and not options.flags & MRM_NO_OVERDRAFT:
        status = fund_named(frames, options.overdraft, OVERDRAFT, &overdraft)
    if status != MRM_OK:
        return status
    found = unused(frames)
    if found == NONE:
        return mrm_fail(
            failure(), MRM_NO_MEMORY, 0, 0, NULL, 0,
            b"a pool has up to %u accounts on this machine, and this one has as many: close some",
            frames.books.most_accounts - MRM_POOL_ACCOUNT - 1,
        )
    account = &frames.books.account[found]
    memset(account, 0, sizeof(account_t))
    strncpy(account.name, options.name, NAME_BYTES - 1)
    account.committed = committed
    account.overdraft = overdraft
    account.shares = options.flags & MRM_SHARE_CONTENTS
    set_maximum(account, <uint32_t>min(options.limit, <uint64_t>frames.count) if options.limit else frames.count)
    reset_marks(account, 0)
    frames_open_stacks(frames, found)
    mrm_store32(&account.open, 1)
    if found == frames.books.accounts:
        mrm_store32(&frames.books.accounts, found + 1)
    number[0] = found
    return MRM_OK


cdef int account_find(pool_t *pool, const char *name, uint32_t *number) noexcept nogil:
    """The account of a name."""
    cdef uint32_t found
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        status = check_name(b"an account", name)
    if status != MRM_OK:
        return status
    mrm_lock(&pool.frames.lock)
    found = find_account(&pool.frames, name)
    mrm_unlock(&pool.frames.lock)
    if found == NONE:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"there is no account '%s': open it first, by account_open()", name,
        )
    number[0] = found
    return MRM_OK


cdef int account_name(pool_t *pool, uint32_t number, char *name) noexcept nogil:
    """Copy an open account's name, of up to NAME_BYTES."""
    cdef account_t *account
    cdef int status = begin(pool, number, &account)
    if status == MRM_OK:
        memcpy(name, account.name, NAME_BYTES)
        mrm_unlock(&pool.frames.lock)
    return status


cdef int account_close(pool_t *pool, uint32_t number) noexcept nogil:
    """End an account that holds nothing."""
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    mrm_lock(&pool.frames.lock)
    # So that what lies in stock, dirty, is found, too. It may let the lock go, so it comes first.
    stock_withdraw(&pool.frames)
    status = close_account(&pool.frames, number)
    stock_resume(&pool.frames)
    mrm_unlock(&pool.frames.lock)
    return status


cdef int close_account(frames_t *frames, uint32_t number) noexcept nogil:
    """The same, with the lock held and nothing in stock."""
    cdef account_t *account = known(frames, number)
    cdef uint32_t frame
    if account == NULL:
        return refuse_number(b"account", number)
    if number == MRM_POOL_ACCOUNT:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"the pool's own account is not closed: whoever names no account takes from it",
        )
    flush_stacks(frames, number)
    if account.charged:
        return mrm_fail(
            failure(), MRM_BAD_FRAME, 0, 0, NULL, 0,
            b"account '%s' has %u frames, held or waiting for a retire: give them back, and retire, before it "
            b"is closed", account.name, account.charged,
        )
    mrm_store32(&account.open, 0)
    set_balance(&frames.books, account, 0)
    for frame in range(frames.count):
        if frames_owner(frames, frame) == number and bitmap_has(&frames.bitmap, frame):
            mrm_store16(&frames.frame[frame].depth, <uint16_t>SOMEBODY)
    forget_credits(frames, number)
    return MRM_OK


cdef void forget_credits(frames_t *frames, uint32_t closed) noexcept nogil:
    """Let no account pass its promises on to one that is closed: its number will be another's."""
    cdef account_t *account
    cdef uint32_t i, j, kept
    for i in range(MRM_POOL_ACCOUNT, frames.books.accounts):
        account = &frames.books.account[i]
        kept = 0
        for j in range(account.credits):
            if account.credit[j] != closed:
                account.credit[kept] = account.credit[j]
                kept += 1
        if kept != account.credits:
            account.credits = kept
            if account.open:
                books_begin(frames, account)
                books_end(frames, account)


# ---- promises ------------------------------------------------------------------------------------

cdef uint32_t spare(frames_t *frames, uint32_t number, uint32_t wanted) noexcept nogil:
    """How much of its balance an account does not use; free frames of its stacks are put back for that."""
    cdef account_t *account = &frames.books.account[number]
    if account.balance.now < account.charged + wanted:
        flush_stacks(frames, number)
    return account.balance.now - account.charged if account.balance.now > account.charged else 0


cdef int refuse_spare(const account_t *account, uint64_t n, uint32_t has) noexcept nogil:
    """Say that an account uses too much of its balance to do without ``n`` frames."""
    return mrm_fail(
        failure(), MRM_OUT_OF_FRAMES, 0, 0, NULL, 0,
        b"account '%s' can do without %u of its balance of %u, not %llu: it has %u frames; give some back first",
        account.name, has, account.balance.now, <unsigned long long>n, account.charged,
    )


cdef int refuse_limit(const account_t *account, uint64_t balance) noexcept nogil:
    """Say that a balance would be more than the account may have."""
    return mrm_fail(
        failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
        b"a balance of %llu is more than the %u frames that account '%s' may have: raise its limit first",
        <unsigned long long>balance, account.maximum.now, account.name,
    )


cdef void rebalance(frames_t *frames, account_t *account, uint32_t balance) noexcept nogil:
    """Set a balance, with the watermarks kept."""
    books_begin(frames, account)
    set_balance(&frames.books, account, balance)
    books_end(frames, account)


cdef int account_fund(pool_t *pool, uint32_t number, int64_t n) noexcept nogil:
    """Raise a balance by n, or lower it."""
    cdef frames_t *frames = &pool.frames
    cdef account_t *account
    cdef uint64_t wanted = <uint64_t>(n if n > 0 else -n)
    cdef uint32_t has
    cdef int status = begin(pool, number, &account)
    if status != MRM_OK:
        return status
    if number == MRM_POOL_ACCOUNT:
        status = refuse_own()
    elif n < 0:
        has = spare(frames, number, <uint32_t>min(wanted, <uint64_t>frames.count))
        if has < wanted:
            status = refuse_spare(account, wanted, has)
    elif account.balance.now + wanted > account.maximum.now:
        status = refuse_limit(account, account.balance.now + wanted)
    else:
        free_promises(frames, account.committed, <uint32_t>wanted)
        has = available(&frames.books.fund[account.committed])
        # What the same fund had lent it turns into balance.
        if account.overdraft == account.committed:
            has += overdrawn(account)
        if has < wanted:
            status = refuse_fund(frames, account.committed, <uint32_t>wanted, has)
    if status == MRM_OK:
        rebalance(frames, account, <uint32_t>(<int64_t>account.balance.now + n))
    mrm_unlock(&frames.lock)
    return status


cdef int refuse_own() noexcept nogil:
    """Say that the pool's own account has no balance."""
    return mrm_fail(
        failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
        b"the pool's own account has no balance: it may have what the committed fund has promised to nobody",
    )


cdef int account_transfer(pool_t *pool, uint32_t source, uint32_t to, uint32_t n) noexcept nogil:
    """Move n frames' worth of balance from one account to another."""
    cdef frames_t *frames = &pool.frames
    cdef account_t *giver
    cdef account_t *taker
    cdef uint32_t has
    cdef int status = begin(pool, source, &giver)
    if status != MRM_OK:
        return status
    taker = known(frames, to)
    if taker == NULL:
        status = refuse_number(b"account", to)
    elif source == <uint32_t>MRM_POOL_ACCOUNT or to == <uint32_t>MRM_POOL_ACCOUNT:
        status = refuse_own()
    elif source != to:
        has = spare(frames, source, min(n, frames.count))
        if has < n:
            status = refuse_spare(giver, n, has)
        elif <uint64_t>taker.balance.now + n > taker.maximum.now:
            status = refuse_limit(taker, <uint64_t>taker.balance.now + n)
        else:
            rebalance(frames, giver, giver.balance.now - n)
            frames.books.fund[giver.committed].frames -= n
            frames.books.fund[taker.committed].frames += n
            rebalance(frames, taker, taker.balance.now + n)
    mrm_unlock(&frames.lock)
    return status


cdef int account_limit(pool_t *pool, uint32_t number, uint64_t limit) noexcept nogil:
    """Set how many frames an account may have at the most; those that it has beyond, it keeps."""
    cdef account_t *account
    cdef int status = begin(pool, number, &account)
    if status != MRM_OK:
        return status
    if account.balance.now > limit:
        status = mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"a limit of %llu is less than the balance of account '%s', %u: lower that first, by account_fund()",
            <unsigned long long>limit, account.name, account.balance.now,
        )
    else:
        flush_stacks(&pool.frames, number)      # so that what it keeps is what it uses
        set_maximum(account, <uint32_t>min(limit, <uint64_t>pool.frames.count))
    mrm_unlock(&pool.frames.lock)
    return status


cdef int account_credits(pool_t *pool, uint32_t number, const uint32_t *accounts, size_t n) noexcept nogil:
    """Say which accounts get this one's promise when it gives a frame back, in order."""
    cdef frames_t *frames = &pool.frames
    cdef account_t *account
    cdef size_t i
    cdef int status = begin(pool, number, &account)
    if status != MRM_OK:
        return status
    if n > MOST_CREDITS:
        status = mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"up to %d accounts get an account's credits, not %zu",
            <int>MOST_CREDITS, n,
        )
    elif number == MRM_POOL_ACCOUNT:
        status = refuse_own()
    for i in range(n):
        if status != MRM_OK:
            break
        if known(frames, accounts[i]) == NULL:
            status = refuse_number(b"account", accounts[i])
        elif accounts[i] == number or accounts[i] == <uint32_t>MRM_POOL_ACCOUNT:
            status = mrm_fail(
                failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
                b"an account's credits go to others that have balances: not to itself, nor to the pool's own",
            )
    if status == MRM_OK:
        flush_stacks(frames, number)
        account.credits = <uint32_t>n
        for i in range(n):
            account.credit[i] = <uint16_t>accounts[i]
        books_end(frames, account)
    mrm_unlock(&frames.lock)
    return status


cdef int account_flush(pool_t *pool, uint32_t number, int flags, uint32_t *flushed) noexcept nogil:
    """Return an account's free frames to the pool."""
    cdef account_t *account
    cdef uint32_t n = 0
    cdef int status
    if flags & ~MRM_OVERDRAFT_ONLY:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"flags is MRM_OVERDRAFT_ONLY (%d) or 0, not %d",
            <int>MRM_OVERDRAFT_ONLY, flags,
        )
    status = begin(pool, number, &account)
    if status != MRM_OK:
        return status
    if not flags & MRM_OVERDRAFT_ONLY or overdrawn(account):
        n = flush_stacks(&pool.frames, number)
    mrm_unlock(&pool.frames.lock)
    if flushed != NULL:
        flushed[0] = n
    return MRM_OK


# ---- figures ----------------------------------------------------------------------------------------

cdef int account_stats(pool_t *pool, uint32_t number, mrm_account_stats *stats) noexcept nogil:
    """Figures of an account; as much of the table as the caller knows."""
    cdef frames_t *frames = &pool.frames
    cdef mrm_account_stats full
    cdef account_t *account
    cdef int status = begin(pool, number, &account)
    if status != MRM_OK:
        return status
    books_begin(frames, account)
    books_end(frames, account)
    memset(&full, 0, sizeof(full))
    full.size = min(stats.size, <uint32_t>sizeof(full))
    full.version = MRM_API_VERSION
    full.balance = account.balance.now
    full.balance_low = account.balance.low
    full.balance_high = account.balance.high
    full.cached = min(in_stacks(frames, number), account.charged)
    full.allocated = account.charged - full.cached
    full.allocated_low = min(<uint64_t>account.allocated.low, full.allocated)
    full.allocated_high = max(<uint64_t>account.allocated.high, full.allocated)
    full.limit = account.maximum.now
    full.limit_low = account.maximum.low
    full.limit_high = account.maximum.high
    full.overdrawn = overdrawn(account)
    mrm_unlock(&frames.lock)
    memcpy(stats, &full, full.size)
    return MRM_OK


cdef int account_reset_watermarks(pool_t *pool, uint32_t number) noexcept nogil:
    """Begin all watermarks of an account anew, at what is now."""
    cdef account_t *account
    cdef int status = begin(pool, number, &account)
    if status != MRM_OK:
        return status
    books_end(&pool.frames, account)
    reset_marks(account, account.charged - min(in_stacks(&pool.frames, number), account.charged))
    mrm_unlock(&pool.frames.lock)
    return MRM_OK


cdef int account_of(pool_t *pool, uint32_t frame, uint32_t *number) noexcept nogil:
    """The account that a held or strict frame is charged to."""
    cdef int status = pool_usable(pool)
    if status != MRM_OK:
        return status
    if frame >= pool.frames.count:
        return refuse_frame(&pool.frames, frame, b"", b"looked up")
    if frames_state(&pool.frames, frame) in (MRM_FRAME_HELD, MRM_FRAME_STRICT):
        number[0] = frames_owner(&pool.frames, frame)
        return MRM_OK
    return mrm_fail(failure(), MRM_BAD_FRAME, 0, 0, NULL, 0, b"frame %u is %s: it is nobody's", frame, word_for(
        frames_state(&pool.frames, frame)
    ))
