"""Getting a pool's frames from the kernel, all of them, before anything uses them.

A page that is fetched on demand can fail to be there, and then the touch dies of
SIGBUS. So the file of frames is filled beforehand, by fallocate, whose answer is final:
under a hugetlb cgroup limit mmap and MAP_POPULATE succeed and only the touch dies,
while fallocate says ENOSPC.

The same holds for memory.max, where huge pages count as memory: a touch beyond it is tried
again by the kernel for ever (6.12, 6.18: the fault says "out of memory", which a fault of
user mode only repeats; SIGKILL ends it) or dies of SIGBUS (7.3), while fallocate and
MADV_POPULATE_WRITE come back with an error on all of them. So pages are only ever fetched
by those two, and nothing is touched that fallocate has not confirmed: a group whose
limits cannot be seen, or that fills up between our look and our call, costs an error and
nothing worse.

fallocate holds the file's lock while it clears pages, so that two threads are no
faster than one (11.7 GB/s both, measured on 2 processors), while page faults run side
by side. Hence the order: map the file once, which reserves the pages and so fails at
once and without side effects if there are too few; have every thread populate its
part through that mapping (11.9 GB/s with one thread, 19.5 with two); and let
fallocate pass over each part, which costs next to nothing where the pages are there,
and decides where they are not. Kernels before 5.14 cannot populate, and a touch that finds
no page may die of SIGBUS: there one thread has fallocate do it all.

Where huge pages cannot be had and are not required, there are two lesser backings: a
memfd of ordinary memory with transparent huge pages, then one with small pages. For
those the answer comes too late: the kernel promises ordinary memory and later kills a
process to find it. What is available is therefore checked first.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mrm.errors import ArgumentError, BackingWarning, FundingError
from mrm.physical.cgroups import counts_hugetlb_as_memory, memory_limits
from mrm.physical.framefile import FrameFile, check_name, refusal
from mrm.physical.kept import Kept, pages_at
from mrm.physical.labour import Task, labour
from mrm.physical.limits import (
    explain_ordinary_shortage,
    explain_shortage,
    group_sentence,
    mount_shortage,
    node_refusal,
    nodes,
    nothing_found,
    process_shortage,
    shmem_thp,
)
from mrm.physical.locks import unattached
from mrm.physical.permission import explain_permission, is_refused
from mrm.physical.placement import bind_thread, bound_nodes, free_thread, has_huge_frames, places
from mrm.physical.substitutes import substitute
from mrm.sizes import format_size
from mrm.system import features
from mrm.system.calls import system_call
from mrm.system.pages import base_page_size, frame_size

# MRM_BACKING_... of include/mrm/mrm.h.
HUGETLB = 1
THP = 2
SMALL = 3

Progress = Callable[[int, int], object]

# Words of shmem_enabled with which a memfd may have huge pages.
_THP_ALLOWED = ("always", "within_size", "advise", "force")

_PROT_NONE, _PROT_READ_WRITE = 0, 3
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 1, 2, 0x10, 0x20
_MAP_NORESERVE, _MAP_POPULATE = 0x4000, 0x8000
_MADV_DONTFORK, _MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 10, 14, 23

# One call's share: so small that Ctrl-C is answered within a tenth of a second even
# where the host has to find the memory first (0.6 GB/s).
_PART = 64 << 20
# More parts than this cost more in Python than they are good for.
_MOST_PARTS = 1024
# A thread is worth starting for this much, which takes it some 10 ms.
_BYTES_A_THREAD = 128 << 20
# A few threads use up what a memory controller can write.
_MOST_THREADS = 8


@dataclass(frozen=True)
class Funded:
    """Frames that are there, until the caller says that they are to stay (``finish``) or to go (``give_up``).

    Attributes
    ----------
    fd : int
        The file that they lie in, frame i at i * frame_size.
    backing : int
        ``HUGETLB``, ``THP`` or ``SMALL``, as ``MRM_BACKING_...`` of mrm.h.
    frame_size : int
        Bytes of a frame.
    frame_count : int
        How many there are.
    path : str or None
        The file's name on a hugetlbfs mount, if it has one.
    description : str
        What was got, in a sentence.
    place : str
        The file that it is in, in words that continue the sentence.
    file : FrameFile
        The file, which knows what there was before.
    """

    fd: int
    backing: int
    frame_size: int
    frame_count: int
    path: str | None
    description: str
    place: str
    file: FrameFile

    @property
    def kept(self) -> Kept:
        """What an earlier owner left in the file."""
        return self.file.kept

    def finish(self) -> None:
        """Let them stay: the file is the caller's to close."""
        self.file.finish()

    def give_up(self) -> None:
        """Give them back: nothing is left, but for a file that was there before, and what was kept of it."""
        self.file.undo()


