"""What somebody who funds a pool asked for, checked before anything is done."""

import os
from collections.abc import Callable

from mrm.errors import ArgumentError
from mrm.physical.backings import PART, check_threads, useful_threads
from mrm.physical.framefile import check_name
from mrm.physical.kept import pages_at
from mrm.physical.limits import nodes
from mrm.physical.spread import Spread, check_node
from mrm.sizes import format_size
from mrm.system.pages import frame_size

Progress = Callable[[int, int], object]

# More parts than this cost more in Python than they are good for.
_MOST_PARTS = 1024


class Order:
    """What was asked for, checked."""

    def __init__(
        self,
        nbytes: int,
        huge: str,
        node: int | str | None,
        path: str | os.PathLike[str] | None,
        name: str | None,
        threads: int | None,
        progress: Progress | None,
        keep: bool,
    ) -> None:
        if huge not in ("prefer", "require", "off"):
            raise ArgumentError(f'huge is "prefer", "require" or "off", not {huge!r}')
        if not 0 < nbytes < 2**63 or nbytes % frame_size():
            raise ArgumentError(
                f"a pool's size is a positive multiple of {format_size(frame_size())}, unlike {nbytes}"
            )
        if nbytes // frame_size() >= 2**32 - 1:
            raise ArgumentError(f"{format_size(nbytes)} are more than 2**32 - 2 frames")
        if path is not None and huge == "off":
            raise ArgumentError('a file on a hugetlbfs mount has huge pages: leave out path, or huge="off"')
        if keep and (path is None or os.path.isdir(path)):
            raise ArgumentError("keep=True is for a file with a name on a hugetlbfs mount: give its path")
        self.node, self.wish = check_node(node, nodes())
        self.spread: Spread | None = None  # what the wish comes to, once it is known of which memory
        self.alone = ""  # or why it comes to nothing
        check_threads(threads)
        check_name(name or "")
        self.nbytes = nbytes
        self.length = nbytes
        self.path = None if path is None else os.fspath(path)
        self.name = name or "mrm"
        self.threads = threads
        self.progress = progress
        self.keep = keep
        frame = frame_size()
        self.part = max(PART, frame, -(-nbytes // _MOST_PARTS) // frame * frame)

    @property
    def missing(self) -> int:
        """Bytes to be fetched, besides what a file of that name has by now."""
        there = 0 if self.path is None or os.path.isdir(self.path) else pages_at(self.path) * frame_size()
        return max(0, self.nbytes - there)

    def threads_for(self, backing: int) -> int:
        """How many threads clear pages."""
        return useful_threads(backing, self.nbytes, self.threads, self.part)
