"""Accounts and funds as Python sees them, and the callback for shortages.

An Account or a Fund is a number with its pool: it lives as long as the pool is open, and
holds nothing open itself. What they do is in mrm/physical/accounts.pyx and taking.pyx;
here arguments become numbers, and statuses exceptions.
"""

cimport cython
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t

from mrm cimport (
    MRM_NO_OVERDRAFT, MRM_OK, MRM_OVERDRAFT, MRM_OVERDRAFT_ONLY, MRM_SHARE_CONTENTS, MRM_ZEROED, mrm_account_options,
    mrm_account_stats, mrm_fund_stats, mrm_pool,
)
from mrm._arrays cimport new_array
from mrm._core cimport Pool
from mrm.errors import ArgumentError
from mrm.physical.accounts cimport (
    account_close, account_credits, account_find, account_flush, account_fund, account_limit, account_name, account_of,
    account_open, account_reset_watermarks, account_stats, account_transfer,
)
from mrm.physical.books cimport NAME_BYTES
from mrm.physical.funds cimport fund_name, fund_open, fund_stats, fund_transfer
from mrm.physical.pool cimport pool_release, pool_retain, pool_t
from mrm.physical.taking cimport account_take, account_take_many, account_take_run, pool_on_shortage
from mrm.sizes import parse_size
from mrm.stats import AccountStats, FundStats
from mrm.system.failure cimport check