def fund(
    size_bytes: int,
    *,
    length: int | None = None,
    huge: str = "prefer",
    numa_node: int | None = None,
    path: str | os.PathLike[str] | None = None,
    keep: bool = False,
    name: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    stacklevel: int = 2,
) -> Funded:
    """Get frames from the kernel: all that were asked for, or none and an error.

    Parameters
    ----------
    size_bytes : int
        How much; a multiple of the frame size.
    length : int, optional
        Bytes of the file, of which the first ``size_bytes`` get memory; no more when not given.
    huge : {"prefer", "require", "off"}, optional
        Huge pages or, with a BackingWarning that says why not, the best there is; huge
        pages or an error; small pages.
    numa_node : int, optional
        Where the memory has to be. The caller's own memory policy is left alone.
    path : str or path-like, optional
        A directory on a hugetlbfs mount, for a file without a name there; or a file
        name on one, to be shared by name. What a file that exists holds is dropped. Implies
        ``huge="require"``: no other backing can be shared so.
    keep : bool, optional
        Keep what the file holds, instead: its pages are not cleared. It may grow, not shrink.
    name : str, optional
        What the memfd is called in ``/proc/self/maps``.
    threads : int, optional
        How many clear pages; by size and processors when not given.
    progress : callable, optional
        ``progress(done_bytes, total_bytes)``, called in the calling thread ten times a
        second at most, and at the end. What it raises ends the funding.
    stacklevel : int, optional
        Whose line a BackingWarning names, counted as by ``warnings.warn``; the direct
        caller's when not given.

    Returns
    -------
    Funded

    Raises
    ------
    ArgumentError
        For arguments that make no sense.
    FundingError
        If the frames could not be had; it says which limit stood in the way. Nothing
        is left behind then, nor after a KeyboardInterrupt.
    """
    order = _Order(size_bytes, huge, numa_node, path, name, threads, progress, keep)
    order.length = max(length or 0, size_bytes)
    if huge == "off":
        return _get(order, SMALL)
    try:
        return _get(order, HUGETLB)
    except FundingError as error:
        if huge == "require" or order.path is not None:
            raise
        shortage = error
    funded = _get_lesser(order, shortage)
    try:
        message = f"the pool is on {funded.description}, not on huge pages. {shortage}"
        if funded.backing == SMALL:
            message += f" Nor are they transparent huge pages: {_why_not_transparent()}."
        warnings.warn(message, BackingWarning, stacklevel)
    except BaseException:
        funded.give_up()  # whoever makes warnings errors gets no pool
        raise
    return funded


