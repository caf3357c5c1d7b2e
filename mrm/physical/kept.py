"""Frames of an earlier owner's file: which are there, and the others fetched.

A file on a hugetlbfs mount outlives its pools, and so do the pages in it. fallocate passes over
a page that is there, so opening such a file again clears nothing.

Some may be missing: an earlier owner gave them back to the system, or died while it funded the
file. st_blocks counts the pages in the file, and if that says that all are there, nothing more is
asked. Otherwise each frame is asked for by an fallocate of its own, and st_blocks says
whether that fetched a page: two calls a frame, in one thread, while no attachment may touch
the file (locks.py), so that it counts nobody else's. Whatever is fetched is remembered, so that
a failure can give it back.

If the pool may shrink and grow (maximum), a frame without a page is one that was inflated, and stays so,
but for as many as make up the size that was asked for, the lowest. Which those are, the kernel tells
without a page being fetched (holes.py). Where it does not, they are asked for as above, one at a time: what is
fetched and was not wanted is given back at once, and no page to be had (ENOSPC) means that none was there.
"""

import errno
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mrm.errors import FundingError
from mrm.physical import holes
from mrm.system.calls import system_call
from mrm.system.pages import frame_size

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_NO_PAGE = (errno.ENOSPC, errno.ENOMEM)


class FrameTask(Protocol):
    """A task that is about one frame."""

    @property
    def frame(self) -> int:
        """Which."""

    def __call__(self) -> int:
        """Do it; the bytes that were done."""


@dataclass
class Kept:
    """What was in a file of frames before this owner.

    Attributes
    ----------
    size : int
        Bytes it had, whole frames.
    holes : array of int
        Frames below that size that had no page, as far as they have been fetched; ascending.
    inflated : array of int
        Frames below that size that have none, and are to have none; ascending.
    how : str
        How these were told apart from the others, if that was dearer than it should be.
    """

    size: int = 0
    holes: "array[int]" = field(default_factory=lambda: array("I"))
    inflated: "array[int]" = field(default_factory=lambda: array("I"))
    how: str = ""
    _there: int = 0  # pages, as counted after the last task

    @property
    def frames(self) -> "array[int]":
        """Numbers of the frames whose contents were kept."""
        without = {*self.holes, *self.inflated}
        return array("I", (f for f in range(self.size // frame_size()) if f not in without))

    def runs(self, count: int) -> list[tuple[int, int]]:
        """Where frames of a pool that has memory for ``count`` have it: runs of them, as (first, how many)."""
        found = []
        first = 0
        for frame in (*self.inflated, count + len(self.inflated)):
            if frame > first:
                found.append((first, frame - first))
            first = frame + 1
        return found

    def whole(self, fd: int) -> bool:
        """Whether every page of that size is there."""
        return not self.size or pages(fd) * frame_size() >= self.size

    def tasks(self, fd: int, wanted: int | None = None) -> Iterator[FrameTask]:
        """Tasks for one thread: each frame of that size asked for, and fetched where it is missing.

        All, if ``wanted`` is not given; otherwise the lowest ``wanted``, and the others are as before.
        """
        self._there = pages(fd)
        for frame in range(self.size // frame_size()):
            yield _Frame(self, fd, frame, wanted)

    def look(self, fd: int, wanted: int) -> Iterator[FrameTask]:
        """Have the kernel tell which frames have no page: tasks to fetch the lowest ``wanted``; the others stay so.

        Raises
        ------
        holes.NotTold
            If it does not; then there is ``tasks``.
        """
        count = self.size // frame_size()
        missing = holes.missing(fd, count)
        if count - len(missing) != pages(fd):
            raise holes.NotTold("a page of it cannot be read, or is being touched")
        self.inflated = missing[wanted:]
        return iter([_Hole(self, fd, frame) for frame in missing[:wanted]])

    def check(self, fd: int) -> None:
        """Refuse to go on with a file that has not as many pages as there are frames to have one."""
        count = self.size // frame_size() - len(self.inflated)
        if (there := pages(fd)) != count:
            raise FundingError(
                f"the file has {there} huge pages, and {count} frames that should have one: somebody changes it at "
                "this moment"
            )

    def undo(self, fd: int) -> None:
        """Take the pages away that the tasks fetched."""
        for frame in self.holes:
            _drop(fd, frame)


@dataclass(frozen=True)
class _Frame:
    """One frame of the file, and how many without a page are to have one: all, if that is not said."""

    kept: Kept
    fd: int
    frame: int
    wanted: int | None = None

    def __call__(self) -> int:
        kept, enough = self.kept, self.wanted is not None and len(self.kept.holes) >= self.wanted
        try:
            fetch(self.fd, self.frame * frame_size(), frame_size())
        except OSError as error:
            if not enough or error.errno not in _NO_PAGE:
                raise
            kept.inflated.append(self.frame)
            return 0
        if (there := pages(self.fd)) <= kept._there:
            return frame_size()
        kept.holes.append(self.frame)
        if enough:
            _drop(self.fd, self.frame)
            kept.inflated.append(kept.holes.pop())
            return 0
        kept._there = there
        return frame_size()


@dataclass(frozen=True)
class _Hole:
    """One frame that has no page, and is to have one."""

    kept: Kept
    fd: int
    frame: int

    def __call__(self) -> int:
        self.kept.holes.append(self.frame)  # beforehand: undoing may take away what is not there
        fetch(self.fd, self.frame * frame_size(), frame_size())
        return frame_size()


def fetch(fd: int, offset: int, nbytes: int) -> None:
    """Have a part of a file get its pages, whatever signals come."""
    while True:
        try:
            system_call("fallocate", fd, 0, offset, nbytes)
            return
        except InterruptedError:
            continue


def _drop(fd: int, frame: int) -> None:
    system_call("fallocate", fd, _PUNCH_HOLE | _KEEP_SIZE, frame * frame_size(), frame_size())


def pages(fd: int) -> int:
    """Huge pages that a file has."""
    return os.fstat(fd).st_blocks * 512 // frame_size()


def pages_at(path: str) -> int:
    """The same of a file that may not be there."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * 512 // frame_size()
    except OSError:
        return 0
