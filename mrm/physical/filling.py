"""Filling a file of frames: every page of it is fetched, by threads, to a node where one was asked for.

fallocate holds the file's lock while it clears pages, so that two threads are no
faster than one (11.7 GB/s both, measured on 2 processors), while page faults run side
by side. Hence the order: map the file once, which reserves the pages and so fails at
once and without side effects if there are too few; have every thread populate its
part through that mapping (11.9 GB/s with one thread, 19.5 with two); and let
fallocate pass over each part, which costs next to nothing where the pages are there,
and decides where they are not. Where each node has a share of the frames, a thread binds itself anew for each
part, and takes parts of all nodes in turn. Kernels before 5.14 cannot populate, and a touch that finds
no page may die of SIGBUS: there one thread has fallocate do it all.

An earlier owner's file (kept.py) has pages already. If the pool may shrink and grow, these are the frames
that have memory, and nothing else is fetched but what the size that was asked for takes besides. Nothing is
reserved then: a reservation is of a range, and would be of frames in it that stay in the balloon.
"""

import contextlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from mrm.errors import FundingError
from mrm.physical.backings import HUGETLB, SMALL, THP, populates
from mrm.physical.framefile import FrameFile
from mrm.physical.holes import NotTold
from mrm.physical.kept import FrameTask, fetch, pages
from mrm.physical.labour import Task, labour
from mrm.physical.limits import explain_shortage
from mrm.physical.locks import unattached
from mrm.physical.order import Order
from mrm.physical.placement import (
    bind_thread,
    free_thread,
    has_huge_frames,
    interleave_thread,
    nodes_of,
    places,
)
from mrm.physical.spread import NOWHERE, Spread
from mrm.system.calls import system_call
from mrm.system.pages import base_page_size, frame_size

_PROT_NONE, _PROT_READ_WRITE = 0, 3
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 1, 2, 0x10, 0x20
_MAP_NORESERVE, _MAP_POPULATE = 0x4000, 0x8000
_MADV_DONTFORK, _MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 10, 14, 23


class NoHugeFrames(FundingError):
    """Transparent huge pages were allowed, but none was to be had."""


def fill(order: Order, backing: int, file: FrameFile, threads: int) -> None:
    """Fetch every page of the file that is not there, as far as there are to be pages."""
    fd = file.fd
    if file.kept.size and order.length > order.nbytes:
        _refill(order, file, threads)
        return
    placed = order.node is not None or order.spread is not None
    if not placed and (backing == SMALL or _complete(order, file)):
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
        populated = backing != SMALL and populates()
        _fetch_holes(order, file)
        _labour(
            order, _parts(order, fd, address if populated else 0, file.kept.size), threads, file.kept.size
        )
        if placed or (backing == THP and not populated):
            _map_pages(order, fd, address)
        if backing == THP and not has_huge_frames(address):
            without = "" if populated else ", as it has no MADV_POPULATE_WRITE: set shmem_enabled to always"
            raise NoHugeFrames(f"the kernel found no transparent huge page{without}", nbytes=order.nbytes)
        if order.node is not None:
            _check_node(order, backing, address, order.nbytes, order.node)
        elif order.spread is not None:
            _check_spread(order, backing, address, order.spread, file.kept.size)
    finally:
        system_call("munmap", start, room)


def _reserve(order: Order, fd: int, address: int) -> None:
    """Map the file without MAP_NORESERVE, which reserves its huge pages, all or none.

    The kernel refuses more than what lies on the nodes of the calling thread's policy.
    A caller that is bound to one node may want its pool on another; so where a node is
    given, a thread without any policy maps.
    """

    def task() -> int:
        system_call("mmap", address, order.nbytes, _PROT_READ_WRITE, _MAP_SHARED | _MAP_FIXED, fd, 0)
        return 0

    if order.node is None and order.spread is None:
        task()
    else:
        labour([task], prepare=free_thread)


