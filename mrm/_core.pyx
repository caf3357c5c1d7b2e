"""The pool as Python sees it, and the capsule that C programs fetch.

This is where the layers meet: frames come from mrm/physical, addresses from mrm/space.
Everything that costs time is there and runs without the GIL; here arguments become
arrays, and statuses exceptions. A call that lets go of the GIL retains the pool
meanwhile, since another thread may close it.

Where there is no GIL (free-threaded Python), each method runs in its object's critical
section: what one finds in its fields stays so until it lets go, as with the GIL. With a
GIL that is no code at all. A section is let go where the GIL would be, and also while it
waits for another one: nothing looked at before such a call is relied upon after it.
"""

import warnings

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_BACKING_SMALL, MRM_BACKING_THP, MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_READY,
    MRM_FRAME_POISONED, MRM_FRAME_RELEASED, MRM_FRAME_STRICT, MRM_NO_RETIRE, MRM_POOL_ACCOUNT,
    MRM_REUSE_AFTER_RETIRE, MRM_REUSE_NOW, MRM_SLOT_EMPTY, MRM_STATE_OPEN, mrm_address, mrm_layout, mrm_place,
    mrm_slot, mrm_stats,
)
from mrm._arrays cimport Numbers, new_array, own_numbers
from mrm._batch cimport Report
from mrm._capi import _C_API, api_address  # no-cython-lint: the capsule's name says that it is here
from mrm._live cimport LIVE_POOLS, live_changed
from mrm._opening cimport open_pool
from mrm._reservation cimport check_reservation, make_reservation
from mrm._view cimport Window, make_view, make_window
from mrm.errors import ArgumentError, AuditError, ClosedError, Error, FrameError, PinnedError
from mrm.physical.balloon cimport balloon_frames, pool_deflate
from mrm.physical.frames cimport LATER, NO_FRAME, frames_state, frames_take, frames_take_cleared
from mrm.physical.pool cimport (
    pool_address, pool_audit, pool_copy_frame, pool_description, pool_release, pool_retain, pool_stats, pool_t,
    pool_usable, pool_zero,
)
from mrm.physical.quarantine cimport pool_quarantine, pool_scan
from mrm.physical.taking cimport (
    pool_give, pool_give_many, pool_keep_zeroed, pool_take, pool_take_many, pool_take_run,
)
from mrm.space.commit cimport pool_retire
from mrm.space.inflate cimport pool_inflate
from mrm.space.place cimport classify as classify_address
from mrm.space.reservation cimport list_release, list_reservations, reservation_slot, reservation_t, slot_t
from mrm.stats import Mapping, Place, PoolStats
from mrm.system.failure cimport check
from mrm.system.ranges cimport STATE_FORKED, STATE_OPEN


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    uint64_t mrm_load64(const uint64_t *p)


cdef dict BACKINGS = {MRM_BACKING_HUGETLB: "hugetlb", MRM_BACKING_THP: "thp", MRM_BACKING_SMALL: "small"}
cdef dict FRAME_STATES = {
    MRM_FRAME_READY: "ready", MRM_FRAME_RELEASED: "released", MRM_FRAME_STRICT: "strict", MRM_FRAME_HELD: "held",
    MRM_FRAME_INFLATED: "inflated", MRM_FRAME_POISONED: "poisoned",
}
cdef dict REUSES = {"now": MRM_REUSE_NOW, "after_retire": MRM_REUSE_AFTER_RETIRE}
# In the order of the enums in mrm.h.
cdef tuple PLACE_KINDS = ("nothing", "window", "view", "reservation")
cdef tuple PLACE_STATES = ("unused", "open", "retired", "empty", "shown", "deferred", "forked")
cdef dict PROTECTION_NAMES = {0: "none", 1: "r", 3: "rw"}


