"""CPython's own objects on huge pages.

::

    import mrm.cpython

    objects = mrm.cpython.install()      # from here on, new arenas lie on huge pages
    ...
    print(objects.stats())
    objects.uninstall()                  # arenas that live on stay where they are

CPython carves objects of up to 512 bytes out of *arenas* of 1 MiB. ``install`` has it get
them from chunks of 2 MiB that lie on huge pages (_arenas.pyx says how), so that a program
that walks over many objects meets 512 times fewer entries of the page table. Larger blocks, such as
the tables of dicts and the items of lists, lie on a heap of their own (_large.pyx). It takes
effect for what CPython asks for from then on: install early. ``mrm run`` does it before
the program begins.

**Fork keeps its meaning.** The memory is private: a child sees a snapshot, and what it writes is
its own. What that costs, and why these are transparent huge pages and not those of the
kernel's pool, is in docs/fork.md. ``install(pool)`` has objects on a pool's frames instead, and
fork refused.
"""

import os
import resource
import sys
import sysconfig
import threading
import tracemalloc
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from mrm import _arenas, _large
from mrm._coverage import Portion, coverage_of_ranges
from mrm.errors import ArgumentError, BackingWarning, Error, ForkedError, FundingError
from mrm.physical.limits import address_space_used, overcommit_memory, private_memory_used
from mrm.physical.transparent import swap_and_memory, why_not
from mrm.sizes import format_size, parse_size, parse_size_or_zero
from mrm.system.features import is_missing

if TYPE_CHECKING:
    from mrm import Pool

_ROOM = 2  # addresses for each byte of memory: chunks that are partly used take some
_KEEP = "16MiB"


class _Process:
    """What there is in this process, once."""

    def __init__(self) -> None:
        self.current: Objects | None = None
        self.guarded = False  # whether the audit hook is there
        self.renew_lock()

    def renew_lock(self) -> None:
        """In a child, too: whoever held it did not come along."""
        self.lock = threading.Lock()


_process = _Process()
os.register_at_fork(after_in_child=_process.renew_lock)


@dataclass(frozen=True)
class ObjectStats:
    """What CPython's objects have of mrm's memory, in bytes unless said otherwise.

    Attributes
    ----------
    arenas : int
        Arenas that CPython has, a number.
    arena_size : int
        Of one; 0 before the first.
    small : int
        Of all of them.
    small_peak : int
        The most that it was.
    small_memory : int
        Of the chunks that they lie in, those that are kept included.
    kept : int
        Of chunks without an arena, which are kept for the next.
    large_memory : int
        What large blocks have, those that are kept included.
    large_peak : int
        The most that it was.
    elsewhere : int
        Arenas and large blocks that could not be had here and came from the allocator before, a number.
    refused : int
        Calls for arenas that the kernel refused, a number.
    """

    arenas: int
    arena_size: int
    small: int
    small_peak: int
    small_memory: int
    kept: int
    large_memory: int
    large_peak: int
    elsewhere: int
    refused: int

    @property
    def peak(self) -> int:
        """The most of both; each may have had it at another time."""
        return self.small_peak + self.large_peak


