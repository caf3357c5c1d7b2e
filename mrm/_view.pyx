"""Windows and views as Python sees them, and the buffers that show one frame.

A buffer keeps what it looks through alive and in place: while a memoryview (or a numpy
array, or anything else that exports were made to) looks through a view, the view can
be neither retired nor closed, and says so with PinnedError, a BufferError.

Without a GIL methods run in their object's critical section (see _core.pyx).
"""

import warnings

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_WRITABLE
from libc.stdint cimport uint64_t

from mrm cimport MRM_STATE_OPEN
from mrm._live cimport LIVE_VIEWS, live_changed
from mrm.errors import ClosedError, FrameError, PinnedError
from mrm.physical.pool cimport pool_release, pool_retain, pool_t, pool_usable
from mrm.physical.showing cimport frames_look, frames_settle
from mrm.space.views cimport view_close, view_open, view_retire, view_shares, view_t
from mrm.system.failure cimport check
from mrm.system.ranges cimport STATE_FORKED


cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef class FrameBuffer:
    """One frame's bytes, exported by the buffer protocol; made by ``view[frame]``."""

    def __init__(self):
        raise TypeError("a FrameBuffer is made by indexing a window, view or reservation")

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if self.readonly and flags & PyBUF_WRITABLE:
            raise BufferError("the slot is mapped for reading only")
        # Asked anew each time: a memoryview's .obj may be kept, and exported from later.
        self.owner._exported(self.key, self.readonly)
        buffer.buf = self.address
        buffer.len = self.nbytes
        buffer.readonly = self.readonly
        buffer.itemsize = 1
        buffer.format = <char *>b"B" if flags & PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL
        buffer.obj = self

    def __releasebuffer__(self, Py_buffer *buffer):
        self.owner._released(self.key)


cdef Py_ssize_t index(object number) except? -1:
    """A frame's or slot's number; -1, which is none, for one that is far out of range."""
    try:
        return number
    except OverflowError:
        return -1


cdef object make_buffer(object owner, void *address, Py_ssize_t nbytes, bint readonly, Py_ssize_t key):
    """A memoryview of bytes that belong to ``owner``."""
    cdef FrameBuffer buffer = FrameBuffer.__new__(FrameBuffer)
    buffer.owner = owner
    buffer.address = address
    buffer.nbytes = nbytes
    buffer.readonly = readonly
    buffer.shape[0] = nbytes
    buffer.strides[0] = 1
    buffer.key = key
    return memoryview(buffer)