cdef class Pool:
    """Physical memory: frames of ``mrm.FRAME_SIZE``, funded before the constructor returns.

    Parameters
    ----------
    size : int or str
        Bytes, or ``"2GiB"``; rounded up to whole frames.
    maximum : int or str, optional
        What it may be deflated to later; its size, when not given. It has frame numbers for
        all of that, and 16 bytes of books each; those beyond size begin in the balloon.
    huge : {"prefer", "require", "off"}, optional
        ``"require"`` takes huge pages or fails with the way out; ``"prefer"`` falls back
        to shared memory with transparent huge pages and then to small ones, with one
        BackingWarning; ``"off"`` takes small pages.
    numa_node : int, optional
        Take the frames from this node; an error says what it has if that is too little.
    path : str or os.PathLike, optional
        A file or directory on a hugetlbfs mount, to have the frames in a file there. A file
        that a living pool has is refused; of any other, the contents are dropped, unless
    keep : bool, optional
        ... they are kept: frames that the file has hold what they held, and cost no clearing.
        They are held by the pool's own account from the start, ``pool.kept`` has their numbers,
        and whoever needs one no more gives it. The size may be more than the file's, not less.
    name : str, optional
        Shown in /proc/self/maps, and in messages.
    dump : bool, optional
        Let core dumps hold the window, and so every frame once. The kernel's own filter
        leaves shared huge pages out as it comes: see docs/tuning.md.
    views : int, optional
        View numbers that are wanted; as many as fit into a TiB, and 63 at least, when
        not given. Fewer where addresses have fewer than 47 bits.
    threads : int, optional
        Threads that fund; chosen by size when not given.
    progress : callable, optional
        Called as ``progress(done_bytes, total_bytes)`` while funding; what it raises
        ends the funding and leaves nothing behind, as Ctrl-C does.

    Raises
    ------
    ArgumentError
        A size that is none, or an option that is none.
    FundingError
        The kernel would not give the frames; the message says which limit stood in the
        way, with its figures and the way out.

    Notes
    -----
    Costs two or three system calls besides one fallocate for every 64 MiB or so, and five for
    the books, which lie where ``mrm top`` can read them (docs/watching.md). The
    kernel clears the pages meanwhile, which is what takes the time.

    take, give, ``address`` and the stats are thread-safe and take no lock in the common
    case; they may be called while batches commit.
    """

    def __init__(
        self, size, *, maximum=None, huge="prefer", numa_node=None, path=None, name=None, dump=False, views=None,
        threads=None, progress=None, keep=False,
    ):
        cdef list told = []
        if self.pool != NULL:
            raise Error("a pool is opened once")
        self.pool = open_pool(
            size, huge, numa_node, path, name, threads, progress, views, dump, maximum, 2, keep, told,
        )
        self.funded = told[0]
        self.name = name
        self.numa_node = numa_node
        self.pinned = {}
        live_changed(LIVE_POOLS, 1)

    def __del__(self):
        if self.pool != NULL and self.pool.state == STATE_OPEN:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self)

    def __dealloc__(self):
        if self.pool != NULL:
            live_changed(LIVE_POOLS, -1)
            with nogil:
                pool_release(self.pool)
            self.pool = NULL

    cdef pool_t *open_one(self) except NULL:
        if self.pool == NULL:
            raise ClosedError("the pool is closed")
        if self.pool.state != STATE_OPEN:
            check(pool_usable(self.pool))
        return self.pool

    # ---- what it is ----------------------------------------------------------------

    @property
    @cython.critical_section
    def backing(self):
        """``"hugetlb"``, ``"thp"`` or ``"small"``: what the frames are made of."""
        return BACKINGS[self.open_one().layout.backing]

    @property
    @cython.critical_section
    def frame_size(self):
        """Bytes of a frame: ``mrm.FRAME_SIZE``, 2 MiB where base pages have 4 KiB."""
        return self.open_one().layout.frame_size

    @property
    @cython.critical_section
    def size(self):
        """Bytes of memory that it has now: without what is in the balloon."""
        cdef pool_t *pool = self.open_one()
        return pool.layout.frame_size * (pool.layout.frame_count - balloon_frames(pool))

    @property
    @cython.critical_section
    def maximum(self):
        """Bytes that it can be deflated to: ``len(pool)`` frames."""
        cdef pool_t *pool = self.open_one()
        return pool.layout.frame_size * pool.layout.frame_count

    @cython.critical_section
    def __len__(self):
        """Frames that there are, those in the balloon too: numbers from 0 on."""
        return self.open_one().layout.frame_count

    @property
    @cython.critical_section
    def number(self):
        """Its number in this process, from 1; what ``mrm.classify`` says."""
        return self.open_one().layout.pool

    @property
    def closed(self):
        """Whether it was closed."""
        return self.pool == NULL

    @property
    @cython.critical_section
    def epoch(self):
        """Retires so far: what frames given with ``reuse="after_retire"`` wait for."""
        return mrm_load64(&self.open_one().frames.figures.epoch)

    @property
    @cython.critical_section
    def description(self):
        """What was funded, and which ways of this kernel the pool goes and what they cost, in words.

        Said when it was opened; ``mrm.features()`` has the same as a table.
        """
        return pool_description(self.open_one()).decode("utf-8", "surrogateescape")

    @property
    def kept(self):
        """Frames that an earlier owner's contents were kept of (``keep=True``), as an array of numbers.

        As found when the pool was opened; that all of them are held was true then.
        """
        cdef object funded
        with cython.critical_section(self):
            self.open_one()
            funded = self.funded
        return funded.kept.frames

    def share(self, *, writable=False):
        """A Ticket, with which another process attaches to the frames: see ``mrm.attach``.

        Parameters
        ----------
        writable : bool, optional
            Whether it may write to them, too.

        Returns
        -------
        mrm.Ticket
            By name, if the pool has a named file (``path=``), and with a descriptor otherwise.

        Raises
        ------
        SystemCallError
            If the pool's file cannot be opened once more, which /proc is needed for.

        Notes
        -----
        Who attaches can look at frames (and write to them), and at all of them. Taking and giving
        stay with this process, and nothing here waits for the others: docs/hosts.md.
        """
        from mrm.sharing import make_ticket

        cdef object funded
        cdef pool_t *pool
        with cython.critical_section(self):
            pool = self.open_one()
            pool_retain(pool)           # so that its descriptor is its own until the ticket is made
            funded = self.funded
        try:
            return make_ticket(pool.fd, funded.path, pool.layout.frame_count, bool(writable))
        finally:
            pool_release(pool)

    @property
    @cython.critical_section
    def layout(self):
        """How its addresses are made, as a dict: the C struct ``mrm_layout``."""
        return self.open_one().layout

    @property
    @cython.critical_section
    def window(self):
        """Every frame at a permanent address: a Window."""
        return make_window(self.open_one(), self)

    def __iter__(self):
        raise TypeError("a pool is not iterable: its frames are range(len(pool))")

    # ---- frames --------------------------------------------------------------------

    @cython.critical_section
    def take(self, n=None):
        """Take frames.

        Parameters
        ----------
        n : int, optional
            How many; one, as an int, when not given.

        Returns
        -------
        int or array.array('I')
            A warm frame, or n frames: up to 63 warm ones first, more from the lowest
            numbers on, so that runs stay together.

        Raises
        ------
        OutOfFrames
            If there are fewer free ones; then none is taken.

        Notes
        -----
        Costs nanoseconds and no system call; the contents are whatever they were.
        """
        cdef uint32_t frame
        cdef uint32_t *data
        cdef size_t count
        cdef int status
        cdef pool_t *pool
        if n is None:
            pool = self.pool
            if pool == NULL:
                self.open_one()
            status = pool_usable(pool)
            if status == 0:
                status = frames_take(&pool.frames, MRM_POOL_ACCOUNT, LATER, &frame)
            if status:
                # Only now without the GIL, and with a user of its own: a frame may have to be
                # cleared, and who is told of a shortage may wait for other threads, or close the pool.
                pool_retain(pool)
                with nogil:
                    if status == LATER and frame != NO_FRAME:
                        status = frames_take_cleared(&pool.frames, MRM_POOL_ACCOUNT, &frame)
                    else:
                        status = pool_take(pool, &frame)
                    pool_release(pool)
                check(status)
            return frame
        count = _number_of_frames(n)    # which may run Python, and so comes before the pointer
        pool = self.open_one()
        if count > pool.layout.frame_count:
            check(pool_take_many(pool, NULL, count))
        taken = new_array(count, &data)
        pool_retain(pool)
        with nogil:
            status = pool_take_many(pool, data, count)
            pool_release(pool)
        check(status)
        return taken

    @cython.critical_section
    def take_run(self, n):
        """Take n frames with numbers that go on: they map and move in one call.

        Returns
        -------
        range
            Of frame numbers.

        Raises
        ------
        OutOfFrames
            If no such run is free; then none is taken.
        """
        cdef uint32_t first
        cdef uint32_t count = _number_of_frames(n)
        cdef int status
        cdef pool_t *pool = self.open_one()
        if count == 0:
            return range(0)
        pool_retain(pool)
        with nogil:
            status = pool_take_run(pool, count, &first)
            pool_release(pool)
        check(status)
        return range(first, first + count)

    @cython.critical_section
    def give(self, frames, *, reuse="now"):
        """Give frames back.

        Parameters
        ----------
        frames : int or array of int
            Held frames that no reservation shows, but for deferred aliases.
        reuse : {"now", "after_retire"}, optional
            Whether they may be taken again at once, or only after the next retire of a
            view, a reservation or the pool, and only when their own deferred aliases
            are gone.

        Raises
        ------
        FrameError
            If one of them is not this pool's, is not held, is there twice, or is still
            shown by a slot; then none is given.
        PinnedError
            If an exported buffer looks at one of them.
        """
        cdef int how, status
        cdef Numbers given
        cdef uint32_t frame
        cdef pool_t *pool
        if reuse == "now":
            how = MRM_REUSE_NOW
        elif reuse == "after_retire":
            how = MRM_REUSE_AFTER_RETIRE
        else:
            raise ArgumentError(f"reuse= is 'now' or 'after_retire', not {reuse!r}")
        if type(frames) is int and 0 <= frames <= 0xFFFFFFFF:
            frame = frames
            if self.pinned:
                self._check_unpinned(&frame, 1)
            pool = self.pool
            if pool == NULL:
                self.open_one()
            status = pool_give(pool, frame, how)
            if status:
                check(status)
            return
        given = own_numbers(frames, "frames")
        pool = self.open_one()
        if self.pinned:
            self._check_unpinned(given.data, given.n)
        pool_retain(pool)
        with nogil:
            status = pool_give_many(pool, given.data, given.n, how)
            pool_release(pool)
        check(status)

    cdef int _check_unpinned(self, uint32_t *frames, size_t n) except -1:
        cdef size_t i
        for i in range(n):
            if frames[i] in self.pinned:
                raise PinnedError(
                    f"an exported buffer looks at frame {frames[i]}: release it before the frame is given"
                )
        return 0

    @cython.critical_section
    def _is_pinned(self, frame):
        return frame in self.pinned

    @cython.critical_section
    def _exported(self, frame, readonly):
        self.pinned[frame] = self.pinned.get(frame, 0) + 1

    @cython.critical_section
    def _released(self, frame):
        self.pinned[frame] -= 1
        if not self.pinned[frame]:
            del self.pinned[frame]

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

    # ---- broken memory -----------------------------------------------------------------

    @cython.critical_section
    def quarantine(self, frame):
        """Take a frame out of use for good, since its memory is broken.

        Parameters
        ----------
        frame : int
            One that is free, or held and shown by no slot. It is charged to nobody then, is
            never handed out again, and its addresses go on trapping.

        Raises
        ------
        FrameError
            If a slot shows it, or it waits for a retire, or is in the balloon.

        Notes
        -----
        A touch of broken memory sends SIGBUS, with the address; ``mrm.classify`` tells the frame.
        The promise behind it goes, too: of the committed fund, of another, or in the end of the
        balance of the account that held it.
        """
        cdef uint32_t f = _frame_of(self, frame)
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:             # the thread that clears frames may have to be waited for
            status = pool_quarantine(pool, f)
            pool_release(pool)
        check(status)

    @cython.critical_section
    def scan(self):
        """Which frames have broken memory, as the kernel knows, without touching any.

        Returns
        -------
        array.array('I')
            Frames, those in quarantine already among them.

        Raises
        ------
        SystemCallError
            If the kernel cannot say: it takes 5.14 (MADV_POPULATE_READ).

        Notes
        -----
        One system call for 64 huge pages, or a frame of others; who takes or gives batches may wait for a call.
        """
        cdef pool_t *pool = self.open_one()
        cdef size_t n = pool.layout.frame_count
        cdef uint32_t *data
        cdef int status
        found = new_array(n, &data)
        pool_retain(pool)
        with nogil:
            status = pool_scan(pool, data, &n)
            pool_release(pool)
        check(status)
        return found[:n]

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
        return done, _error_of(status)

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
        return done, _error_of(status)

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

        return owner_of(self, _frame_of(self, frame))

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
        cdef uint32_t count = _number_of_frames(n)
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = pool_keep_zeroed(pool, count)
            pool_release(pool)
        check(status)

    @cython.critical_section
    def state_of(self, frame):
        """A frame's state: ``"ready"``, ``"released"``, ``"strict"``, ``"held"``, ``"inflated"``, ``"poisoned"``."""
        cdef uint32_t f = _frame_of(self, frame)
        return FRAME_STATES[frames_state(&self.open_one().frames, f)]

    # ---- contents ------------------------------------------------------------------

    @cython.critical_section
    def address(self, frame):
        """Address of a frame in the window, for the pool's life, as an int."""
        cdef uint32_t f = _frame_of(self, frame)
        return <uint64_t>pool_address(self.open_one(), f)

    def __getitem__(self, frame):
        """A writable memoryview of a frame's bytes, through the window.

        It keeps the memory alive, and the frame from being given, as long as it lives.
        """
        cdef Window window
        cdef uint32_t f
        with cython.critical_section(self):
            f = _frame_of(self, frame)
            window = make_window(self.open_one(), self)
        return window[f]        # which asks this pool to note it

    @cython.critical_section
    def zero(self, frames):
        """Clear held frames, through the window, without the GIL.

        Parameters
        ----------
        frames : int or array of int
        """
        cdef Numbers cleared = own_numbers(frames, "frames")
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = pool_zero(pool, cleared.data, cleared.n)
            pool_release(pool)
        check(status)

    @cython.critical_section
    def copy_frame(self, target, source):
        """Copy the contents of one held frame to another, without the GIL.

        Parameters
        ----------
        target, source : int
            Frames, in the order of memcpy.
        """
        cdef uint32_t t = _frame_of(self, target), s = _frame_of(self, source)
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = pool_copy_frame(pool, t, s)
            pool_release(pool)
        check(status)

    # ---- address space -------------------------------------------------------------

    @cython.critical_section
    def open_view(self):
        """Fresh addresses for every frame: a View.

        Three system calls, no shootdown and no work per frame: the kernel links a GiB
        of page tables by one entry, on the first touch, where it shares them.

        Raises
        ------
        AddressSpaceError
            If all view numbers are in use: close views, or open the pool with more.
        """
        return make_view(self.open_one(), self)

    @cython.critical_section
    def reserve(self, slots, *, at=None):
        """Addresses for slots of which any can show any frame: a Reservation.

        Parameters
        ----------
        slots : int
            How many; a frame's size of addresses each, and 8 bytes of memory.
        at : int, optional
            The address to lie at; chosen when not given.

        Raises
        ------
        AddressSpaceError
            If something else lies there, or RLIMIT_AS leaves no room.
        """
        cdef uint64_t where = 0
        cdef uint64_t n = check_reservation(slots, at, &where)      # which may run Python
        return make_reservation(self, self.open_one(), n, where)

    @cython.critical_section
    def retire(self):
        """Take the deferred aliases of all the pool's reservations away, as one retire.

        Frames that waited for it become ready. One invalidation for each run of slots
        with nothing else mapped among them.

        Returns
        -------
        Report
        """
        cdef Report report = Report.__new__(Report)
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = pool_retire(pool, &report.figures)
            pool_release(pool)
        check(status)
        return report

    @cython.critical_section
    def mappings(self, frame):
        """Everything that shows a frame: window, open views, slots.

        Returns
        -------
        list of mrm.Mapping

        Notes
        -----
        Looks through the tables of every reservation: 1 ns a slot.
        """
        cdef uint32_t f = _frame_of(self, frame)
        cdef pool_t *pool = self.open_one()
        pool_retain(pool)           # another thread may close this Pool between two lines of Python
        try:
            return self._mappings(pool, f)
        finally:
            pool_release(pool)

    cdef list _mappings(self, pool_t *pool, uint32_t f):
        cdef uint32_t number
        cdef reservation_t **listed
        cdef size_t n, i
        found = [Mapping("window", 0, f, <uint64_t>pool_address(pool, f), "rw")]
        for number in range(1, pool.layout.view_count):
            if mrm_load8(&pool.view_state[number]) == MRM_STATE_OPEN:
                found.append(Mapping("view", number, f, <uint64_t>mrm_address(&pool.layout, number, f), "rw"))
        check(list_reservations(pool, &listed, &n))
        try:
            for i in range(n):
                _mappings_of(listed[i], f, found)
        finally:
            list_release(listed, n)
        return found

    # ---- proof ---------------------------------------------------------------------

    @cython.critical_section
    def stats(self):
        """Figures at this moment: a PoolStats. Counts the frames, 1 ns each."""
        cdef pool_t *pool = self.open_one()
        cdef mrm_stats figures
        figures.size = sizeof(mrm_stats)
        pool_retain(pool)
        with nogil:
            pool_stats(pool, &figures)
            pool_release(pool)
        return _stats_of(&figures)

    def audit(self):
        """Find every frame in the one place where its state says that it is.

        Returns
        -------
        PoolStats

        Raises
        ------
        AuditError
            Naming the first frame that is in no place, or in two.

        Notes
        -----
        For a pool at rest: frames on their way between two places are in none.
        """
        cdef pool_t *pool
        cdef mrm_stats figures
        cdef int status
        figures.size = sizeof(mrm_stats)
        with cython.critical_section(self):
            pool = self.open_one()
            pool_retain(pool)
        with nogil:
            status = pool_audit(pool, &figures)
            pool_release(pool)
        try:
            check(status)
        except Error as error:
            raise AuditError(str(error)) from None
        stats = _stats_of(&figures)
        if stats.ready + stats.released + stats.strict + stats.held + stats.inflated + stats.poisoned != stats.frames:
            raise AuditError(f"the states do not add up to the {stats.frames} frames that there are: {stats}")
        return stats

    def page_size_of(self, frame):
        """Bytes of the kernel's pages that a frame really is made of, read from /proc/self/smaps.

        Reading it takes the kernel milliseconds. The window's pages are there from the start.
        """
        from mrm.verify import page_size_at

        return page_size_at(self.address(frame))

    # ---- its end -------------------------------------------------------------------

    def close(self):
        """End the use of this object; closing twice does nothing.

        The frames go back to the kernel when the last user goes: views, reservations
        and exported buffers keep the pool alive by themselves.
        """
        scaler, self.scaler = self.scaler, None
        if scaler is not None:
            scaler.close()          # waits for its thread, which may be at work on the pool
        self._close()

    @cython.critical_section
    def _close(self):
        """The rest of it."""
        cdef pool_t *pool = self.pool
        if pool == NULL:
            return
        self.pool = NULL
        live_changed(LIVE_POOLS, -1)
        keeper, self.keeper = self.keeper, None
        try:
            end_keeper(keeper)      # before the frames go: see keeping.py
        finally:
            with nogil:
                pool_release(pool)

    @cython.critical_section
    def __enter__(self):
        self.open_one()
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    @cython.critical_section
    def _c_pool(self):
        """Address of the C handle."""
        return <uint64_t>self.open_one()

    @cython.critical_section
    def _c_retained(self):
        """The same, with one user more: what the table's pool_from_object gives out."""
        cdef pool_t *pool = self.open_one()
        pool_retain(pool)
        return <uint64_t>pool

    @cython.critical_section
    def __repr__(self):
        cdef mrm_layout layout
        cdef uint64_t at
        if self.pool == NULL:
            return "<mrm.Pool closed>"
        if self.pool.state == STATE_FORKED:
            return f"<mrm.Pool {self.pool.layout.pool} of the parent process>"
        layout = self.pool.layout
        at = <uint64_t>self.pool.window
        name = f" {self.name!r}" if self.name else ""   # whose repr may close the pool
        return (
            f"<mrm.Pool {layout.pool}{name}: {layout.frame_count} frames, {BACKINGS[layout.backing]}, at {at:#x}>"
        )


