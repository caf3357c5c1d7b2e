"""What was promised of a pool, and how much memory it has: funds, accounts, balloon, scaling.

These are the doors; what is behind most of them is imported when one is first opened, so that a
program without accounts or balloon does not pay for them at its start: _accounts.pyx, _balloon.py,
physical/autoscale.py.
"""

cimport cython
from libc.stdint cimport uint32_t

from mrm cimport MRM_NO_RETIRE
from mrm._frames cimport Frames, frame_of, number_of_frames
from mrm._nodes cimport balloon_by_node
from mrm.errors import Error
from mrm.physical.balloon cimport pool_deflate
from mrm.physical.pool cimport pool_release, pool_retain, pool_t
from mrm.physical.taking cimport pool_keep_zeroed
from mrm.space.inflate cimport pool_inflate
from mrm.system.failure cimport check


cdef class Economy(Frames):
    """A pool's funds and accounts, and its balloon: what mrm.Pool has besides frames and addresses."""

    # ---- accounts --------------------------------------------------------------------

    def fund(self, name, size=None):
        """A part of the pool's promises: a Fund, of this size from now on.

        Parameters
        ----------
        name : str
            ``"overdraft"`` and ``"pause_prevention"`` are there, with nothing; others are made.
        size : int or str, optional
            Bytes, or ``"64MiB"``, rounded up to whole frames: what the committed fund, which
            begins with the whole pool, has to give, or gets back. As it is, when not given.

        Raises
        ------
        OutOfFrames
            If the committed fund has fewer available, or this one uses more.
        ArgumentError
            If there is no such fund and no size is given.
        """
        from mrm._accounts import open_fund

        return open_fund(self, name, size)

    @property
    def funds(self):
        """All funds, by name."""
        from mrm._accounts import all_funds

        return all_funds(self)

    def account(self, name, *, committed="committed", overdraft="overdraft", limit=None, share_contents=False):
        """Open an account, with a balance of 0 frames: an Account.

        Parameters
        ----------
        name : str
            No two open accounts of a pool have the same.
        committed : str or Fund, optional
            The fund that its balance is granted by, in ``account.fund(n)``.
        overdraft : str, Fund or None, optional
            The fund that may lend it more; None: it has its balance, and no more.
        limit : int, optional
            Frames that it may have at the most; all of the pool's, when not given.
        share_contents : bool, optional
            Do not clear frames that pass between this account and others that share, too.

        Raises
        ------
        ArgumentError
            If the name is taken, or a fund is not there.
        MetadataMemoryError
            If there are as many accounts as there can be: 1022, fewer from 64 processors on.
        """
        from mrm._accounts import open_account

        return open_account(self, name, committed, overdraft, limit, share_contents)

    @property
    def accounts(self):
        """All open accounts, by name; ``"pool"`` is the one that ``pool.take`` takes from."""
        from mrm._accounts import all_accounts

        return all_accounts(self)

    def account_of(self, frame):
        """The Account that a held or strict frame is charged to.

        Raises
        ------
        FrameError
            If the frame is free.
        """
        from mrm._accounts import owner_of

        return owner_of(self, frame_of(self, frame))

    @cython.critical_section
    def on_shortage(self, callback):
        """Have a function called when frames are short, so that somebody can give some back.

        Parameters
        ----------
        callback : callable or None
            Called as ``callback(account_name, wanted)``, in the thread that found too few, with
            no lock held; afterwards that thread is tried once more. What it takes itself does not
            call it again. An exception of it is reported by ``sys.unraisablehook``, and the taker
            gets its OutOfFrames. None: nobody is called.

        Notes
        -----
        It may give frames back, retire, and move promises. The pool keeps it for its life.
        """
        from mrm._accounts import set_on_shortage

        set_on_shortage(self, callback)

    @cython.critical_section
    def keep_zeroed(self, n):
        """Keep free frames cleared, in the background, for ``account.take(zeroed=True)``.

        Parameters
        ----------
        n : int
            How many; 0, as at first: none, and no thread.

        Raises
        ------
        ArgumentError
            If the pool has fewer frames.
        MetadataMemoryError
            If there is no thread to be had.
        SystemCallError
            If the thread may not give way to all others (SCHED_IDLE); then there is none.

        Notes
        -----
        The frames stay free: whoever finds no others gets them. A thread without Python clears
        them when a processor has nothing else to do, and sleeps when as many are ready.
        ``stats().zeroed`` is how many are.
        """
        cdef uint32_t count = number_of_frames(n)
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = pool_keep_zeroed(pool, count)
            pool_release(pool)
        check(status)

    # ---- balloon ---------------------------------------------------------------------

    def inflate(self, size, *, to="pool", retire=True, progress=None):
        """Give the memory of free frames back to the kernel: those with the highest numbers.

        Frames that are held, or promised to accounts, stay as they are.

        Parameters
        ----------
        size : int or str
            Bytes, or ``"1GiB"``, rounded down to whole frames.
        to : {"pool", "system"}, optional
            Where huge pages go: to the kernel's pool of them, which any user may do; or on to the
            system, for whatever use: surplus pages go there by themselves, others are taken out of
            the kernel's pool (nr_hugepages), for which it takes root, and put back when the
            pool closes or its process ends, by kill -9 too. Other memory is the system's anyhow.
        retire : bool, optional
            Whether the pool is retired if too few other frames are free than those that wait
            for a retire, or that a deferred alias shows; if not, these stay.
        progress : callable, optional
            Called as ``progress(done_bytes, total_bytes)`` after each 4 GiB and at the end.

        Returns
        -------
        Ballooned
            Exactly what was done, also if it was less; ``.error`` says why then. With
            ``.or_raise()`` less is an exception.

        Notes
        -----
        Huge pages go to the kernel's pool of them, other memory to the system. For each run of
        neighbours one system call, and a shootdown for each mapping that shows them
        (docs/balloon.md has the rates). Contents are lost: what comes back is zero. Threads that do not touch the
        frames go on.
        """
        from mrm._balloon import inflate

        return inflate(self, size, to, retire, progress)

    def deflate(self, size, *, source="pool", threads=None, progress=None, background=False):
        """Fetch memory for frames in the balloon: those with the lowest numbers.

        Parameters
        ----------
        size : int or str
            Bytes, or ``"1GiB"``, rounded up to whole frames.
        source : {"pool", "system"}, optional
            Where huge pages come from: out of the kernel's pool of them; or from the system, by
            way of that pool, for which it takes root: what was added to nr_hugepages is taken out
            again when the pool closes or its process ends, by kill -9 too.
        threads : int, optional
            How many fetch; by size and processors when not given.
        progress : callable, optional
            Called as ``progress(done_bytes, total_bytes)``, now and then; what it raises ends the
            fetching. What was fetched until then stays.
        background : bool, optional
            Return at once, and fetch meanwhile.

        Returns
        -------
        Ballooned or Deflation
            Exactly what was done, also if it was less; or with ``background=True`` a handle
            that has ``done``, ``wait()`` and ``cancel()``. Frames may be taken as they arrive.

        Notes
        -----
        Costs what the kernel's clearing costs (docs/balloon.md). Others may change the address
        space meanwhile: one thread does not keep them from it, and several populate 8 MiB a call.
        """
        from mrm._balloon import deflate

        return deflate(self, size, source, threads, progress, background)

    def resize(self, size, *, place="pool", threads=None, progress=None):
        """Inflate or deflate, so that the pool has so much memory.

        Parameters
        ----------
        size : int or str
            Bytes, or ``"1GiB"``, rounded up to whole frames; up to ``maximum``.
        place : {"pool", "system"}, optional
            Where huge pages go, or come from.

        Returns
        -------
        Ballooned
        """
        from mrm._balloon import resize

        return resize(self, size, place, threads, progress)

    @cython.critical_section
    def _keeper(self):
        """The keeper of settings that were changed for this pool, until it closes."""
        from mrm.physical.keeping import Keeper

        self.open_one()
        if self.keeper is None:
            self.keeper = Keeper()
        return self.keeper

    @cython.critical_section
    def _inflate(self, n, retire):
        """How many of n frames went into the balloon, and the error if they were fewer."""
        cdef uint32_t wanted = n, done
        cdef int status, flags = 0 if retire else MRM_NO_RETIRE
        cdef pool_t *pool = self.open_one()
        pool_retain(pool)
        with nogil:
            status = pool_inflate(pool, wanted, flags, &done)
            pool_release(pool)
        return done, error_of(status)

    @cython.critical_section
    def _deflate(self, n):
        """How many of n frames came out of it, and the error if they were fewer."""
        cdef uint32_t wanted = n, done
        cdef int status
        cdef pool_t *pool = self.open_one()
        pool_retain(pool)
        with nogil:
            status = pool_deflate(pool, wanted, &done)
            pool_release(pool)
        return done, error_of(status)

    @cython.critical_section
    def _missing_by_node(self):
        """Frames in the balloon that belong to each node, where frames do."""
        return balloon_by_node(self.open_one())

    # ---- scaling ---------------------------------------------------------------------

    def autoscale(
        self, minimum, maximum, *, headroom=None, leave_free=None, leave_memory=0, step=None, calm=10.0, to="pool",
        tell=None, interval=0.25,
    ):
        """Grow ahead of demand and shrink under pressure, in a thread, until the pool or the scaler is closed.

        A pool has one scaler at a time: another takes its place.

        Parameters
        ----------
        minimum, maximum : int or str
            What the pool keeps, and what it grows to, in bytes of memory.
        headroom : int or str, optional
            Free frames to grow to as soon as fewer than half as many are free; an eighth of
            ``maximum`` when not given, 0 for never.
        leave_free : int or str, optional
            Huge pages of the kernel's to be left to others; 64 MiB when not given, 0 to leave none.
        leave_memory : int or str, optional
            Memory that is to stay available to the rest of the machine; with less, as much as is missing is
            sent on to the system, which on huge pages takes ``to="system"``. None when not given. In a virtual
            machine it is what has the pool follow the host's balloon (docs/virtualisation.md).
        step : int or str, optional
            How much at a time; a sixteenth of ``maximum`` when not given.
        calm : float, optional
            Seconds without pressure before it grows again.
        to : {"pool", "system"}, optional
            Whether huge pages are sent on to the system when memory in general is short; by
            default they only ever go to the kernel's pool of them.
        tell : callable, optional
            Called with each ``Entry`` of the log, in the thread.
        interval : float, optional
            Seconds between two looks at what no event tells of.

        Returns
        -------
        Autoscaler
            It has ``log``, ``entries``, ``stats()``, ``running`` and ``close()``. docs/pressure.md says
            what it looks at, and when it does what.
        """
        from mrm.physical.autoscale import Autoscaler

        new = Autoscaler(
            self, minimum, maximum, headroom=headroom, leave_free=leave_free, leave_memory=leave_memory, step=step,
            calm=calm, to=to, tell=tell, interval=interval, start=False,
        )
        # Never two at once: what one gave back, the other would fetch.
        old, self.scaler = self.scaler, new
        if old is not None:
            old.close()
        new._start()
        return new


cdef object error_of(int status):
    """The exception of a status, made but not raised; None for MRM_OK."""
    try:
        check(status)
    except Error as error:
        return error
    return None