def _map_pages(order: Order, fd: int, address: int) -> None:
    """Map every page that is there: the kernel tells where a page is, and of what kind, only then."""
    flags = _MAP_SHARED | _MAP_FIXED | _MAP_POPULATE
    system_call("mmap", address, order.nbytes, _PROT_READ_WRITE, flags, fd, 0)
    system_call("madvise", address, order.nbytes, _MADV_DONTFORK)


def _kind(backing: int) -> tuple[int, str]:
    """The pages that the kernel tells the node of."""
    return (frame_size(), "frames") if backing == HUGETLB else (base_page_size(), "pages")


def _check_node(order: Order, backing: int, address: int, nbytes: int, node: int) -> None:
    """Refuse memory of which the kernel does not say that all of it lies on the right node."""
    page, kind = _kind(backing)
    found = places(address, nbytes, page)
    count = nbytes // page
    if there := count - found[node]:
        spread = ", ".join(
            f"{n} on node {place}" if place >= 0 else f"{n} nobody knows where ({os.strerror(-place)})"
            for place, n in sorted(found.items())
        )
        raise FundingError(
            f"{there} of {count} {kind} came from another node than {node}: {spread}. "
            f"{explain_shortage(nbytes, None, node)}",
            nbytes=order.nbytes,
        )