cdef int end_keeper(object keeper) except -1:
    """Have settings put back that were changed for a pool."""
    if keeper is not None:
        keeper.close()
    return 0


cdef object _error_of(int status):
    """The exception of a status, made but not raised; None for MRM_OK."""
    try:
        check(status)
    except Error as error:
        return error
    return None


cdef uint32_t _number_of_frames(object n) except? 0xFFFFFFFF:
    """How many frames are asked for, checked."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or not 0 <= n.__index__() < 2**32:
        raise ArgumentError(f"a number of frames is an int from 0 to 2**32 - 1, not {n!r}")
    return n.__index__()


cdef uint32_t _frame_of(Pool pool, object frame) except? 0xFFFFFFFF:
    """A frame number of a pool, checked. What __index__ does comes before the pointer."""
    cdef uint32_t count
    if isinstance(frame, bool) or not hasattr(frame, "__index__"):
        raise ArgumentError(f"a frame is an int, not {frame!r}")
    number = frame.__index__()
    count = pool.open_one().layout.frame_count
    if not 0 <= number < count:
        raise FrameError(f"frame {number} is none of this pool's: they are 0 to {count - 1}")
    return number


cdef object _stats_of(const mrm_stats *figures):
    """The struct as Python's table: all its fields after size and version, in order."""
    cdef const uint64_t *values = &figures.frame_size
    cdef size_t i
    return PoolStats(*[values[i] for i in range((sizeof(mrm_stats) - 8) // 8)])


cdef int _mappings_of(reservation_t *r, uint32_t frame, list found) except -1:
    """Add the slots of one reservation that show a frame."""
    cdef mrm_slot shown
    cdef slot_t seen
    cdef uint32_t slot
    for slot in range(r.slots):
        (<uint64_t *>&seen)[0] = mrm_load64(<uint64_t *>&r.slot[slot])
        if seen.frame == frame and seen.state != MRM_SLOT_EMPTY:
            reservation_slot(r, slot, &shown)
            if shown.state != MRM_SLOT_EMPTY and shown.frame == frame:
                found.append(Mapping(
                    "reservation", r.number, slot, shown.address, PROTECTION_NAMES[shown.protection], shown.state == 2
                ))
    return 0


def frame_states():
    """Names of the states of frames by their numbers, as a dict; for whoever reads books."""
    return dict(FRAME_STATES)


def backings():
    """Names of backings by their numbers."""
    return dict(BACKINGS)


def classify(address):
    """What an address is: which pool, view or reservation, slot, frame and state.

    Parameters
    ----------
    address : int
        Any address at all.

    Returns
    -------
    mrm.Place

    Notes
    -----
    No system call and no lock. The C function of the same name may be called in a
    signal handler, so that it knows why an access trapped.
    """
    cdef mrm_place place
    cdef uint64_t at = <uint64_t>(address & 0xFFFFFFFFFFFFFFFF)
    classify_address(<void *>at, &place)
    known = place.frame != 0xFFFFFFFF
    return Place(
        PLACE_KINDS[place.kind], PLACE_STATES[place.state], place.pool, place.number,
        place.frame if known else None, FRAME_STATES[place.frame_state] if known else None,
        place.slot, PROTECTION_NAMES[place.protection], place.offset,
    )
