"""Events that say that memory is short: what the kernel tells of by itself, to be waited for by poll.

Four kinds of files, none of which costs anything while nothing happens:

- ``/proc/pressure/memory`` and the own control group's ``memory.pressure`` (version 2): a *trigger*
  is written to it, and poll says POLLPRI when tasks have stalled for want of memory for so much of
  a window. Any window of up to ten seconds needs CAP_SYS_RESOURCE; without, it has to be a
  multiple of two seconds (from 6.5 on; before, there is none). So one second is tried first, then two.
- ``memory.pressure_level`` (version 1): an eventfd is registered for it in ``cgroup.event_control``.
- ``memory.events`` (version 2): changes when the group is held back at memory.high or memory.max.
- ``hugetlb.<size>.events`` (version 2): changes when the group is refused a huge page.

No event says that the *machine's* huge pages run out: somebody who asks for too many is refused at
once, and nothing records it (``htlb_buddy_alloc_fail`` of /proc/vmstat counts only what
nr_overcommit_hugepages allowed and the kernel found no memory for). Whoever wants to know has to look
at how many are free, now and then: see ``autoscale``.
"""

import contextlib
import errno
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrm.physical.cgroups import ROOT, own_groups, page_size_name
from mrm.system.pages import frame_size

#: Microseconds of stall in microseconds of window: of one second, where the kernel lets us.
WINDOWS = ((150_000, 1_000_000), (300_000, 2_000_000))

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


@dataclass
class Event:
    """Something to wait for.

    Attributes
    ----------
    fd : int
        What poll is to look at; closed by ``close``.
    mask : int
        What poll is to look for.
    kind : str
        ``"memory"`` or ``"huge pages"``: what is short when it happens.
    name : str
        What it is, for people.
    of_group : bool
        Whether it is about a control group's memory; else it is about the machine's.
    counted : tuple of str
        Lines of the file whose figures count, where it has others as well.
    """

    fd: int
    mask: int
    kind: str
    name: str
    of_group: bool = True
    counted: tuple[str, ...] = ()
    _figures: tuple[int, ...] = ()

    def happened(self, seen: int) -> str | None:
        """What poll has ``seen``, in words; None if it was nothing of ours.

        Raises
        ------
        OSError
            If the file is gone (its group was removed), and will say no more.
        """
        if self.counted:
            # The kernel answers POLLERR with every change of such a file.
            before, self._figures = self._figures, self._read()
            risen = [
                f"{word} {now}"
                for word, was, now in zip(self.counted, before, self._figures, strict=True)
                if now > was
            ]
            return f"{self.name}: {', '.join(risen)}" if risen else None
        if seen & _GONE:
            raise OSError(errno.ENODEV, "the control group is gone", self.name)
        if self.mask == select.POLLIN:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.fd)
        return self.name

    def close(self) -> None:
        """Have the kernel watch no more."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def _read(self) -> tuple[int, ...]:
        """The figures, which also makes the file ready for the next change."""
        found = {}
        for line in os.pread(self.fd, 4096, 0).decode().splitlines():
            word, _, figure = line.partition(" ")
            found[word] = int(figure)
        return tuple(found.get(word, 0) for word in self.counted)


def events(root: Path = ROOT) -> tuple[list[Event], list[str]]:
    """All that can be waited for here, and why not the others.

    Parameters
    ----------
    root : Path, optional
        Where /proc and /sys are.

    Returns
    -------
    tuple of list of Event and list of str
        Those that were made, to be closed by the caller; a sentence for each that could not be.
    """
    made: list[Event] = []
    refused: list[str] = []

    def attempt(make: Callable[..., Event], path: Path, *rest: object) -> None:
        try:
            made.append(make(path, *rest))
        except OSError as error:
            refused.append(_why_not(path, error))

    attempt(stall, root / "proc/pressure/memory")
    of_pages = f"hugetlb.{page_size_name(frame_size())}.events"
    innermost = set()
    for version, group in own_groups("memory", root):
        if version == 1:
            if version not in innermost:
                attempt(level, group / "memory.pressure_level")
        # The root of all has no limits, and its pressure is the machine's.
        elif (group / "cgroup.type").exists():
            if version not in innermost and (group / "memory.pressure").exists():
                attempt(stall, group / "memory.pressure")
            # A limit further out is told of there. Not every group has every controller.
            if (group / "memory.events").exists():
                attempt(changes, group / "memory.events", "memory", ("high", "max"))
            if (group / of_pages).exists():
                attempt(changes, group / of_pages, "huge pages", ("max",))
        innermost.add(version)
    return made, refused


def stall(path: Path) -> Event:
    """A trigger on a file of pressure stall information."""
    for short, window in WINDOWS:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, f"some {short} {window}\0".encode())
        except OSError as error:
            os.close(fd)
            # Without CAP_SYS_RESOURCE: EINVAL from 6.5 on, if the window is none of the allowed.
            if error.errno != errno.EINVAL or (short, window) == WINDOWS[-1]:
                raise
        else:
            of = f"{short // 1000} ms in {window // 1_000_000} s"
            return Event(fd, select.POLLPRI, "memory", f"{path} (stalls of {of})", path.name != "memory")
    raise AssertionError("no window was tried")


def level(path: Path, what: str = "medium") -> Event:
    """An eventfd that a group of version 1 signals when reclaiming in it goes badly."""
    control = os.open(path.parent / "cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
    try:
        pressure = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                os.write(control, f"{fd} {pressure} {what}".encode())
            except BaseException:
                os.close(fd)
                raise
        finally:
            os.close(pressure)
    finally:
        os.close(control)
    return Event(fd, select.POLLIN, "memory", f"{path} ({what})")


def changes(path: Path, kind: str, counted: tuple[str, ...]) -> Event:
    """A file of a group's events, some of which count."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    event = Event(fd, select.POLLPRI, kind, str(path), counted=counted)
    try:
        event._figures = event._read()
    except BaseException:
        event.close()
        raise
    return event


def _why_not(path: Path, error: OSError) -> str:
    """A sentence about a file that cannot be waited for."""
    reasons = {
        errno.ENOENT: "is not there: this kernel has no pressure stall information, or hides it",
        errno.EOPNOTSUPP: "is switched off: boot with psi=1",
        errno.EINVAL: "takes no trigger",
        errno.EPERM: "takes triggers only from who has CAP_SYS_RESOURCE (before Linux 6.5)",
        errno.EACCES: "may not be written by this user",
        errno.EROFS: "is mounted read-only",
    }
    return f"{path} {reasons.get(error.errno or 0, f'cannot be waited for ({error.strerror})')}"
