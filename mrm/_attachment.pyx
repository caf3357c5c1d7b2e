"""Another process's frames as Python sees them.

Buffers keep the attachment alive and in place, as those of views do (_view.pyx): while one
looks, it cannot be closed. Without a GIL methods run in their object's critical section
(see _core.pyx).
"""

import warnings

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from mrm._live cimport LIVE_ATTACHMENTS, live_changed
from mrm._view cimport index, make_buffer
from mrm.errors import ClosedError, ForkedError, FrameError, PinnedError
from mrm.space.attachment cimport attachment_close, attachment_open, attachment_t
from mrm.system.failure cimport check
from mrm.system.pages import frame_size
from mrm.system.ranges cimport STATE_FORKED


cdef class Attachment:
    """All frames of another process's pool, at addresses of this one; made by ``mrm.attach``.

    It shows contents, and nothing else: which frames are held, and what they mean, their owner
    says. ``attachment[frame]`` is a memoryview, which numpy takes as it is. Where it is for reading
    only, the kernel sees to that: a write through an address of it is SIGSEGV.

    The pages stay until it is closed, even when the owner is gone. After fork the child has no
    attachment; it can attach by itself.

    A context manager: it closes the attachment at its end.
    """

    cdef object __weakref__
    cdef attachment_t *attachment   # NULL once closed
    cdef Py_ssize_t exports         # buffers that look through it
    cdef bint told                  # that it was never closed

    def __init__(self):
        raise TypeError("an attachment is made by mrm.attach")

    def __del__(self):
        # Once: the warning keeps what it is about, so that this comes again, when that goes.
        if self.attachment != NULL and self.attachment.state != STATE_FORKED and not self.told:
            self.told = True
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self)

    def __dealloc__(self):
        if self.attachment != NULL:
            live_changed(LIVE_ATTACHMENTS, -1)
            attachment_close(self.attachment)
            self.attachment = NULL

    cdef attachment_t *open_one(self) except NULL:
        if self.attachment == NULL:
            raise ClosedError("the attachment is closed")
        if self.attachment.state == STATE_FORKED:
            raise ForkedError("the attachment is the parent process's: attach in the child, with the ticket")
        return self.attachment

    cdef uint32_t frame_of(self, object frame) except? 0xFFFFFFFF:
        """A frame's number, checked."""
        cdef Py_ssize_t f = index(frame)        # which may run Python, and so comes first
        cdef uint32_t count = self.open_one().frame_count
        if not 0 <= f < count:
            raise FrameError(f"frame {frame} is none of the pool's: they are 0 to {count - 1}")
        return <uint32_t>f

    @property
    def closed(self):
        """Whether it was closed."""
        return self.attachment == NULL

    @property
    @cython.critical_section
    def writable(self):
        """Whether frames can be written to."""
        return bool(self.open_one().writable)

    @property
    @cython.critical_section
    def base(self):
        """Address of frame 0, as an int; frame i lies ``i * frame_size`` behind it."""
        return <uint64_t>self.open_one().base

    @property
    @cython.critical_section
    def frame_size(self):
        """Bytes of a frame: ``mrm.FRAME_SIZE``."""
        return <uint64_t>1 << self.open_one().frame_shift

    @property
    @cython.critical_section
    def size(self):
        """Bytes of all frames."""
        cdef attachment_t *a = self.open_one()
        return <uint64_t>a.frame_count << a.frame_shift

    @cython.critical_section
    def __len__(self):
        """Frames that it shows."""
        return self.open_one().frame_count

    def __iter__(self):
        raise TypeError("an attachment is not iterable: its frames are range(len(attachment))")

    @cython.critical_section
    def address(self, frame):
        """Address of a frame, as an int.

        Raises
        ------
        FrameError
            If the pool has no such frame.
        """
        cdef uint64_t f = self.frame_of(frame)
        cdef attachment_t *a = self.open_one()
        return <uint64_t>a.base + (f << a.frame_shift)

    def buffer(self, frame):
        """A memoryview of a frame's bytes; read-only unless the attachment is writable.

        While it, or anything made from it, lives, the attachment cannot be closed.
        """
        cdef uint64_t f, at
        cdef Py_ssize_t nbytes
        cdef bint readonly
        with cython.critical_section(self):
            f = self.frame_of(frame)
            at = <uint64_t>self.open_one().base + (f << self.attachment.frame_shift)
            nbytes = <Py_ssize_t>1 << self.attachment.frame_shift
            readonly = not self.attachment.writable
        return make_buffer(self, <void *>at, nbytes, readonly, <Py_ssize_t>f)       # which asks once more

    def __getitem__(self, frame):
        """The same as ``buffer(frame)``."""
        return self.buffer(frame)

    @cython.critical_section
    def _exported(self, frame, readonly):
        self.open_one()
        self.exports += 1

    @cython.critical_section
    def _released(self, frame):
        self.exports -= 1

    @cython.critical_section
    def close(self):
        """Give the addresses back; closing twice does nothing.

        Raises
        ------
        PinnedError
            If exported buffers look through it.
        SystemCallError
            If the kernel refused; it is still open then.
        """
        cdef attachment_t *a = self.attachment
        cdef int status
        if a == NULL:
            return
        if self.exports and a.state != STATE_FORKED:
            raise PinnedError(
                f"cannot close the attachment: {self.exports} exported buffers look through it; release them first "
                "(memoryview.release, del)"
            )
        self.attachment = NULL      # no other thread closes it while the GIL is away
        with nogil:
            status = attachment_close(a)
        if status:
            self.attachment = a
        check(status)
        live_changed(LIVE_ATTACHMENTS, -1)

    @cython.critical_section
    def __enter__(self):
        self.open_one()
        return self

    def __exit__(self, *exception):
        self.close()

    @cython.critical_section
    def __repr__(self):
        if self.attachment == NULL:
            return "<mrm.Attachment closed>"
        if self.attachment.state == STATE_FORKED:
            return "<mrm.Attachment of the parent process>"
        access = "writable" if self.attachment.writable else "for reading"
        at = <uint64_t>self.attachment.base
        return f"<mrm.Attachment: {self.attachment.frame_count} frames, {access}, at {at:#x}>"


def open_attachment(int fd, bint huge, uint32_t frame_count, bint writable):
    """Map the frames in a file, whose descriptor stays the caller's."""
    cdef Attachment made = Attachment.__new__(Attachment)
    cdef uint32_t shift = frame_size().bit_length() - 1
    cdef attachment_t *a = NULL
    cdef int status
    with nogil:
        status = attachment_open(&a, fd, huge, frame_count, shift, writable)
    check(status)
    made.attachment = a
    live_changed(LIVE_ATTACHMENTS, 1)
    return made