cdef uint32_t number_of(object n, str what) except? 0xFFFFFFFF:
    """How many frames, checked."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or not 0 <= n.__index__() < 2**32:
        raise ArgumentError(f"{what} is a number of frames, an int from 0 to 2**32 - 1, not {n!r}")
    return n.__index__()


cdef bytes name_of(object name, str what):
    """A name as C has it, checked."""
    if not isinstance(name, str) or "\0" in name:
        raise ArgumentError(f"the name of {what} is a str, not {name!r}")
    return name.encode()


# ---- funds ----------------------------------------------------------------------------------

cdef class Fund:
    """A part of a pool's promises: made by ``pool.fund(name, size)``.

    What it grants to accounts as balances, and what it lends them beyond, is never more
    than its frames. All funds add up to the pool. In the original: committed, grant and
    pause prevention funds (az_pmem_fund_account).
    """

    cdef readonly Pool pool
    cdef readonly str name
    cdef readonly uint32_t number

    def __init__(self):
        raise TypeError("a Fund is made by pool.fund(name, size)")

    def stats(self):
        """Figures at this moment, in frames: a FundStats."""
        cdef mrm_fund_stats figures
        figures.size = sizeof(figures)
        check(fund_stats(self.pool.open_one(), self.number, &figures))
        return FundStats(self.name, figures.frames, figures.granted, figures.lent, figures.available)

    @property
    def frames(self):
        """Frames that it stands for."""
        return self.stats().frames

    @property
    def available(self):
        """Frames that it has neither granted nor lent."""
        return self.stats().available

    def transfer(self, to, n):
        """Move frames' worth to another fund of the same pool.

        Parameters
        ----------
        to : Fund or str
        n : int
            Frames; no more than are available.

        Raises
        ------
        OutOfFrames
            If fewer are available; then nothing is moved.
        """
        cdef uint32_t other = fund_number(self.pool, to)
        cdef uint32_t count = number_of(n, "what is transferred")
        check(fund_transfer(self.pool.open_one(), self.number, other, count))

    def __repr__(self):
        if self.pool.closed:
            return f"<mrm.Fund {self.name!r} of a closed pool>"
        figures = self.stats()
        return (
            f"<mrm.Fund {self.name!r}: {figures.frames} frames, {figures.granted} granted, {figures.lent} lent, "
            f"{figures.available} available>"
        )


cdef Fund fund_of(Pool pool, uint32_t number):
    cdef Fund fund = Fund.__new__(Fund)
    fund.pool = pool
    fund.number = number
    fund.name = fund_name(pool.open_one(), number).decode()
    return fund


cdef uint32_t fund_number(Pool pool, object fund) except? 0xFFFFFFFF:
    """The number of a fund of this pool, by object or name."""
    cdef uint32_t number = 0
    if isinstance(fund, Fund):
        if (<Fund>fund).pool is not pool:
            raise ArgumentError(f"{fund!r} is another pool's")
        return (<Fund>fund).number
    wanted = name_of(fund, "a fund").decode()
    while fund_name(pool.open_one(), number) != NULL:
        if fund_name(pool.open_one(), number).decode() == wanted:
            return number
        number += 1
    raise ArgumentError(f"there is no fund {fund!r}: make it first, by pool.fund({fund!r}, size)")


def open_fund(Pool pool, name, size):
    """What ``pool.fund`` does."""
    cdef uint32_t number
    cdef bytes text = name_of(name, "a fund")
    if size is None:
        return fund_of(pool, fund_number(pool, name))
    nothing = isinstance(size, int) and not isinstance(size, bool) and size == 0
    frames = 0 if nothing else -(-parse_size(size) // pool.frame_size)
    if name == "committed":
        raise ArgumentError("the committed fund has what the others leave: set their sizes")
    if name not in all_funds(pool):
        # A fund cannot be unmade: so what it is to have is asked for before there is one.
        committed = fund_of(pool, 0)
        committed.transfer(committed, frames)
    check(fund_open(pool.open_one(), text, &number))
    fund = fund_of(pool, number)
    has = fund.frames
    if frames > has:
        fund_of(pool, 0).transfer(fund, frames - has)
    elif has > frames:
        fund.transfer("committed", has - frames)
    return fund


def all_funds(Pool pool):
    """What ``pool.funds`` is."""
    cdef uint32_t number = 0
    found = {}
    while fund_name(pool.open_one(), number) != NULL:
        fund = fund_of(pool, number)
        found[fund.name] = fund
        number += 1
    return found


# ---- accounts --------------------------------------------------------------------------------

cdef class Account:
    """Who pays for frames: made by ``pool.account(name)``, looked up in ``pool.accounts``.

    Its *balance* is a promise: so many frames it can take at any time, whatever others do.
    Beyond, it may be lent frames by its overdraft fund, where a call allows it. A frame is
    charged to the account that took it until it is given back, however it is given. In the
    original: az_pmem accounts.
    """

    def __init__(self):
        raise TypeError("an Account is made by pool.account(name)")

    # ---- frames ----

    @cython.critical_section
    def take(self, n=None, *, overdraft=False, zeroed=False):
        """Take frames, as ``pool.take`` does, and pay for them.

        Parameters
        ----------
        n : int, optional
            How many; one, as an int, when not given.
        overdraft : bool, optional
            Allow that what the balance does not cover is lent.
        zeroed : bool, optional
            Have them hold zeros. Those that never held anything else cost nothing; others
            are cleared, which takes 60 us each.

        Returns
        -------
        int or array.array('I')

        Raises
        ------
        OutOfFrames
            If the account was not promised that many, with who has what; then none is taken.

        Notes
        -----
        Costs what ``pool.take`` does. A frame that another account had is cleared, unless
        both share contents.
        """
        cdef uint32_t frame
        cdef uint32_t *data
        cdef size_t count
        cdef int status
        cdef int how = (MRM_OVERDRAFT if overdraft else 0) | (MRM_ZEROED if zeroed else 0)
        cdef pool_t *pool
        if n is None:
            pool = self.pool.open_one()
            pool_retain(pool)
            with nogil:
                status = account_take(pool, self.number, how, &frame)
                pool_release(pool)
            check(status)
            return frame
        count = number_of(n, "what is taken")
        pool = self.pool.open_one()
        if count > pool.layout.frame_count:
            check(account_take_many(pool, self.number, how, NULL, count))
        taken = new_array(count, &data)
        pool_retain(pool)
        with nogil:
            status = account_take_many(pool, self.number, how, data, count)
            pool_release(pool)
        check(status)
        return taken

    @cython.critical_section
    def take_run(self, n, *, overdraft=False, zeroed=False):
        """Take n frames with numbers that go on, as ``pool.take_run`` does, and pay for them.

        Returns
        -------
        range

        Raises
        ------
        OutOfFrames
            If no such run is free, or not promised; then none is taken.
        """
        cdef uint32_t first
        cdef uint32_t count = number_of(n, "what is taken")
        cdef int how = (MRM_OVERDRAFT if overdraft else 0) | (MRM_ZEROED if zeroed else 0)
        cdef int status
        cdef pool_t *pool = self.pool.open_one()
        if count == 0:
            return range(0)
        pool_retain(pool)
        with nogil:
            status = account_take_run(pool, self.number, how, count, &first)
            pool_release(pool)
        check(status)
        return range(first, first + count)

    def give(self, frames, *, reuse="now"):
        """Give frames back: ``pool.give``. Each goes off the account that it is charged to."""
        self.pool.give(frames, reuse=reuse)

    # ---- promises ----

    def fund(self, n):
        """Raise the balance by n frames, from the committed fund; lower it, for n below 0.

        Raises
        ------
        OutOfFrames
            If the fund has fewer available, or the account uses more than would be left.
        ArgumentError
            If the balance would be more than the limit.
        """
        if isinstance(n, bool) or not isinstance(n, int) or not -2**32 < n < 2**32:
            raise ArgumentError(f"what is funded is a number of frames, an int, not {n!r}")
        cdef int64_t by = n
        check(account_fund(self.pool.open_one(), self.number, by))

    def transfer(self, to, n):
        """Move n frames' worth of balance to another account of the same pool.

        Raises
        ------
        OutOfFrames
            If this account uses more than would be left to it.
        """
        cdef uint32_t other = account_number(self.pool, to)
        cdef uint32_t count = number_of(n, "what is transferred")
        check(account_transfer(self.pool.open_one(), self.number, other, count))

    def credits(self, *accounts):
        """Say whose balance grows, instead of this one's staying, when this account gives a frame back.

        The promise goes to the first of these whose balance is below its limit. None named:
        it keeps its promises, as at first. In the original: az_pmem_set_accounts_to_credit.

        Parameters
        ----------
        *accounts : Account or str
            Up to 8.
        """
        cdef uint32_t numbers[8]
        cdef size_t i
        cdef size_t n = len(accounts)
        if n > 8:
            raise ArgumentError(f"up to 8 accounts get an account's credits, not {n}")
        for i in range(n):
            numbers[i] = account_number(self.pool, accounts[i])
        check(account_credits(self.pool.open_one(), self.number, numbers, n))

    def flush(self, *, overdraft_only=False):
        """Return the account's free frames, which its own lists keep, to the pool.

        Parameters
        ----------
        overdraft_only : bool, optional
            Only while it has more than its balance.

        Returns
        -------
        int
            How many. In the original: az_mflush.
        """
        cdef uint32_t flushed
        check(account_flush(
            self.pool.open_one(), self.number, MRM_OVERDRAFT_ONLY if overdraft_only else 0, &flushed
        ))
        return flushed

    # ---- figures ----

    def stats(self):
        """Figures at this moment, in frames, with their watermarks: an AccountStats.

        While one thread takes and gives, watermarks are exact. Among several the high one
        of what is allocated is never too low, and the low one never too high.
        """
        cdef mrm_account_stats figures
        cdef const uint64_t *values = &figures.balance
        cdef size_t i
        figures.size = sizeof(figures)
        check(account_stats(self.pool.open_one(), self.number, &figures))
        return AccountStats(self.name, *[values[i] for i in range((sizeof(figures) - 8) // 8)])

    def reset_watermarks(self):
        """Begin all watermarks anew, at what is now."""
        check(account_reset_watermarks(self.pool.open_one(), self.number))

    @property
    def balance(self):
        """Frames promised to it."""
        return self.stats().balance

    @property
    def allocated(self):
        """Frames that it holds, those that wait for a retire included."""
        return self.stats().allocated

    @property
    def limit(self):
        """Frames that it may have at the most; those that it has beyond, it keeps."""
        return self.stats().limit

    @limit.setter
    def limit(self, n):
        cdef uint32_t frames = number_of(n, "a limit")
        check(account_limit(self.pool.open_one(), self.number, frames))

    # ---- its end ----

    def close(self):
        """End the account; its balance returns to its fund.

        Raises
        ------
        FrameError
            If it holds frames, or has some that wait for a retire.

        Notes
        -----
        Looks at every frame of the pool, some ns each. Not needed before the pool is closed.
        """
        cdef uint32_t number = self.number
        cdef pool_t *pool = self.pool.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = account_close(pool, number)
            pool_release(pool)
        check(status)

    def __repr__(self):
        if self.pool.closed:
            return f"<mrm.Account {self.name!r} of a closed pool>"
        figures = self.stats()
        return f"<mrm.Account {self.name!r}: {figures.allocated} frames of a balance of {figures.balance}>"


def account_in(Pool pool, account):
    """The number of an account of this pool, by object or name, for a batch that has it pay."""
    return account_number(pool, account)


cdef Account account_named(Pool pool, uint32_t number, str name):
    cdef Account account = Account.__new__(Account)
    account.pool = pool
    account.number = number
    account.name = name
    return account


cdef uint32_t account_number(Pool pool, object account) except? 0xFFFFFFFF:
    """The number of an account of this pool, by object or name."""
    cdef uint32_t number
    cdef bytes name
    if isinstance(account, Account):
        if (<Account>account).pool is not pool:
            raise ArgumentError(f"{account!r} is another pool's")
        return (<Account>account).number
    name = name_of(account, "an account")
    check(account_find(pool.open_one(), name, &number))
    return number


def open_account(Pool pool, name, committed, overdraft, limit, share_contents):
    """What ``pool.account`` does."""
    cdef mrm_account_options options
    cdef uint32_t number
    cdef bytes text = name_of(name, "an account")
    cdef bytes from_fund = name_of(getattr(committed, "name", committed), "a fund")
    cdef bytes over = b""
    options.size = sizeof(options)
    options.flags = MRM_SHARE_CONTENTS if share_contents else 0
    options.name = text
    options.committed = from_fund
    options.overdraft = NULL
    options.limit = 0
    if overdraft is None:
        options.flags |= MRM_NO_OVERDRAFT
    else:
        over = name_of(getattr(overdraft, "name", overdraft), "a fund")
        options.overdraft = over
    if limit is not None:
        options.limit = number_of(limit, "limit=")
        if limit == 0:
            raise ArgumentError("limit= is a number of frames from 1 on; without one, it is all of the pool's")
    check(account_open(pool.open_one(), &options, &number))
    return account_named(pool, number, name)


def all_accounts(Pool pool):
    """What ``pool.accounts`` is."""
    cdef uint32_t number
    cdef char name[NAME_BYTES]
    found = {}
    for number in range(1, pool.open_one().frames.books.accounts):
        if account_name(pool.open_one(), number, name) == MRM_OK:
            found[name.decode()] = account_named(pool, number, name.decode())
    return found


def owner_of(Pool pool, uint32_t frame):
    """What ``pool.account_of`` does."""
    cdef uint32_t number
    cdef char name[NAME_BYTES]
    check(account_of(pool.open_one(), frame, &number))
    check(account_name(pool.open_one(), number, name))
    return account_named(pool, number, name.decode())


# ---- shortages --------------------------------------------------------------------------------

cdef class Shortage:
    """A callback; the pool keeps it, and those that it had before, for its life.

    Another thread may be calling the one before at this moment.
    """

    cdef object callback
    cdef Shortage before


cdef void call_back(void *context, mrm_pool *handle, uint32_t account, size_t wanted) noexcept with gil:
    """Call it; what it raises cannot go through C, and is reported as Python reports such things."""
    cdef char name[NAME_BYTES]
    callback = (<Shortage>context).callback
    check(account_name(<pool_t *>handle, account, name))
    callback(name.decode(), wanted)


cdef void let_go(void *context) noexcept with gil:
    """The pool has ended."""
    Py_DECREF(<Shortage>context)


def set_on_shortage(Pool pool, callback):
    """What ``pool.on_shortage`` does."""
    cdef Shortage shortage
    cdef pool_t *handle = pool.open_one()
    if callback is None:
        check(pool_on_shortage(handle, NULL, NULL))
        return
    if not callable(callback):
        raise ArgumentError(f"what is called on a shortage is a function, not {callback!r}")
    shortage = Shortage.__new__(Shortage)
    shortage.callback = callback
    if handle.shortage_kept != NULL:
        shortage.before = <Shortage>handle.shortage_kept
    Py_INCREF(shortage)
    if shortage.before is not None:
        Py_DECREF(shortage.before)      # which the new one holds, now
    handle.shortage_kept = <void *>shortage
    handle.shortage_ends = let_go
    check(pool_on_shortage(handle, <void *>call_back, <void *>shortage))