def _check_spread(order: Order, backing: int, address: int, spread: Spread, kept: int) -> None:
    """See where spread memory lies: local shares as they should, and for the others, where."""
    page, kind = _kind(backing)
    if spread.kind == "interleave":
        found = places(address, order.nbytes, page)
        if unknown := {-node: n for node, n in found.items() if node < 0}:
            said = ", ".join(f"{n} ({os.strerror(error)})" for error, n in unknown.items())
            raise FundingError(
                f"the kernel does not say of all {kind} where they lie: {said}", nbytes=order.nbytes
            )
        spread.found = dict(sorted(found.items()))
        return
    if kept:
        spread.regroup(node for where in nodes_of(address, kept, page) for node in where)
    for part in spread.parts:
        first, end = max(part.first, kept // frame_size()), min(part.end, spread.funded)
        if first < end:
            at = address + first * frame_size()
            _check_node(order, backing, at, (end - first) * frame_size(), part.node)


def _complete(order: Order, file: FrameFile) -> bool:
    """Whether the file has every page from an earlier owner: then there is nothing to reserve and to clear."""
    return file.kept.size == order.nbytes and file.kept.whole(file.fd)


def _fetch_holes(order: Order, file: FrameFile) -> None:
    """Fetch what is missing of the frames that an earlier owner had, and note which those were."""
    if file.kept.whole(file.fd):
        return
    with unattached(file.fd, str(file.path), "pages are missing in it that they may touch at any moment"):
        _labour(order, _near(order, file.kept.tasks(file.fd)), 1)


def _near(order: Order, tasks: Iterable[FrameTask]) -> Iterator[Task]:
    """Each task with memory of the node that its frame is to belong to."""
    local = order.spread if order.spread is not None and order.spread.kind == "local" else None
    for task in tasks:
        yield task if local is None else partial(_bound, local.node_of(task.frame), task)


def _bound(node: int, task: Task) -> int:
    """Do a task with memory of one node."""
    bind_thread(node)
    return task()


# ---- an earlier owner's file, of a pool that may shrink and grow --------------------------


def _refill(order: Order, file: FrameFile, threads: int) -> None:
    """Leave in the balloon what is there, but for what ``order.nbytes`` takes; it is more if the file has more."""
    kept, fd, frame = file.kept, file.fd, frame_size()
    count, there = kept.size // frame, pages(fd)
    order.nbytes = max(order.nbytes, there * frame)
    wanted = order.nbytes // frame - there
    below = min(wanted, count - there)
    if there < count:
        _tell_apart(order, file, below)
    if wanted > below:
        _grow(order, fd, threads, kept.size, (wanted - below) * frame)
    _look(order, fd, kept.runs(order.nbytes // frame))


def _tell_apart(order: Order, file: FrameFile, wanted: int) -> None:
    """Find the frames without a page, and fetch the lowest ``wanted``."""
    kept, fd = file.kept, file.fd
    why = "pages are missing in it that they may touch at any moment"
    tasks: list[FrameTask] = []

    def look() -> int:
        tasks.extend(kept.look(fd, wanted))
        return 0

    try:
        # What is only looked at may have attachments.
        with unattached(fd, str(file.path), why) if wanted else contextlib.nullcontext():
            labour([look])
            _labour(order, _near(order, tasks), 1, pages(fd) * frame_size())
    except NotTold as said:
        kept.how = f"which frames those are was found by fetching them, a clearing each, as {said}"
        with unattached(fd, str(file.path), why):
            _labour(order, _near(order, kept.tasks(fd, wanted)), 1)
    kept.check(fd)


def _grow(order: Order, fd: int, threads: int, start: int, nbytes: int) -> None:
    """Fetch what lies beyond the file's end of before."""
    flags = _MAP_SHARED | _MAP_NORESERVE
    address = system_call("mmap", 0, nbytes, _PROT_READ_WRITE, flags, fd, start)
    try:
        system_call("madvise", address, nbytes, _MADV_DONTFORK)
        at = address - start if populates() else 0
        _labour(order, _parts(order, fd, at, start, start + nbytes), threads, order.nbytes - nbytes)
    finally:
        system_call("munmap", address, nbytes)


def _look(order: Order, fd: int, runs: list[tuple[int, int]]) -> None:
    """See where frames lie that have memory, run by run: on the node that was asked for, or who belongs where."""
    spread, where = order.spread, array("i")
    if order.node is None and spread is None:
        return
    flags = _MAP_SHARED | _MAP_NORESERVE | _MAP_POPULATE
    for first, n in runs:
        nbytes = n * frame_size()
        address = system_call("mmap", 0, nbytes, _PROT_READ_WRITE, flags, fd, first * frame_size())
        try:
            if order.node is not None:
                _check_node(order, HUGETLB, address, nbytes, order.node)
                continue
            where.extend([NOWHERE] * (first - len(where)))
            for found in nodes_of(address, nbytes, frame_size()):
                where.extend(found)
        finally:
            system_call("munmap", address, nbytes)
    if spread is not None and spread.kind == "local":
        spread.regroup(where)
    elif spread is not None:
        spread.kept = True
        spread.found = dict(sorted(Counter(node for node in where if node != NOWHERE).items()))


# ---- threads -----------------------------------------------------------------------------


def _labour(order: Order, tasks: Iterator[Task], threads: int, before: int = 0) -> None:
    """Have threads do it, each bound to the node that was asked for; ``before`` is what was done so far."""
    progress, node, spread, total = order.progress, order.node, order.spread, order.nbytes

    def prepare() -> None:
        if node is not None:
            bind_thread(node)
        elif spread is not None and spread.kind == "interleave":
            interleave_thread(spread.nodes)

    labour(
        tasks,
        threads,
        prepare=prepare,
        progress=None if progress is None else lambda done: progress(before + done, total),
    )


def _parts(order: Order, fd: int, address: int, start: int = 0, end: int = 0) -> Iterator[Task]:
    """The tasks: each part of the file from ``start`` on, populated through ``address`` unless that is 0."""
    end = end or order.nbytes
    if order.spread is not None and order.spread.kind == "local":
        frame = frame_size()
        for node, first, n in order.spread.pieces(start // frame, end // frame, order.part // frame):
            yield partial(_bound, node, _Part(fd, address, first * frame, n * frame))
        return
    for offset in range(start, end, order.part):
        yield _Part(fd, address, offset, min(order.part, end - offset))


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
        fetch(self.fd, self.offset, self.nbytes)
        return self.nbytes
