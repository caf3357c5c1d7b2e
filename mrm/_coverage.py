"""How much of a process's memory really lies on huge pages, as the kernel tells it.

``/proc/PID/smaps`` has an entry for each mapping. What it calls ``AnonHugePages``,
``ShmemPmdMapped`` and ``FilePmdMapped`` is shown by entries of the page table that span
2 MiB; ``Shared_Hugetlb`` and ``Private_Hugetlb`` are hugetlb pages, which ``Rss`` leaves
out. All of it is what the page tables hold now, not what was asked for: advice that was
not followed, and pages that were split after a fork, show as what they are.

The kernel walks the page tables for it, while it holds the process's map for reading:
some 10 ms a GiB of small pages, next to nothing on huge ones. The process goes on meanwhile,
so the figures of different mappings are not of one moment.

Mappings of one shared file that overlap, as a pool's window and views do, show the same
memory. Of each part of the file, what the fullest of them shows is counted, and no more.
"""

import heapq
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mrm.errors import ArgumentError, Error
from mrm.sizes import format_size
from mrm.system.pages import frame_size, low_addresses

# What a mapping's memory is counted as, in the order in which it is told.
KINDS = {
    "anonymous": "anonymous memory, such as malloc's large blocks",
    "heap": "the C library's heap",
    "stack": "the first thread's stack",
    "mrm private": "memory of mrm's that survives fork: heaps, arrays, objects",
    "mrm frames": "frames of pools",
    "huge pages": "other mappings of hugetlb pages",
    "shared memory": "memfds, /dev/shm, System V",
    "files": "programs, libraries and files that are mapped",
}

# Figures of smaps, and of smaps_rollup: what of Rss is on huge pages, and what lies beside Rss.
HUGE = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
HUGETLB = ("Shared_Hugetlb", "Private_Hugetlb")
_TOLD = frozenset(("Rss", "KernelPageSize", *HUGE, *HUGETLB))
_SHARED = ("/memfd:", "/dev/shm/", "/SYSV", "/dev/zero", "/anon_hugepage")


@dataclass(frozen=True)
class Portion:
    """Memory of one kind.

    Attributes
    ----------
    kind : str
        What it is, in a word or two: ``"anonymous"``, ``"heap"``, ``"stack"``, ``"mrm private"``,
        ``"mrm frames"``, ``"huge pages"``, ``"shared memory"`` or ``"files"``.
    resident : int
        Bytes that the process has.
    huge : int
        Bytes of these on huge pages.
    """

    kind: str
    resident: int
    huge: int

    @property
    def share(self) -> float:
        """The part on huge pages, from 0 to 1; 0 of nothing."""
        return self.huge / self.resident if self.resident else 0.0


@dataclass(frozen=True)
class Coverage:
    """How much of a process's memory lies on huge pages.

    Attributes
    ----------
    pid : int
        The process.
    portions : tuple of Portion
        By kind; kinds of which there is nothing are left out.
    """

    pid: int
    portions: tuple[Portion, ...]

    @property
    def resident(self) -> int:
        """Bytes that the process has."""
        return sum(portion.resident for portion in self.portions)

    @property
    def huge(self) -> int:
        """Bytes of these on huge pages."""
        return sum(portion.huge for portion in self.portions)

    @property
    def share(self) -> float:
        """The part on huge pages, from 0 to 1."""
        return self.huge / self.resident if self.resident else 0.0

    def of(self, *kinds: str) -> Portion:
        """What there is of these kinds together."""
        chosen = [portion for portion in self.portions if portion.kind in kinds]
        return Portion(" and ".join(kinds), sum(p.resident for p in chosen), sum(p.huge for p in chosen))

    def as_dict(self) -> dict[str, object]:
        """The same for JSON: ``{"pid", "resident", "huge", "share", "kinds": {kind: {"resident", ...}}}``."""
        return {
            "pid": self.pid,
            "page_size": frame_size(),
            "resident": self.resident,
            "huge": self.huge,
            "share": self.share,
            "kinds": {
                portion.kind: {
                    "resident": portion.resident,
                    "huge": portion.huge,
                    "share": portion.share,
                }
                for portion in self.portions
            },
        }

    def __str__(self) -> str:
        return (
            f"{format_size(self.huge)} of {format_size(self.resident)} "
            f"on pages of {format_size(frame_size())} ({self.share:.1%})"
        )


def coverage(pid: int | None = None) -> Coverage:
    """Read from the kernel how much of a process's memory really lies on huge pages.

    Parameters
    ----------
    pid : int, optional
        The process; this one when not given. One's own need no rights.

    Raises
    ------
    Error
        If there is no such process, it has no memory, or it may not be looked into.
    """
    if pid is not None and (isinstance(pid, bool) or not isinstance(pid, int) or pid < 1):
        raise ArgumentError(f"a process has a number from 1, not {pid!r}")
    who = f"process {pid}" if pid is not None else "this process"
    try:
        with open(f"/proc/{'self' if pid is None else pid}/smaps", errors="replace") as smaps:
            portions = tell(smaps)
    except PermissionError as error:
        raise Error(
            f"{who} may not be looked into: {error.strerror}. The kernel allows it to the same user with at least the "
            "process's capabilities, if it is dumpable; and to root",
            call="openat",
            error=error.errno,
        ) from None
    except OSError as error:
        if not os.path.isdir("/proc/self"):
            what = "/proc is not mounted: without it, nothing can be told"
        elif isinstance(error, (FileNotFoundError, ProcessLookupError)) and not os.path.isdir(f"/proc/{pid}"):
            what = f"there is no {who}"
        else:
            what = f"{who}: its smaps cannot be read ({error.strerror}); the kernel may lack CONFIG_PROC_PAGE_MONITOR"
        raise Error(what, call="openat", error=error.errno) from None
    if not portions:
        raise Error(f"{who} has no memory of its own: it has ended, or is a thread of the kernel")
    return Coverage(os.getpid() if pid is None else pid, portions)


