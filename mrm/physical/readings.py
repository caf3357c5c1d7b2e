"""How things stand for a pool that scales: figures of the pool, of the kernel's huge pages and of limits.

It is looked four times a second where there is a timer, so a look is cheap. Which limits of control
groups there are is found every ten seconds, by parsing /proc/self/cgroup and mountinfo and walking the
groups; in between only the two figures of each limit are read. How much of what a group uses
is file cache takes its whole memory.stat, and is looked at where the limit is near.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from mrm.physical.cgroups import (
    GroupLimit,
    LimitFile,
    counts_hugetlb_as_memory,
    hugetlb_limit_files,
    memory_limit_files,
)
from mrm.physical.files import read_text
from mrm.physical.keeping import Keeper
from mrm.physical.limits import HugePages, huge_pages, meminfo, memory_available
from mrm.physical.scaling import Marks, Near, Reading
from mrm.stats import Ballooned, PoolStats

#: Seconds between two looks whether control groups have got limits.
BETWEEN_LOOKS = 10.0


class Scalable(Protocol):
    """What it takes of a pool."""

    @property
    def frame_size(self) -> int:
        """Bytes of a frame."""

    @property
    def backing(self) -> str:
        """What it consists of."""

    def stats(self) -> PoolStats:
        """Figures."""

    def inflate(self, size: int, **how: Any) -> Ballooned:
        """Give memory of free frames back; with ``to="system"`` beyond the kernel's huge pages."""

    def deflate(self, size: int, **how: Any) -> Ballooned:
        """Fetch memory for frames that have none; with ``source="system"`` from beyond them."""

    def _keeper(self) -> Keeper:
        """What changes settings for it."""


class Readings:
    """Takes readings of how things stand for a pool.

    Parameters
    ----------
    pool : Scalable
        The pool.
    marks : Marks
        What is asked of it.
    root : Path
        Where /proc and /sys are.
    clock : callable
        What tells the time.
    """

    def __init__(self, pool: Scalable, marks: Marks, root: Path, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._marks = marks
        self._root = root
        self._clock = clock
        #: Whether a frame given back is memory that a limit of a group counts.
        self.counted = not marks.huge or counts_hugetlb_as_memory(root)
        self._failures = _failed_allocations(root)
        self._files: list[tuple[str, LimitFile]] = []
        self._looked: float | None = None  # when these were found
        self._margin = 0  # frames that are left to the file cache and to the kernel

    def take(self, happened: tuple[tuple[str, str], ...] = ()) -> Reading:
        """A reading of now, after these events."""
        figures = self._pool.stats()
        funded = figures.nbytes // figures.frame_size  # what is broken is no memory
        time = self._clock()
        kernels = self.kernels_pool()
        wanted = self._marks.leave_memory or not self._marks.huge or (kernels and kernels.growth)
        memory = self.memory() if wanted else None
        limits = tuple(self._limits(time, memory))
        left = memory if self._marks.leave_memory else None
        makes = refused = 0
        if kernels is not None and kernels.growth:
            # Half of what is available: the rest may lie in pieces. Where that is wrong, somebody is
            # refused, and it is counted; without surplus pages the kernel tries to make none.
            makes = min(kernels.growth, (memory or 0) // 2)
            before, self._failures = self._failures, _failed_allocations(self._root)
            refused = max(0, self._failures - before)
        return Reading(
            time,
            funded,
            figures.free,
            figures.ready,
            figures.inflated,
            None if kernels is None else kernels.available + makes,
            0 if kernels is None else kernels.surplus,
            makes > 0,
            refused,
            limits,
            happened,
            left,
        )

    def memory(self) -> int | None:
        """Ordinary memory that is available, in frames; None where it cannot be seen."""
        nbytes = memory_available(None, self._root)
        return None if nbytes is None else nbytes // self._marks.frame_size

    def kernels_pool(self) -> HugePages | None:
        """The kernel's huge pages; None where they are hidden, or nothing to the pool."""
        return huge_pages(self._marks.frame_size, None, self._root) if self._marks.huge else None

    def _limits(self, now: float, memory: int | None) -> Iterator[Near]:
        """The limits that count, and how near they are."""
        frame = self._marks.frame_size
        if self._looked is None or now - self._looked >= BETWEEN_LOOKS:
            self._looked = now
            # A thirty-second is left to the file cache and to the kernel.
            self._margin = meminfo(self._root).get("MemTotal", 0) // 32 // frame
            self._files = [
                (kind, file) for kind, file in self._find_files() if file.read(cache=False) is not None
            ]
        for kind, file in self._files:
            if (limit := file.read(cache=False)) is None:
                continue
            margin = self._marks.leave_free if kind == "huge pages" else _margin(limit) // frame
            # Nothing is decided by what is left beyond the margin and a step.
            if file.caches and limit.left // frame < margin + self._marks.step:
                limit = file.read() or limit
            yield Near(f"{limit.directory}/{limit.file}", kind, limit.left // frame, margin)
        if not self._marks.huge and memory is not None:
            yield Near("MemAvailable of /proc/meminfo", "memory", memory, self._margin, gives=False)

    def _find_files(self) -> Iterator[tuple[str, LimitFile]]:
        if self._marks.huge:
            for file in hugetlb_limit_files(self._marks.frame_size, self._root):
                yield "huge pages", file
        if self.counted:
            for file in memory_limit_files(self._root):
                yield "memory", file


def _margin(limit: GroupLimit) -> int:
    """Bytes of a limit on memory that are to be left."""
    return min(limit.limit // 16, 256 << 20)


def _failed_allocations(root: Path) -> int:
    """Huge pages that the kernel could not make since it booted."""
    for line in read_text(root / "proc/vmstat").splitlines():
        if line.startswith("htlb_buddy_alloc_fail "):
            return int(line.split()[1])
    return 0
