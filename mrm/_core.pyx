"""The pool as Python sees it, and the capsule that C programs fetch.

This is where the layers meet: frames come from mrm/physical, addresses from mrm/space. What can
be asked of a pool without taking any is a class of its own below this one (_frames.pyx), and so
is what was promised of it (_economy.pyx).
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
from libc.stdint cimport uint32_t, uint64_t

from mrm cimport MRM_POOL_ACCOUNT, MRM_REUSE_AFTER_RETIRE, MRM_REUSE_NOW
from mrm._arrays cimport Numbers, new_array, own_numbers
from mrm._batch cimport Report
from mrm._capi import _C_API, api_address  # no-cython-lint: the capsule's name says that it is here
from mrm._economy cimport Economy
from mrm._frames cimport frame_of, number_of_frames
from mrm._live cimport LIVE_POOLS, live_changed
from mrm._opening cimport open_pool
from mrm._place cimport mappings
from mrm._reservation cimport check_reservation, make_reservation
from mrm._view cimport make_view
from mrm.errors import ArgumentError, Error
from mrm.physical.frames cimport LATER, NO_FRAME, frames_take, frames_take_cleared
from mrm.physical.pool cimport pool_release, pool_retain, pool_t, pool_usable
from mrm.physical.taking cimport pool_give, pool_give_many, pool_take, pool_take_many, pool_take_run
from mrm.space.commit cimport pool_retire
from mrm.system.failure cimport check
from mrm.system.ranges cimport STATE_OPEN


cdef class Pool(Economy):
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
    numa_node : int, "interleave" or "local", optional
        Take the frames from this node; an error says what it has if that is too little.
        ``"interleave"``: from all nodes in turn. ``"local"``: a share from each, and whoever takes
        gets frames of the node that its processor is on, then of the nearest, down to the last one
        anywhere. See docs/tuning.md.
    path : str or os.PathLike, optional
        A file or directory on a hugetlbfs mount, to have the frames in a file there. A file
        that a living pool has is refused; of any other, the contents are dropped, unless
    keep : bool, optional
        ... they are kept: frames that the file has hold what they held, and cost no clearing.
        They are held by the pool's own account from the start, ``pool.kept`` has their numbers,
        and whoever needs one no more gives it. The size may be more than the file's, not less. With a
        maximum beyond size, what was inflated is still inflated, and size is the least that has memory.
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
        count = number_of_frames(n)    # which may run Python, and so comes before the pointer
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
        cdef uint32_t count = number_of_frames(n)
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
        cdef uint32_t f = frame_of(self, frame)
        cdef pool_t *pool = self.open_one()
        pool_retain(pool)           # another thread may close this Pool between two lines of Python
        try:
            return mappings(pool, f)
        finally:
            pool_release(pool)

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


cdef int end_keeper(object keeper) except -1:
    """Have settings put back that were changed for a pool."""
    if keeper is not None:
        keeper.close()
    return 0