class Objects:
    """CPython's objects on huge pages, until it is uninstalled; a context manager.

    Made by ``mrm.cpython.install``.
    """

    def __init__(self, place: int, pool: "Pool | None", description: str) -> None:
        self._place = place
        self._pool = pool
        self._description = description

    @property
    def active(self) -> bool:
        """Whether new arenas come from here."""
        return _process.current is self

    @property
    def description(self) -> str:
        """What the objects lie on, in a sentence."""
        return self._description

    def stats(self) -> ObjectStats:
        """What CPython's objects have of mrm's memory."""
        small, large = _arenas.figures(self._place), _large.figures(self._place)
        return ObjectStats(
            small["arenas"],
            small["arena_size"],
            small["nbytes"],
            small["peak"],
            small["memory"],
            small["kept"],
            large["memory"],
            large["peak"],
            small["elsewhere"] + large["elsewhere"],
            small["refused"],
        )

    def coverage(self) -> Portion:
        """How much of their memory really lies on huge pages, as the kernel tells it."""
        return coverage_of_ranges(_arenas.where(self._place), *_large.where(self._place))

    def trim(self) -> int:
        """Give the memory that is kept for the next back to the kernel; bytes."""
        return _arenas.trim(self._place) + _large.trim(self._place)

    def collapse(self) -> Portion:
        """Put what forks have split back on huge pages, by MADV_COLLAPSE (Linux 6.1); what lies on them afterwards.

        After a fork, the kernel splits a huge page as soon as parent or child writes to it,
        and later joins it again by itself, at a rate of its own choosing (khugepaged). This does
        it now: 2 MiB are copied for each, and the process goes on meanwhile but for accesses to
        that page. While a child lives that shares a page with the process, the page is left as
        it is.
        """
        if is_missing("MADV_COLLAPSE"):
            raise Error(
                "this kernel has no MADV_COLLAPSE (Linux 6.1): khugepaged joins pages by itself, in time",
                call="madvise",
            )
        _arenas.collapse()
        return self.coverage()

    def uninstall(self) -> None:
        """Have new arenas come from where they came before; those that live on stay good. Twice is once."""
        with _process.lock:
            if _process.current is self:
                _arenas.deactivate()
                _large.deactivate()
                _process.current = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.uninstall()

    def __repr__(self) -> str:
        return f"<mrm.cpython.Objects {'active' if self.active else 'uninstalled'}, {self._description}>"


def install(
    pool: "Pool | None" = None,
    *,
    limit: int | str | None = None,
    keep: int | str = _KEEP,
    huge: Literal["prefer", "require", "off"] = "prefer",
    large: bool = True,
) -> Objects:
    """Have CPython's objects lie on huge pages from now on.

    Parameters
    ----------
    pool : Pool, optional
        Have them on frames of this pool, which are huge pages that are there for sure. A child
        would have none of them, so ``os.fork`` raises ForkedError from then on, until none is left: see
        the notes. Without it they are on private memory, and fork keeps its meaning.
    limit : int or str, optional
        The most memory that arenas may have here, such as ``"4GiB"``; further ones come from
        CPython's own allocator. No limit when not given.
    keep : int or str, optional
        Memory without an arena in it that is kept for the next; when there is twice as much,
        the rest goes back to the kernel.
    huge : {"prefer", "require", "off"}, optional
        Whether to warn (BackingWarning) or to refuse where the kernel gives no transparent huge
        pages. "off" has pages of the ordinary size, to compare with, and leaves large blocks out.
    large : bool, optional
        Whether blocks of more than 512 bytes, such as the tables of dicts and the items of lists, lie
        on huge pages too.

    Returns
    -------
    Objects
        The handle; ``uninstall`` ends it.

    Raises
    ------
    Error
        If this interpreter has no arenas, or objects are on huge pages already.
    FundingError
        If huge pages are required, and the kernel gives none.

    Notes
    -----
    On a pool, ``os.fork``, ``os.forkpty`` and ``multiprocessing`` with fork are refused before anything is
    done. ``subprocess`` works as it is (the child runs on the parent's memory until it is another
    program), with ``preexec_fn``, ``user`` or ``group`` it does not: the child dies of SIGSEGV; and so does one
    that a library makes by fork(2) as soon as it touches an object. The pool stays open
    until the process ends.
    """
    most = None if limit is None else parse_size(limit)
    kept = parse_size_or_zero(keep)
    if huge not in ("prefer", "require", "off"):
        raise ArgumentError(f"huge is 'prefer', 'require' or 'off', not {huge!r}")
    why_no_arenas = _why_no_arenas()
    if why_no_arenas:
        raise Error(why_no_arenas)
    large = large and huge != "off"
    if large and not _large.is_hooked() and tracemalloc.is_tracing():
        raise Error(
            "tracemalloc was started before: when it is stopped, it would put an allocator in place that does not know "
            "of mrm's large blocks. Start it afterwards, or install with large=False"
        )
    with _process.lock:
        if _process.current is not None:
            raise Error(
                f"Python's objects are on mrm's memory already ({_process.current.description}): uninstall that first"
            )
        place, what, why = _on_pool(pool, huge) if pool is not None else _on_memory(huge)
        why_not_large = _why_no_heap() if large and pool is None else ""
        if large and not why_not_large:
            _large.activate(pool, most, kept)
        try:
            _arenas.activate(place, most, kept)
        except Error:
            _large.deactivate()
            raise
        objects = _process.current = Objects(
            place, pool, f"{what}{f', {format_size(most)} at most' if most else ''}"
        )
    if why:
        warnings.warn(f"Python's objects do not lie on huge pages: {why}", BackingWarning, stacklevel=2)
    if why_not_large:
        warnings.warn(
            f"Python's large blocks stay with malloc: {why_not_large}", BackingWarning, stacklevel=2
        )
    return objects


