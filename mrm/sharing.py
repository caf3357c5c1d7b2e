"""Frames shared with other processes: the ticket, and attaching.

The owner keeps the books: taking and giving, accounts, views, batches. Who attaches gets
addresses of all frames, and learns from the owner, by whatever means both like, which
frame holds what. So nothing in the owner waits for an attached process, or can be
spoilt by its death; only contents can, by those that may write.
"""

import operator
import os
from types import TracebackType
from typing import Any, Self, SupportsIndex

from mrm._attachment import Attachment, open_attachment
from mrm.errors import ArgumentError, ClosedError
from mrm.physical.sharedfile import close, identity, look, open_named, reopen
from mrm.sizes import format_size
from mrm.system.pages import frame_size


class Ticket:
    """What another process attaches by; made by ``pool.share()``, used by ``mrm.attach``.

    It is picklable, so that it goes to workers as an argument of ``multiprocessing.Process``
    (spawn and forkserver), through queues and through pipes. With ``path`` it is
    nothing but words. Without, it has a descriptor (``fileno()``), which pickling sends along: as
    an argument by inheritance, through a queue or pipe by multiprocessing's resource sharer, which
    needs the sender alive; or send it yourself (``socket.send_fds``) and attach to the number.
    The descriptor is closed with the ticket, by ``close()``, a with block, or when the ticket goes.

    Attributes
    ----------
    path : str or None
        The pool's file by name, if it has one.
    writable : bool
        Whether attachments may write.
    frames : int
        How many frames there are.
    """

    def __init__(
        self,
        path: str | None,
        file: tuple[int, int] | None,
        frames: int,
        writable: bool,
        descriptor: Any = None,
    ) -> None:
        self.path = path
        self.writable = writable
        self.frames = frames
        self._file = file
        self._fd = -1
        if descriptor is not None:
            self._fd = descriptor if isinstance(descriptor, int) else descriptor.detach()

    @property
    def frame_size(self) -> int:
        """Bytes of a frame: ``mrm.FRAME_SIZE``."""
        return frame_size()

    def fileno(self) -> int:
        """Its descriptor, for ``socket.send_fds`` and the like; it stays the ticket's.

        Raises
        ------
        ArgumentError
            If it goes by name.
        ClosedError
            If it was closed.
        """
        if self.path is not None:
            raise ArgumentError(f"this ticket goes by name ({self.path}) and has no descriptor")
        if self._fd < 0:
            raise ClosedError("the ticket is closed")
        return self._fd

    def close(self) -> None:
        """Close its descriptor, if it has one. Attachments live on; closing twice does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.path is not None:
            return Ticket, (self.path, self._file, self.frames, self.writable)
        from multiprocessing import reduction  # only here: it takes longer to import than all of mrm

        return Ticket, (None, None, self.frames, self.writable, reduction.DupFd(self.fileno()))

    def __repr__(self) -> str:
        where = self.path or ("closed" if self._fd < 0 else f"descriptor {self._fd}")
        return f"<mrm.Ticket {where}: {self.frames} frames, {'writable' if self.writable else 'for reading'}>"


def make_ticket(fd: int, path: str | None, frames: int, writable: bool) -> Ticket:
    """A ticket for a pool's file; by name, if that still leads to it."""
    if path is not None:
        path = os.path.abspath(path)
        if identity(path) == identity(fd):
            return Ticket(path, identity(fd), frames, writable)
    return Ticket(None, None, frames, writable, reopen(fd, writable))


def attach(
    source: Ticket | str | os.PathLike[str] | SupportsIndex, *, writable: bool | None = None
) -> Attachment:
    """Attach to another process's frames: addresses for all of them, an Attachment.

    Parameters
    ----------
    source : Ticket, str, os.PathLike or int
        A ticket of ``pool.share()``; or the name of a pool's file on a hugetlbfs mount; or a
        descriptor of a pool's file, which stays the caller's.
    writable : bool, optional
        Whether to write to frames, too; as the ticket says, or not, when not given.

    Returns
    -------
    mrm.Attachment

    Raises
    ------
    ArgumentError
        If the ticket is for reading and writing is asked for, the name leads to another file than it
        did, or there are no frames in it.
    SystemCallError
        If the kernel refuses: the file is not there, or not this user's to open or map so.

    Notes
    -----
    No page is taken and none is cleared. The owner need not be alive, if the file has a name.
    """
    if isinstance(source, Ticket):
        if writable and not source.writable:
            raise ArgumentError("the ticket is for reading only: ask the owner for pool.share(writable=True)")
        writable = source.writable if writable is None else bool(writable)
        if source.path is None:
            return _attach(source.fileno(), "the ticket's file", writable, source.frames)
        return _attach_named(source.path, writable, source.frames, source._file)
    if isinstance(source, (str, os.PathLike)):
        return _attach_named(os.fspath(source), bool(writable), None, None)
    if isinstance(source, bool) or not hasattr(source, "__index__"):
        raise ArgumentError(f"a Ticket, a path or a descriptor is what one attaches to, not {source!r}")
    fd = operator.index(source)
    if identity(fd) is None:
        raise ArgumentError(f"{fd} is no open descriptor")
    return _attach(fd, f"descriptor {fd}", bool(writable), None)


def _attach_named(path: str, writable: bool, frames: int | None, file: tuple[int, int] | None) -> Attachment:
    fd = open_named(path, writable)
    try:
        if file is not None and identity(fd) != file:
            raise ArgumentError(
                f"{path} is another file than the pool's that the ticket is for: that one was removed or renamed, or "
                "another mount is seen here"
            )
        return _attach(fd, path, writable, frames)
    finally:
        close(fd)


def _attach(fd: int, what: str, writable: bool, frames: int | None) -> Attachment:
    huge, there = look(fd, what)
    if frames is not None and there < frames:
        raise ArgumentError(
            f"{what} has {format_size(there * frame_size())}, and the ticket is for "
            f"{format_size(frames * frame_size())}: a pool was opened on it anew, with fewer frames; "
            "ask its owner for another ticket"
        )
    return open_attachment(fd, huge, there if frames is None else frames, writable)