cdef class Window:
    """Every frame of a pool at a permanent address; ``pool.window``.

    Code that has a frame's number always has an address, so that clearing, copying and
    checking need no mapping. Open for the pool's life; addresses through it never trap.
    """

    def __init__(self):
        raise TypeError("a window is made by its pool: use pool.window")

    def __dealloc__(self):
        if self.pool != NULL:
            with nogil:
                pool_release(self.pool)

    cdef int check_open(self) except -1:
        """Raise unless addresses may be asked for."""
        if self.pool == NULL:
            raise ClosedError("the view is closed")
        if self.pool.state == STATE_FORKED:
            check(pool_usable(self.pool))
        return 0

    @property
    @cython.critical_section
    def base(self):
        """Address of frame 0, as an int."""
        self.check_open()
        return <uint64_t>self.start

    @property
    def number(self):
        """The view number in each of its addresses; 0 for the window."""
        return 0

    @cython.critical_section
    def address(self, frame):
        """Address of a frame, as an int.

        Costs no system call; two shifts and an addition.

        Raises
        ------
        FrameError
            If the pool has no such frame.
        """
        cdef Py_ssize_t f = index(frame)
        return self.address_of(f, frame)

    cdef uint64_t address_of(self, Py_ssize_t f, object frame) except 0:
        """The same, of a number that nothing is to be asked about any more."""
        cdef uint32_t count
        if self.pool == NULL or self.pool.state == STATE_FORKED:
            self.check_open()
        count = self.pool.layout.frame_count
        if not 0 <= f < count:
            raise FrameError(f"frame {frame} is none of this pool's: they are 0 to {count - 1}")
        return <uint64_t>self.start + (<uint64_t>f << self.pool.layout.frame_shift)

    @cython.critical_section
    def frame_of(self, address):
        """The frame that an address in this view shows.

        Raises
        ------
        FrameError
            If the address lies outside.
        """
        cdef uint64_t at, into
        self.check_open()
        if not 0 <= address < 2**64:
            raise FrameError(f"{address} is no address")
        at = address
        self.check_open()           # comparing may have run Python
        into = at - <uint64_t>self.start
        if into >= <uint64_t>self.pool.layout.frame_count << self.pool.layout.frame_shift:
            raise FrameError(f"address {at:#x} is not in the view at {<uint64_t>self.start:#x}")
        return into >> self.pool.layout.frame_shift

    def __getitem__(self, frame):
        """A writable memoryview of the frame's bytes.

        While it, or anything made from it, lives, the view stays as it is.
        """
        return self.buffer_of(index(frame), frame)

    cdef object buffer_of(self, Py_ssize_t f, object frame):
        """The same, of a number that nothing is to be asked about any more."""
        cdef uint64_t at
        cdef Py_ssize_t nbytes
        with cython.critical_section(self):
            self.check_shown()
            at = self.address_of(f, frame)
            nbytes = self.pool.layout.frame_size
        return make_buffer(self, <void *>at, nbytes, False, f)      # which looks once more

    @cython.critical_section
    def __len__(self):
        """Frames that it shows."""
        self.check_open()
        return self.pool.layout.frame_count

    def __iter__(self):
        raise TypeError("a view is not iterable: its frames are range(len(view))")

    def _exported(self, frame, readonly):
        with cython.critical_section(self):
            self.check_shown()
            self.look(frame)        # which keeps the frame out of the balloon
            self.exports += 1       # from here on nothing ends it, and the owner stays
        try:
            self.owner._exported(frame, readonly)
        except BaseException:
            with cython.critical_section(self):
                self.exports -= 1
                self.look_away(frame)
            raise

    cdef int look(self, frame) except -1:
        """Note that a buffer looks at a frame: at a free one, it is counted there."""
        cdef bint counted
        check(frames_look(&self.pool.frames, frame, &counted))
        if counted:
            if self.looked_at is None:
                self.looked_at = {}
            self.looked_at[frame] = self.looked_at.get(frame, 0) + 1
        return 0

    cdef int look_away(self, frame) except -1:
        """The opposite. A child has its parent's buffers, of a view that it may have closed, and not its frames."""
        if self.pool != NULL and self.pool.state != STATE_FORKED and self.looked_at and frame in self.looked_at:
            frames_settle(&self.pool.frames, frame)
            self.looked_at[frame] -= 1
            if not self.looked_at[frame]:
                del self.looked_at[frame]
        return 0

    cdef int check_shown(self) except -1:
        """Raise unless its addresses show their frames."""
        return self.check_open()

    def _released(self, frame):
        cdef object owner
        with cython.critical_section(self):
            owner = self.owner
            self.exports -= 1
            self.look_away(frame)
        owner._released(frame)

    def __repr__(self):
        kind = type(self).__name__
        with cython.critical_section(self):
            if self.pool == NULL:
                return f"<mrm.{kind} closed>"
            if self.pool.state == STATE_FORKED:
                return f"<mrm.{kind} of the parent process>"
            return (
                f"<mrm.{kind} {self.view_number()} at {<uint64_t>self.start:#x}, "
                f"{self.pool.layout.frame_count} frames>"
            )

    cdef uint32_t view_number(self) noexcept:
        return 0