def _on_memory(huge: str) -> tuple[int, str, str]:
    """Private memory: the place, what it is, and why its pages are small, if they are."""
    why = why_not() if huge != "off" else ""
    if why and huge == "require":
        raise FundingError(f"Python's objects cannot lie on huge pages: {why}")
    place = _arenas.on_memory(_addresses_wanted(), overcommit_memory() == 2)
    refused = _arenas.ask_for_huge_pages(huge != "off")
    if refused and huge != "off" and not why:
        why = f"madvise(MADV_HUGEPAGE) says {os.strerror(refused)}"
        if huge == "require":
            raise FundingError(
                f"Python's objects cannot lie on huge pages: {why}", call="madvise", error=refused
            )
    pages = "pages of the ordinary size" if why or huge == "off" else "transparent huge pages"
    return place, f"private memory on {pages}", why


def _on_pool(pool: "Pool", huge: str) -> tuple[int, str, str]:
    """The same of frames of a pool; from here on nobody forks who would lose them."""
    small = pool.backing == "small"
    why = f"the pool does not: {pool.description}" if small and huge != "off" else ""
    if why and huge == "require":
        raise FundingError(f"Python's objects cannot lie on huge pages: {why}")
    place = _arenas.on_pool(pool)
    if not _process.guarded:
        sys.addaudithook(_refuse_forks)
        _process.guarded = True
    return place, f"frames of {pool!r}", why


def _refuse_forks(event: str, _: object) -> None:
    """An audit hook, which can never be taken away: a child would have no object that lies on a pool's frames."""
    if event in ("os.fork", "os.forkpty") and (_arenas.live_on_pool() or _large.memory_on_pool()):
        raise ForkedError(
            "this process has Python's objects on frames of a pool, which a child would not have: start children by "
            "subprocess, or multiprocessing's spawn or forkserver; or have the objects on private memory, "
            "mrm.cpython.install() without a pool"
        )


def installed() -> Objects | None:
    """The handle that is active, or None."""
    return _process.current


def _limits() -> list[tuple[int, int, str]]:
    """Limits on what private memory takes once it is mapped: bytes, those in use, and how to raise it."""
    limits = [
        (resource.RLIMIT_AS, address_space_used, "ulimit -v"),
        (resource.RLIMIT_DATA, private_memory_used, "ulimit -d"),
    ]
    found = [(resource.getrlimit(which)[0], used, way) for which, used, way in limits]
    return [(limit, used(), way) for limit, used, way in found if limit != resource.RLIM_INFINITY]


def _why_no_heap() -> str:
    """Why there is no heap for large blocks; an empty string if there is."""
    return "; ".join(
        f"the process's addresses are limited to {format_size(limit)}, and a heap takes several times those of the "
        f"machine's memory; raise the limit ({way})"
        for limit, _, way in _limits()
    )


def _addresses_wanted() -> int:
    """Bytes of addresses for all arenas: no more than half of those that limits leave."""
    left = [max(0, limit - used) // 2 for limit, used, _ in _limits()]
    return min([_ROOM * swap_and_memory(), *left])


def _why_no_arenas() -> str:
    """Why this interpreter asks for no arenas, with the way out; an empty string if it does."""
    if sys.implementation.name != "cpython":
        return f"{sys.implementation.name} has no arenas of CPython's"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return (
            "a free-threaded CPython has its objects on mimalloc, which asks for no arenas: use the build with the "
            "GIL, or mrm.numpy for arrays"
        )
    chosen = "" if sys.flags.ignore_environment else os.environ.get("PYTHONMALLOC", "")
    if chosen.startswith("mimalloc") or sys.getallocatedblocks() == 0:
        by = f" (PYTHONMALLOC={chosen})" if chosen else ", or was built so (--without-pymalloc)"
        return (
            f"this interpreter was told not to use its own allocator of objects{by}: it has no arenas. Start it "
            "without, or with PYTHONMALLOC=debug"
        )
    return ""