class _Order:
    """What was asked for, checked."""

    def __init__(
        self,
        nbytes: int,
        huge: str,
        node: int | None,
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
        if node is not None and node not in nodes():
            raise ArgumentError(f"this machine has no NUMA node {node!r}; it has {_list(nodes())}")
        check_threads(threads)
        check_name(name or "")
        self.nbytes = nbytes
        self.length = nbytes
        self.node = node
        self.path = None if path is None else os.fspath(path)
        self.name = name or "mrm"
        self.threads = threads
        self.progress = progress
        self.keep = keep
        frame = frame_size()
        self.part = max(_PART, frame, -(-nbytes // _MOST_PARTS) // frame * frame)

    @property
    def missing(self) -> int:
        """Bytes to be fetched, besides what a file of that name has by now."""
        there = 0 if self.path is None or os.path.isdir(self.path) else pages_at(self.path) * frame_size()
        return max(0, self.nbytes - there)

    def threads_for(self, backing: int) -> int:
        """How many threads clear pages."""
        return useful_threads(backing, self.nbytes, self.threads, self.part)


def check_threads(threads: int | None) -> None:
    """Refuse what is no number of threads."""
    if threads is not None and (isinstance(threads, bool) or not 1 <= threads <= 1024):
        raise ArgumentError(f"threads is 1 to 1024, not {threads!r}")


def useful_threads(backing: int, nbytes: int, wanted: int | None = None, part: int = _PART) -> int:
    """How many threads should fetch pages.

    Parameters
    ----------
    backing : int
        Of which kind.
    nbytes : int
        How much.
    wanted : int, optional
        How many somebody asked for: as many, if they have something to do.
    part : int, optional
        Bytes that a thread does at a time.

    Raises
    ------
    ArgumentError
        If ``wanted`` is no number of threads.
    """
    check_threads(wanted)
    if backing != SMALL and not _populates():
        return 1  # fallocate does it, and lets in one at a time
    if wanted is not None:
        return max(1, min(wanted, -(-nbytes // part)))  # no more than have something to do
    if backing == SMALL:
        # fallocate alone, which one thread does as fast as two (4 GB/s, measured);
        # page faults of 4 KiB are slower still.
        return 1
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, nbytes // max(_BYTES_A_THREAD, frame_size()), _MOST_THREADS))


def _get_lesser(order: _Order, shortage: FundingError) -> Funded:
    """The best there is without huge pages."""
    try:
        setting = shmem_thp()
        if setting in _THP_ALLOWED:
            try:
                return _get(order, THP)
            except _NoHugeFrames as error:
                funded = _get(order, SMALL)
                return replace(funded, description=f"{funded.description}, as {error}")
        return _get(order, SMALL)
    except FundingError as error:
        raise FundingError(
            f"{shortage} Nor can ordinary memory be had: {error}",
            call=error.call or shortage.call,
            error=error.errno or shortage.errno,
            nbytes=order.nbytes,
        ) from error


class _NoHugeFrames(FundingError):
    """Transparent huge pages were allowed, but none was to be had."""


def _get(order: _Order, backing: int) -> Funded:
    """Frames of one backing, or nothing and an error."""
    _check_beforehand(order, backing)
    try:
        return _get_in(order, backing, order.path)
    except _NoMemfd as refused:
        directory = substitute(backing == HUGETLB)
        if directory is None:
            raise refused.error from refused.error.__cause__
    return _get_in(order, backing, directory)


class _NoMemfd(Exception):
    """memfd_create itself was refused; the error to raise unless there is another way."""

    def __init__(self, error: FundingError) -> None:
        super().__init__(str(error))
        self.error = error


def _get_in(order: _Order, backing: int, path: str | None) -> Funded:
    """The same in a memfd, or at ``path``."""
    file = FrameFile(order.length, backing == HUGETLB, order.name, path, order.keep, order.nbytes)
    began = time.perf_counter()
    try:
        file.make()
        threads = order.threads_for(backing)
        _fill(order, backing, file, threads)
        if not file.made_name:
            file.finish()  # there is no name to be taken away again
        seconds = time.perf_counter() - began
        description = _describe(order, backing, threads, seconds, file.kept)
        count = order.nbytes // frame_size()
        place = _place(order, file)
        return Funded(file.fd, backing, frame_size(), count, file.kept_path, description, place, file)
    except OSError as error:
        file.undo()
        # Only now: the pages that were got are back, and the figures are those of before.
        refused = refusal(error, order.nbytes, _why(order, backing, error, file.directory))
        if path is None and error.filename == "memfd_create" and is_refused(error):
            refused.__cause__ = error
            raise _NoMemfd(refused) from error
        raise refused from error
    except BaseException:
        file.undo()
        raise


def _check_beforehand(order: _Order, backing: int) -> None:
    """Refuse what the kernel would answer with a signal, or only after much harm."""
    said = shortage_beforehand(order.missing, backing, order.node, order.length)
    if said:
        raise FundingError(f"{_what(order, backing)} cannot be funded. {said}", nbytes=order.nbytes)


def shortage_beforehand(nbytes: int, backing: int, node: int | None = None, length: int = 0) -> str:
    """Why so much memory should not even be asked for; empty if it may be.

    Parameters
    ----------
    nbytes : int
        How much.
    backing : int
        Of which kind.
    node : int, optional
        On which NUMA node.
    length : int, optional
        Bytes of the file that it is for, if that is to be made.
    """
    found: list[str | None] = [node_refusal(node)]
    if backing != HUGETLB:
        found += [explain_ordinary_shortage(nbytes, node)]
    else:
        # Beyond RLIMIT_FSIZE the kernel sends SIGXFSZ, which kills by default.
        found += process_shortage(length, None)
        if counts_hugetlb_as_memory():
            # Near these it would push out the whole group's file cache before it refuses, and
            # beyond memory.high it puts the process to sleep.
            wanted = nbytes + (16 << 20)
            found += [group_sentence(limit, wanted) for limit in memory_limits() if limit.left < wanted]
    return " ".join(filter(None, found))


def _populates() -> bool:
    """Whether pages can be fetched through a mapping, by several threads at once (5.14)."""
    return not features.is_missing("MADV_POPULATE_WRITE")


# ---- filling ---------------------------------------------------------------------


def _fill(order: _Order, backing: int, file: FrameFile, threads: int) -> None:
    """Fetch every page of the file that is not there."""
    fd = file.fd
    if order.node is None and (backing == SMALL or _complete(order, file)):
        _labour(order, _parts(order, fd, 0), threads)
        return
    # Room for one frame more: the kernel aligns mappings of huge pages, but not of memory
    # that is to become huge.
    room = order.nbytes + frame_size()
    start = system_call("mmap", 0, room, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE, -1, 0)
    try:
        address = -(-start // frame_size()) * frame_size()
        _reserve(order, fd, address)
        system_call("madvise", address, order.nbytes, _MADV_DONTFORK)
        if backing == THP:
            system_call("madvise", address, order.nbytes, _MADV_HUGEPAGE)
        populated = backing != SMALL and _populates()
        _fetch_holes(order, file)
        _labour(
            order, _parts(order, fd, address if populated else 0, file.kept.size), threads, file.kept.size
        )
        if order.node is not None or (backing == THP and not populated):
            _map_pages(order, fd, address)
        if backing == THP and not has_huge_frames(address):
            without = "" if populated else ", as it has no MADV_POPULATE_WRITE: set shmem_enabled to always"
            raise _NoHugeFrames(f"the kernel found no transparent huge page{without}", nbytes=order.nbytes)
        if order.node is not None:
            _check_node(order, backing, address)
    finally:
        system_call("munmap", start, room)


def _reserve(order: _Order, fd: int, address: int) -> None:
    """Map the file without MAP_NORESERVE, which reserves its huge pages, all or none.

    The kernel refuses more than what lies on the nodes of the calling thread's policy.
    A caller that is bound to one node may want its pool on another; so where a node is
    given, a thread without any policy maps.
    """

    def task() -> int:
        system_call("mmap", address, order.nbytes, _PROT_READ_WRITE, _MAP_SHARED | _MAP_FIXED, fd, 0)
        return 0

    if order.node is None:
        task()
    else:
        labour([task], prepare=free_thread)


def _map_pages(order: _Order, fd: int, address: int) -> None:
    """Map every page that is there: the kernel tells where a page is, and of what kind, only then."""
    flags = _MAP_SHARED | _MAP_FIXED | _MAP_POPULATE
    system_call("mmap", address, order.nbytes, _PROT_READ_WRITE, flags, fd, 0)
    system_call("madvise", address, order.nbytes, _MADV_DONTFORK)


def _check_node(order: _Order, backing: int, address: int) -> None:
    """Refuse memory of which the kernel does not say that all of it lies on the right node."""
    page, kind = (frame_size(), "frames") if backing == HUGETLB else (base_page_size(), "pages")
    found = places(address, order.nbytes, page)
    count = order.nbytes // page
    if there := count - found[order.node or 0]:
        spread = ", ".join(
            f"{n} on node {place}" if place >= 0 else f"{n} nobody knows where ({os.strerror(-place)})"
            for place, n in sorted(found.items())
        )
        raise FundingError(
            f"{there} of {count} {kind} came from another node than {order.node}: {spread}. "
            f"{explain_shortage(order.nbytes, None, order.node)}",
            nbytes=order.nbytes,
        )


def _complete(order: _Order, file: FrameFile) -> bool:
    """Whether the file has every page from an earlier owner: then there is nothing to reserve and to clear."""
    return file.kept.size == order.nbytes and file.kept.whole(file.fd)


def _fetch_holes(order: _Order, file: FrameFile) -> None:
    """Fetch what is missing of the frames that an earlier owner had, and note which those were."""
    if file.kept.whole(file.fd):
        return
    with unattached(file.fd, str(file.path), "pages are missing in it that they may touch at any moment"):
        _labour(order, file.kept.tasks(file.fd), 1)


def _labour(order: _Order, tasks: Iterator[Task], threads: int, before: int = 0) -> None:
    """Have threads do it, each bound to the node that was asked for; ``before`` is what was done so far."""
    progress, node, total = order.progress, order.node, order.nbytes
    labour(
        tasks,
        threads,
        prepare=None if node is None else lambda: bind_thread(node),
        progress=None if progress is None else lambda done: progress(before + done, total),
    )


def _parts(order: _Order, fd: int, address: int, start: int = 0) -> Iterator[Task]:
    """The tasks: each part of the file from ``start`` on, populated through ``address`` unless that is 0."""
    for offset in range(start, order.nbytes, order.part):
        yield _Part(fd, address, offset, min(order.part, order.nbytes - offset))


@dataclass(frozen=True)
class _Part:
    """One thread's task for a moment."""

    fd: int
    address: int
    offset: int
    nbytes: int

    def __call__(self) -> int:
        if self.address:
            try:
                system_call("madvise", self.address + self.offset, self.nbytes, _MADV_POPULATE_WRITE)
            except OSError:
                # Pages that are missing: fallocate says which.
                pass
        while True:
            try:
                system_call("fallocate", self.fd, 0, self.offset, self.nbytes)
                return self.nbytes
            except InterruptedError:
                continue


# ---- words -----------------------------------------------------------------------------


def _what(order: _Order, backing: int) -> str:
    """What was asked for: size, kind and place."""
    kind = {
        HUGETLB: f"huge pages of {format_size(frame_size())}",
        THP: "transparent huge pages",
        SMALL: f"pages of {format_size(base_page_size())}",
    }[backing]
    where = "" if order.node is None else f" on NUMA node {order.node}"
    return f"{format_size(order.nbytes)} of {kind}{where}"


def _place(order: _Order, file: FrameFile) -> str:
    """What kind of file the frames are in, and where."""
    if file.kept_path is not None:
        return f"in the file {file.kept_path}"
    if file.directory is None:
        return "in a memfd"
    why = "" if order.path is not None else ", as memfd_create is refused here"
    return f"in a file without a name on {file.directory}{why}"


def _describe(order: _Order, backing: int, threads: int, seconds: float, kept: Kept) -> str:
    count = order.nbytes // frame_size()
    by = "1 thread" if threads == 1 else f"{threads} threads"
    said = f"funded in {seconds:.2g} s by {by}"
    if order.keep:
        there = kept.size // frame_size() - len(kept.holes)
        said = f"{there} kept as an earlier owner left them, {count - there} cleared, {said}"
    return f"{_what(order, backing)} ({count} frames, {said})"


def _why(order: _Order, backing: int, error: OSError, directory: str | None) -> str:
    """The sentence of a refusal."""
    if backing == HUGETLB:
        bound = bound_nodes() if order.node is None else None
        reason = explain_shortage(
            order.missing, error.errno, order.node, call=error.filename, directory=directory, bound=bound
        )
    else:
        reason = explain_permission(error.filename, error.errno, directory) or " ".join(
            [
                *mount_shortage(order.nbytes, directory),
                *filter(None, [explain_ordinary_shortage(order.nbytes, order.node, error=error.errno)]),
            ]
        )
        reason = reason or nothing_found(error.errno)
    return f"{_what(order, backing)} cannot be funded: {error.filename} says {error.strerror}. {reason}"


def _why_not_transparent() -> str:
    setting = shmem_thp()
    if setting is None:
        return "shmem_enabled of /sys/kernel/mm/transparent_hugepage cannot be read"
    if setting in _THP_ALLOWED:
        return f"shmem_enabled is {setting}, but the kernel made none"
    return f"shmem_enabled is {setting}"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
