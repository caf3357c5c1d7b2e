"""Frames of an earlier owner's file: which are there, and the others fetched.

A file on a hugetlbfs mount outlives its pools, and so do the pages in it. fallocate passes over
a page that is there, so opening such a file again clears nothing.

Some may be missing: an earlier owner gave them back to the system, or died while it funded the
file. hugetlbfs has no SEEK_DATA that knows holes (all of a file is data to it), mincore sees
only what this mapping has touched, and a read shows a hole as zeros. What it does have is
st_blocks, which counts the pages in the file. If that says that all are there, nothing more is
asked. Otherwise each frame is asked for by an fallocate of its own, and st_blocks says
whether that fetched a page: two calls a frame, in one thread, while no attachment may touch
the file (locks.py), so that it counts nobody else's. Whatever is fetched is remembered, so that
a failure can give it back.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from mrm.physical.labour import Task
from mrm.system.calls import system_call
from mrm.system.pages import frame_size

_KEEP_SIZE, _PUNCH_HOLE = 1, 2


@dataclass
class Kept:
    """What was in a file of frames before this owner.

    Attributes
    ----------
    size : int
        Bytes it had, whole frames.
    holes : array of int
        Frames below that size that had no page, as far as they have been fetched.
    """

    size: int = 0
    holes: "array[int]" = field(default_factory=lambda: array("I"))
    _there: int = 0  # pages, as counted after the last task

    @property
    def frames(self) -> "array[int]":
        """Numbers of the frames whose contents were kept."""
        holes = set(self.holes)
        return array("I", (f for f in range(self.size // frame_size()) if f not in holes))

    def whole(self, fd: int) -> bool:
        """Whether every page of that size is there."""
        return not self.size or pages(fd) * frame_size() >= self.size

    def tasks(self, fd: int) -> Iterator[Task]:
        """Tasks for one thread: each frame of that size asked for, and fetched where it is missing."""
        self._there = pages(fd)
        for frame in range(self.size // frame_size()):
            yield _Frame(self, fd, frame)

    def undo(self, fd: int) -> None:
        """Take the pages away that the tasks fetched."""
        for frame in self.holes:
            system_call("fallocate", fd, _PUNCH_HOLE | _KEEP_SIZE, frame * frame_size(), frame_size())


@dataclass(frozen=True)
class _Frame:
    """One frame of the file."""

    kept: Kept
    fd: int
    frame: int

    def __call__(self) -> int:
        while True:
            try:
                system_call("fallocate", self.fd, 0, self.frame * frame_size(), frame_size())
                break
            except InterruptedError:
                continue
        if (there := pages(self.fd)) > self.kept._there:
            self.kept.holes.append(self.frame)
        self.kept._there = there
        return frame_size()


def pages(fd: int) -> int:
    """Huge pages that a file has."""
    return os.fstat(fd).st_blocks * 512 // frame_size()


def pages_at(path: str) -> int:
    """The same of a file that may not be there."""
    try:
        return os.stat(path, follow_symlinks=False).st_blocks * 512 // frame_size()
    except OSError:
        return 0