cdef class View(Window):
    """Fresh addresses for every frame of a pool; ``pool.open_view()``.

    One mapping, no work per frame. Opening costs three system calls and no shootdown,
    retiring one call and one shootdown, closing nothing once retired. Any number of
    views may be open, and be retired and closed in any order.

    A context manager: it closes the view at its end.
    """

    def __init__(self):
        raise TypeError("a view is made by its pool: use pool.open_view()")

    def __del__(self):
        if self.view != NULL and self.pool.state != STATE_FORKED:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self)

    def __dealloc__(self):
        if self.view != NULL:
            live_changed(LIVE_VIEWS, -1)
            view_close(self.view)
            self.view = NULL

    @property
    @cython.critical_section
    def number(self):
        """The view number in each of its addresses, from 1."""
        self.check_open()
        return self.view.number

    cdef uint32_t view_number(self) noexcept:
        return self.view.number

    @property
    @cython.critical_section
    def state(self):
        """``"open"``, ``"retired"``, ``"closed"``, or ``"forked"`` in a child."""
        if self.view == NULL:
            return "closed"
        if self.pool.state == STATE_FORKED:
            return "forked"
        return "open" if self.view.state == MRM_STATE_OPEN else "retired"

    def __getitem__(self, frame):
        """A writable memoryview of the frame's bytes.

        While it, or anything made from it, lives, the view cannot be retired.

        Raises
        ------
        ClosedError
            If the view is retired or closed.
        """
        return self.buffer_of(index(frame), frame)

    cdef int check_shown(self) except -1:
        self.check_open()
        # Busy: another thread has let go of the GIL to retire it.
        if self.busy or self.view.state != MRM_STATE_OPEN:
            raise ClosedError(f"view {self.view.number} is retired: its addresses trap")

    @cython.critical_section
    def _shares_page_tables(self):
        """Whether it shares the window's page tables; None where that cannot be told. Touches two frames."""
        self.check_shown()
        shares = view_shares(self.pool, self.start, self.pool.window)
        return None if shares < 0 else shares == 1

    cdef int _check_unpinned(self, str verb) except -1:
        if self.exports:
            raise PinnedError(
                f"cannot {verb} view {self.view.number}: {self.exports} exported buffers look through it; "
                f"release them first (memoryview.release, del)"
            )
        return 0

    @cython.critical_section
    def retire(self):
        """End the view's mapping: from now on any access through it traps.

        The addresses stay reserved, so that nothing else can come to lie under a stale
        pointer. One system call and one shootdown, whatever the pool's size; frames
        that were given with ``reuse="after_retire"`` become ready.

        Raises
        ------
        PinnedError
            If exported buffers look through it.
        ClosedError
            If it is retired or closed already.
        SystemCallError
            If the kernel refused; the view is still open then.
        """
        cdef int status
        cdef view_t *view = self.view
        self.check_open()
        self._check_unpinned("retire")
        self.busy += 1
        with nogil:
            status = view_retire(view)
        self.busy -= 1
        check(status)

    @cython.critical_section
    def close(self):
        """Give the addresses back to the pool, retiring the view first if it is open.

        The number is used again only when all others are used up, oldest closed first.
        Closing twice does nothing.

        Raises
        ------
        PinnedError
            If exported buffers look through it.
        """
        cdef int status
        cdef view_t *view = self.view
        cdef pool_t *pool = self.pool
        if view == NULL:
            return
        if view.state == MRM_STATE_OPEN and self.pool.state != STATE_FORKED:
            self._check_unpinned("close")
        self.view = NULL            # no other thread closes it while the GIL is away
        self.pool = NULL
        while self.busy:            # one is retiring it
            with nogil:
                sched_yield()
        with nogil:
            status = view_close(view)
        if status:
            self.view = view
            self.pool = pool
        check(status)
        with nogil:
            pool_release(pool)
        if not self.exports:        # there may be some in a child, where they trap
            self.owner = None
        live_changed(LIVE_VIEWS, -1)

    @cython.critical_section
    def __enter__(self):
        self.check_open()
        return self

    def __exit__(self, *exception):
        self.close()


cdef Window make_window(pool_t *pool, object owner):
    """The window of a pool."""
    cdef Window window = Window.__new__(Window)
    pool_retain(pool)
    window.pool = pool
    window.start = pool.window
    window.owner = owner
    return window


cdef View make_view(pool_t *pool, object owner):
    """Open a view of a pool."""
    cdef View view = View.__new__(View)
    cdef int status
    pool_retain(pool)               # another thread may close the Pool while the GIL is away
    with nogil:
        status = view_open(pool, &view.view)
    view.pool = pool                # which __dealloc__ releases
    check(status)
    view.start = view.view.base
    view.owner = owner
    live_changed(LIVE_VIEWS, 1)
    return view
