"""Accounts and funds as figures: what each was promised, may have, and has."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    MOST_FUNDS = 64
    MOST_ACCOUNTS = 1024
    MOST_CREDITS = 8
    NAME_BYTES = 48             # of a fund or an account, with the zero at its end
    NO_FUND = 0xFF
    NOBODY = 0                  # the account whose frames hold zeros only
    POOL_ACCOUNT = 1            # who takes frames without naming an account
    COMMITTED = 0               # the fund that a pool's frames are in at first
    OVERDRAFT = 1
    PAUSE_PREVENTION = 2


# A figure, and the lowest and highest that it was since the marks were reset.
cdef struct mark_t:
    uint32_t now
    uint32_t low
    uint32_t high


# A part of the pool. frames = granted + lent + what is available.
cdef struct fund_t:
    char name[NAME_BYTES]
    uint32_t frames             # frames that it stands for
    uint32_t granted            # balances of the accounts that it promised them to
    uint32_t lent               # frames that accounts have beyond their balances


cdef struct account_t:
    char name[NAME_BYTES]
    mark_t balance              # frames that it may have at any time
    mark_t maximum              # frames that it may have at all
    mark_t allocated            # frames that it holds, or that wait for a retire; .now is not kept
    uint32_t charged            # the same, and those that are free in its stacks
    uint32_t open               # atomic, as takers look at it without the lock
    uint8_t committed           # fund of its balance
    uint8_t overdraft           # fund of what it has beyond, or NO_FUND
    uint8_t lends               # it has no balance: all that it has is beyond, and allowed
    uint8_t shares              # whether it gives contents to, and takes them from, others that do
    uint8_t credits
    uint16_t credit[MOST_CREDITS]   # accounts that get its promise when it gives a frame back


cdef struct books_t:
    uint32_t funds              # in use: 0 to funds - 1; atomic
    uint32_t accounts           # numbers used so far: 1 to accounts - 1; atomic
    uint32_t most_accounts
    fund_t *fund                # MOST_FUNDS of them; unused ones have no name
    account_t *account


# Not thread-safe: the lock of the free lists is held around each of these.
cdef void books_open(
    books_t *books, uint32_t frames, uint32_t funded, fund_t *funds, account_t *accounts, uint32_t most_accounts
) noexcept nogil
cdef uint32_t available(const fund_t *fund) noexcept nogil
cdef uint32_t overdrawn(const account_t *account) noexcept nogil
cdef uint32_t entitled(const books_t *books, const account_t *account, bint overdraft) noexcept nogil
cdef void charge(books_t *books, account_t *account, uint32_t n) noexcept nogil
cdef void uncharge(books_t *books, account_t *account, uint32_t n) noexcept nogil
cdef void set_balance(books_t *books, account_t *account, uint32_t balance) noexcept nogil
cdef void set_maximum(account_t *account, uint32_t maximum) noexcept nogil
cdef void reset_marks(account_t *account, uint32_t allocated) noexcept nogil
cdef void mark_allocated(account_t *account, uint32_t least, uint32_t most) noexcept nogil
cdef const char *books_check(const books_t *books, uint32_t frames, uint32_t *number) noexcept nogil
