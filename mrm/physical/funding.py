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
nothing worse. How the file is filled, ``filling`` says.

Where huge pages cannot be had and are not required, there are two lesser backings: a
memfd of ordinary memory with transparent huge pages, then one with small pages. For
those the answer comes too late: the kernel promises ordinary memory and later kills a
process to find it. What is available is therefore checked first.
"""

import os
import time
import warnings
from dataclasses import dataclass, replace

from mrm.errors import BackingWarning, FundingError
from mrm.physical.backings import HUGETLB, SMALL, THP, THP_ALLOWED, shortage_beforehand
from mrm.physical.filling import NoHugeFrames, fill
from mrm.physical.framefile import FrameFile, refusal
from mrm.physical.kept import Kept
from mrm.physical.limits import (
    explain_ordinary_shortage,
    explain_shortage,
    mount_shortage,
    nothing_found,
    numbered,
    shmem_thp,
)
from mrm.physical.order import Order, Progress
from mrm.physical.permission import explain_permission, is_refused
from mrm.physical.placement import bound_nodes
from mrm.physical.spread import Spread, spreading
from mrm.physical.substitutes import substitute
from mrm.sizes import format_size
from mrm.system.pages import base_page_size, frame_size


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
    spread : Spread or None
        How it lies on several nodes, if that was asked for and there are several.
    """

    fd: int
    backing: int
    frame_size: int
    frame_count: int
    path: str | None
    description: str
    place: str
    file: FrameFile
    spread: Spread | None = None

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
    numa_node: int | str | None = None,
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
    numa_node : int, "interleave" or "local", optional
        Where the memory has to be: on one node, on all in turn, or a share on each. The caller's own
        memory policy is left alone.
    path : str or path-like, optional
        A directory on a hugetlbfs mount, for a file without a name there; or a file
        name on one, to be shared by name. What a file that exists holds is dropped. Implies
        ``huge="require"``: no other backing can be shared so.
    keep : bool, optional
        Keep what the file holds, instead: its pages are not cleared. It may grow, not shrink. If ``length``
        is more than ``size_bytes``, frames that have no page stay so, and ``size_bytes`` is the least that has memory.
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
    order = Order(size_bytes, huge, numa_node, path, name, threads, progress, keep)
    order.length = max(length or 0, size_bytes)
    if huge == "off":
        return _told(_get(order, SMALL), "", stacklevel)
    try:
        return _told(_get(order, HUGETLB), "", stacklevel)
    except FundingError as error:
        if huge == "require" or order.path is not None:
            raise
        shortage = error
    funded = _get_lesser(order, shortage)
    return _told(funded, f"the pool is on {funded.description}, not on huge pages. {shortage}", stacklevel)


def _told(funded: Funded, message: str, stacklevel: int) -> Funded:
    """Warn, in the name of fund's caller, of memory that is not what it should be, or not where."""
    try:
        if message and funded.backing == SMALL:
            message += f" Nor are they transparent huge pages: {_why_not_transparent()}."
        if funded.spread is not None:
            message = f"{message} {funded.spread.uneven}".strip()
        if message:
            warnings.warn(message, BackingWarning, stacklevel + 1)
    except BaseException:
        funded.give_up()  # whoever makes warnings errors gets no pool
        raise
    return funded


def _get_lesser(order: Order, shortage: FundingError) -> Funded:
    """The best there is without huge pages."""
    try:
        setting = shmem_thp()
        if setting in THP_ALLOWED:
            try:
                return _get(order, THP)
            except NoHugeFrames as error:
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


def _get(order: Order, backing: int) -> Funded:
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


def _get_in(order: Order, backing: int, path: str | None) -> Funded:
    """The same in a memfd, or at ``path``."""
    file = FrameFile(order.length, backing == HUGETLB, order.name, path, order.keep)
    began = time.perf_counter()
    try:
        file.make()
        if order.wish is not None:
            # Only now: what the file held before is free again.
            count, numbers = order.nbytes // frame_size(), order.length // frame_size()
            order.spread, order.alone = spreading(order.wish, backing, count, numbers, order.keep)
        threads = order.threads_for(backing)
        fill(order, backing, file, threads)
        if not file.made_name:
            file.finish()  # there is no name to be taken away again
        seconds = time.perf_counter() - began
        description = _describe(order, backing, threads, seconds, file.kept)
        count = order.nbytes // frame_size()
        place = _place(order, file)
        return Funded(
            file.fd, backing, frame_size(), count, file.kept_path, description, place, file, order.spread
        )
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


def _check_beforehand(order: Order, backing: int) -> None:
    """Refuse what the kernel would answer with a signal, or only after much harm."""
    said = shortage_beforehand(order.missing, backing, order.node, order.length)
    if said:
        raise FundingError(f"{_what(order, backing)} cannot be funded. {said}", nbytes=order.nbytes)


# ---- words -----------------------------------------------------------------------------


def _what(order: Order, backing: int) -> str:
    """What was asked for: size, kind and place."""
    kind = {
        HUGETLB: f"huge pages of {format_size(frame_size())}",
        THP: "transparent huge pages",
        SMALL: f"pages of {format_size(base_page_size())}",
    }[backing]
    where = "" if order.node is None else f" on NUMA node {order.node}"
    if order.spread is not None:
        where = f" on NUMA {numbered(order.spread.nodes)}"
    return f"{format_size(order.nbytes)} of {kind}{where}"


def _place(order: Order, file: FrameFile) -> str:
    """What kind of file the frames are in, and where."""
    where = order.spread.words if order.spread is not None else order.alone
    return ", ".join(filter(None, [_file(order, file), where]))


def _file(order: Order, file: FrameFile) -> str:
    """What kind of file it is."""
    if file.kept_path is not None:
        return f"in the file {file.kept_path}"
    if file.directory is None:
        return "in a memfd"
    why = "" if order.path is not None else ", as memfd_create is refused here"
    return f"in a file without a name on {file.directory}{why}"


def _describe(order: Order, backing: int, threads: int, seconds: float, kept: Kept) -> str:
    count = order.nbytes // frame_size()
    by = "1 thread" if threads == 1 else f"{threads} threads"
    said = f"funded in {seconds:.2g} s by {by}"
    if order.keep:
        there = kept.size // frame_size() - len(kept.holes) - len(kept.inflated)
        said = f"{there} kept as an earlier owner left them, {count - there} cleared, {said}"
    if kept.inflated:
        said += f"; {len(kept.inflated)} others of the file have no memory, and stay in the balloon"
        said += f", and {kept.how}" if kept.how else ""
    return f"{_what(order, backing)} ({count} frames, {said})"


def _why(order: Order, backing: int, error: OSError, directory: str | None) -> str:
    """The sentence of a refusal."""
    if backing == HUGETLB:
        bound = bound_nodes() if order.node is None and order.spread is None else None
        reason = explain_shortage(
            order.missing, error.errno, order.node, call=error.filename, directory=directory, bound=bound
        )
        if order.spread is not None:
            reason = f"{reason} {order.spread.shortage()}".strip()
        if order.keep and order.length > order.nbytes:
            reason += " To have what is in the file, and no more, ask for a smaller size"
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
    if setting in THP_ALLOWED:
        return f"shmem_enabled is {setting}, but the kernel made none"
    return f"shmem_enabled is {setting}"
