"""Accounts and funds as figures: what each was promised, may have, and has.

Frames are all alike, so that a promise is a number. Funds divide the pool; an account's
*balance* is what its committed fund has granted it, and no one else may have those
frames, taken or not. What it has beyond, it is *lent* by its overdraft fund, while that
has any. So at any moment

    frames of a pool that have memory = the sum of its funds
    frames of a fund = balances granted from it + frames lent by it + available ones
    frames that an account is charged for = what it holds + what is free in its stacks

and every frame that somebody may still take is in the common list, because it is
counted once: that is why a take within a balance never fails.

The pool's own account, which whoever names none takes from, has no balance: what it has
is lent by the committed fund. So it has what was promised to nobody.

Nothing here knows where frames are; the free lists (frames.pyx) hold their lock around
every call.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset, strncpy


cdef void set_mark(mark_t *mark, uint32_t now) noexcept nogil:
    """Let a figure be so much from now on."""
    mark.now = now
    mark.low = min(mark.low, now)
    mark.high = max(mark.high, now)


cdef void books_open(
    books_t *books, uint32_t frames, uint32_t funded, fund_t *funds, account_t *accounts, uint32_t most_accounts
) noexcept nogil:
    """Begin with the three funds of the original, and with the pool's own account; all memory is zeros."""
    cdef account_t *own = &accounts[POOL_ACCOUNT]
    memset(books, 0, sizeof(books_t))
    books.fund = funds
    books.account = accounts
    books.most_accounts = most_accounts
    books.accounts = POOL_ACCOUNT + 1
    books.funds = PAUSE_PREVENTION + 1
    strncpy(books.fund[COMMITTED].name, b"committed", NAME_BYTES - 1)
    strncpy(books.fund[OVERDRAFT].name, b"overdraft", NAME_BYTES - 1)
    strncpy(books.fund[PAUSE_PREVENTION].name, b"pause_prevention", NAME_BYTES - 1)
    books.fund[COMMITTED].frames = funded
    strncpy(own.name, b"pool", NAME_BYTES - 1)
    own.open = own.lends = True
    own.committed = own.overdraft = COMMITTED
    own.maximum.now = own.maximum.low = own.maximum.high = frames


cdef uint32_t available(const fund_t *fund) noexcept nogil:
    """Frames of a fund that are neither granted nor lent."""
    return fund.frames - fund.granted - fund.lent


cdef uint32_t overdrawn(const account_t *account) noexcept nogil:
    """Frames that an account is charged for beyond its balance."""
    return account.charged - account.balance.now if account.charged > account.balance.now else 0


cdef uint32_t entitled(const books_t *books, const account_t *account, bint overdraft) noexcept nogil:
    """Frames that an account may be charged for, more than it is."""
    cdef uint32_t more = account.balance.now - account.charged if account.balance.now > account.charged else 0
    cdef uint32_t room = account.maximum.now - account.charged if account.maximum.now > account.charged else 0
    if not account.open:
        return 0
    if (overdraft or account.lends) and account.overdraft != NO_FUND:
        more += available(&books.fund[account.overdraft])
    return min(more, room)


cdef void charge(books_t *books, account_t *account, uint32_t n) noexcept nogil:
    """Charge an account for frames that it is entitled to."""
    cdef uint32_t before = overdrawn(account)
    account.charged += n
    if account.overdraft != NO_FUND:
        books.fund[account.overdraft].lent += overdrawn(account) - before


cdef void uncharge(books_t *books, account_t *account, uint32_t n) noexcept nogil:
    """Take frames off what an account is charged for; what it was lent goes back first."""
    cdef uint32_t before = overdrawn(account)
    account.charged -= n
    if account.overdraft != NO_FUND:
        books.fund[account.overdraft].lent -= before - overdrawn(account)


cdef void set_balance(books_t *books, account_t *account, uint32_t balance) noexcept nogil:
    """Grant an account so much from now on; what it was lent may thereby become its own."""
    cdef uint32_t before = overdrawn(account)
    books.fund[account.committed].granted += balance - account.balance.now
    set_mark(&account.balance, balance)
    if account.overdraft != NO_FUND:
        books.fund[account.overdraft].lent += overdrawn(account) - before


cdef void set_maximum(account_t *account, uint32_t maximum) noexcept nogil:
    """Let an account have so many frames at the most."""
    set_mark(&account.maximum, maximum)


cdef void mark_allocated(account_t *account, uint32_t least, uint32_t most) noexcept nogil:
    """Note that an account had between so few and so many frames."""
    account.allocated.low = min(account.allocated.low, least)
    account.allocated.high = max(account.allocated.high, most)


cdef void reset_marks(account_t *account, uint32_t allocated) noexcept nogil:
    """Begin all watermarks anew, at what is now."""
    account.balance.low = account.balance.high = account.balance.now
    account.maximum.low = account.maximum.high = account.maximum.now
    account.allocated.low = account.allocated.high = allocated


cdef const char *books_check(const books_t *books, uint32_t frames, uint32_t *number) noexcept nogil:
    """What does not add up, and the number of the fund that it is about; NULL if all does."""
    cdef uint64_t granted[MOST_FUNDS]
    cdef uint64_t lent[MOST_FUNDS]
    cdef uint64_t total = 0
    cdef const account_t *account
    cdef uint32_t i
    memset(granted, 0, sizeof(granted))
    memset(lent, 0, sizeof(lent))
    for i in range(POOL_ACCOUNT, books.accounts):
        account = &books.account[i]
        if not account.open:
            continue
        granted[account.committed] += account.balance.now
        if account.overdraft != NO_FUND:
            lent[account.overdraft] += overdrawn(account)
        elif overdrawn(account):
            number[0] = account.committed
            return b"has an account that has more than its balance, and no overdraft"
    for i in range(books.funds):
        number[0] = i
        total += books.fund[i].frames
        if granted[i] != books.fund[i].granted:
            return b"granted other balances than its accounts have"
        if lent[i] != books.fund[i].lent:
            return b"lent another number of frames than its accounts have beyond their balances"
        if granted[i] + lent[i] > books.fund[i].frames:
            return b"promised more than it has"
    number[0] = COMMITTED
    if total != frames:
        return b"and all others do not add up to the frames that have memory"
    return NULL
