"""What a pool is, its frames, and what is in them: the ground that mrm.Pool stands on.

Whatever is asked of a pool without changing who has what of it: its size and make, the state of a
frame, its contents, its broken memory, the figures and their proof. Who takes and gives, and where
frames are shown, is Pool's (_core.pyx), which also says how calls let go of the GIL; what was
promised to whom, and what the balloon has, is in between (_economy.pyx).

Nobody makes one of these: a Pool is one.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from mrm cimport (
    MRM_BACKING_HUGETLB, MRM_BACKING_SMALL, MRM_BACKING_THP, MRM_FRAME_HELD, MRM_FRAME_INFLATED, MRM_FRAME_POISONED,
    MRM_FRAME_READY, MRM_FRAME_RELEASED, MRM_FRAME_STRICT, mrm_layout, mrm_stats,
)
from mrm._arrays cimport Numbers, new_array, own_numbers
from mrm._nodes cimport node_of_frame
from mrm._view cimport Window, make_window
from mrm.errors import ArgumentError, AuditError, ClosedError, Error, FrameError, PinnedError
from mrm.physical.balloon cimport balloon_frames
from mrm.physical.frames cimport frames_state
from mrm.physical.pool cimport (
    pool_address, pool_audit, pool_copy_frame, pool_description, pool_release, pool_retain, pool_stats, pool_t,
    pool_usable, pool_zero,
)
from mrm.physical.quarantine cimport pool_quarantine, pool_scan
from mrm.stats import PoolStats
from mrm.system.failure cimport check
from mrm.system.ranges cimport STATE_FORKED, STATE_OPEN


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)


cdef dict BACKINGS = {MRM_BACKING_HUGETLB: "hugetlb", MRM_BACKING_THP: "thp", MRM_BACKING_SMALL: "small"}
cdef dict FRAME_STATES = {
    MRM_FRAME_READY: "ready", MRM_FRAME_RELEASED: "released", MRM_FRAME_STRICT: "strict", MRM_FRAME_HELD: "held",
    MRM_FRAME_INFLATED: "inflated", MRM_FRAME_POISONED: "poisoned",
}


cdef class Frames:
    """What a pool is, its frames, and what is in them: mrm.Pool without its economy and its addresses."""

    def __init__(self):
        raise TypeError("a pool is opened by mrm.Pool(size)")

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

    @cython.critical_section
    def state_of(self, frame):
        """A frame's state: ``"ready"``, ``"released"``, ``"strict"``, ``"held"``, ``"inflated"``, ``"poisoned"``."""
        cdef uint32_t f = frame_of(self, frame)
        return FRAME_STATES[frames_state(&self.open_one().frames, f)]

    @cython.critical_section
    def node_of(self, frame):
        """The NUMA node that a frame's memory lies on, as the kernel says; None if it says none.

        So it is of frames that have no memory (inflated), and, but for huge pages, of those that this
        process has not touched yet. Costs a system call.
        """
        cdef uint32_t f = frame_of(self, frame)
        cdef pool_t *pool = self.open_one()
        pool_retain(pool)
        try:
            return node_of_frame(pool, f)
        finally:
            pool_release(pool)

    # ---- contents ------------------------------------------------------------------

    @cython.critical_section
    def address(self, frame):
        """Address of a frame in the window, for the pool's life, as an int."""
        cdef uint32_t f = frame_of(self, frame)
        return <uint64_t>pool_address(self.open_one(), f)

    def __getitem__(self, frame):
        """A writable memoryview of a frame's bytes, through the window.

        It keeps the memory alive, and the frame from being given, as long as it lives.
        """
        cdef Window window
        cdef uint32_t f
        with cython.critical_section(self):
            f = frame_of(self, frame)
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
        cdef uint32_t t = frame_of(self, target), s = frame_of(self, source)
        cdef pool_t *pool = self.open_one()
        cdef int status
        pool_retain(pool)
        with nogil:
            status = pool_copy_frame(pool, t, s)
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
        cdef uint32_t f = frame_of(self, frame)
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
        return stats_of(&figures)

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
        stats = stats_of(&figures)
        if stats.ready + stats.released + stats.strict + stats.held + stats.inflated + stats.poisoned != stats.frames:
            raise AuditError(f"the states do not add up to the {stats.frames} frames that there are: {stats}")
        return stats

    def page_size_of(self, frame):
        """Bytes of the kernel's pages that a frame really is made of, read from /proc/self/smaps.

        Reading it takes the kernel milliseconds. The window's pages are there from the start.
        """
        from mrm.verify import page_size_at

        return page_size_at(self.address(frame))

    # ---- its handle ----------------------------------------------------------------

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


cdef uint32_t number_of_frames(object n) except? 0xFFFFFFFF:
    """How many frames are asked for, checked."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or not 0 <= n.__index__() < 2**32:
        raise ArgumentError(f"a number of frames is an int from 0 to 2**32 - 1, not {n!r}")
    return n.__index__()


cdef uint32_t frame_of(Frames pool, object frame) except? 0xFFFFFFFF:
    """A frame number of a pool, checked. What __index__ does comes before the pointer."""
    cdef uint32_t count
    if isinstance(frame, bool) or not hasattr(frame, "__index__"):
        raise ArgumentError(f"a frame is an int, not {frame!r}")
    number = frame.__index__()
    count = pool.open_one().layout.frame_count
    if not 0 <= number < count:
        raise FrameError(f"frame {number} is none of this pool's: they are 0 to {count - 1}")
    return number


cdef object stats_of(const mrm_stats *figures):
    """The struct as Python's table: all its fields after size and version, in order."""
    cdef const uint64_t *values = &figures.frame_size
    cdef size_t i
    return PoolStats(*[values[i] for i in range((sizeof(mrm_stats) - 8) // 8)])


def frame_states():
    """Names of the states of frames by their numbers, as a dict; for whoever reads books."""
    return dict(FRAME_STATES)


def backings():
    """Names of backings by their numbers."""
    return dict(BACKINGS)