@dataclass
class _File:
    """What mappings of one shared file show: of each (start, end in the file, resident, huge)."""

    kind: str
    shown: list[tuple[int, int, int, int]] = field(default_factory=list)

    def portion(self) -> tuple[int, int]:
        """Bytes that they show together, resident and huge."""
        return (
            _together([(start, end, resident) for start, end, resident, _ in self.shown]),
            _together([(start, end, huge) for start, end, _, huge in self.shown]),
        )


def _together(shown: list[tuple[int, int, int]]) -> int:
    """Bytes of a file that mappings show: where several do, as much as the one that shows the largest part."""
    total, at = 0.0, 0
    open_: list[tuple[float, int]] = []  # mappings that have begun: (-part, end)
    for start, end, nbytes in [*sorted(shown), (1 << 63, 1 << 63, 0)]:
        while open_ and at < start:
            part, until = open_[0]
            if until <= at:
                heapq.heappop(open_)
                continue
            stretch = min(until, start) - at
            total -= part * stretch
            at += stretch
        at = start
        if end > start:
            heapq.heappush(open_, (-nbytes / (end - start), end))
    return round(total)


@dataclass(frozen=True)
class _Mapping:
    """One entry of ``smaps``, as far as it is of use here."""

    start: int
    end: int
    flags: str  # "rw-p"
    offset: int
    file: str  # device and inode
    name: str
    resident: int
    huge: int
    hugetlb: bool

    @property
    def shared(self) -> bool:
        """Whether what is written is seen by others that map the same."""
        return self.flags.endswith("s")


def _mappings(lines: Iterable[str]) -> Iterator[_Mapping]:
    """Those of the lines of a ``smaps`` that have any memory."""
    head = ""
    figures: dict[str, int] = {}
    for line in [*lines, "0"]:
        if line[0] not in "0123456789abcdef":  # names of figures begin with a capital
            name, _, figure = line.partition(":")
            if name in _TOLD:
                figures[name] = int(figure.split()[0]) << 10
            continue
        if head and any(figures.get(name) for name in ("Rss", *HUGETLB)):
            yield _mapping(head, figures)
        head, figures = line, {}


def _mapping(head: str, figures: dict[str, int]) -> _Mapping:
    addresses, flags, offset, device, inode, *name = head.split(maxsplit=5)
    start, end = (int(word, 16) for word in addresses.split("-"))
    hugetlb = sum(figures.get(name, 0) for name in HUGETLB)
    huge = sum(figures.get(name, 0) for name in HUGE)
    if figures.get("KernelPageSize", 0) >= frame_size():  # hugetlb knows smaller ones on some processors
        huge += hugetlb
    return _Mapping(
        start,
        end,
        flags,
        int(offset, 16),
        f"{device} {inode}",
        name[0].strip() if name else "",
        figures.get("Rss", 0) + hugetlb,
        huge,
        hugetlb > 0,
    )


def tell(lines: Iterable[str]) -> tuple[Portion, ...]:
    """What the lines of a ``smaps`` say, by kind."""
    found = {kind: [0, 0] for kind in KINDS}
    files: dict[str, _File] = {}
    for m in _mappings(lines):
        kind = _kind_of(m)
        if m.shared:
            span = (m.offset, m.offset + m.end - m.start, m.resident, m.huge)
            files.setdefault(m.file, _File(kind)).shown.append(span)
        else:
            found[kind][0] += m.resident
            found[kind][1] += m.huge
    for file in files.values():
        resident, huge = file.portion()
        found[file.kind][0] += resident
        found[file.kind][1] += huge
    return tuple(Portion(kind, *nbytes) for kind, nbytes in found.items() if nbytes[0])


def coverage_of_ranges(*ranges: tuple[int, int]) -> Portion:
    """How much of what this process has in ranges (address, bytes) lies on huge pages; of whole mappings."""
    with open("/proc/self/smaps", errors="replace") as smaps:
        inside = [
            m
            for m in _mappings(smaps)
            if any(start <= m.start and m.end <= start + nbytes for start, nbytes in ranges)
        ]
    return Portion("mrm private", sum(m.resident for m in inside), sum(m.huge for m in inside))


def _kind_of(m: _Mapping) -> str:
    """What a mapping is; mrm's are known by their place (pages.pyx), or by their name."""
    lowest, highest = low_addresses()
    if m.name.startswith(("/memfd:mrm", "[anon:mrm", "[anon_shmem:mrm")) or lowest <= m.start < highest:
        return "mrm frames" if m.shared else "mrm private"
    if m.hugetlb:
        return "huge pages"
    if m.name == "[heap]":
        return "heap"
    if m.name.startswith("[stack"):
        return "stack"
    if m.name.startswith("[v"):  # vdso, vvar, vsyscall: pages of the kernel's
        return "files"
    if not m.name or m.name.startswith("["):
        return "shared memory" if m.shared else "anonymous"
    return "shared memory" if m.name.startswith(_SHARED) else "files"
