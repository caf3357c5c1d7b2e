"""Having the kernel set huge pages aside, and give them back.

The kernel makes huge pages when a number is written to ``nr_hugepages``, as many as it
finds contiguous memory for, and says nothing if they are fewer: one has to look. When
memory is fragmented, compacting it and asking again often finds the rest.

    python -m mrm.tools.fund with 1GiB -- make check

runs a command with that much made available, and takes back afterwards what it added,
also after Ctrl-C. Amounts are added and subtracted, never set, so that it does not
undo what somebody else changed in the meantime. This file needs neither click nor a
compiled module.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Self

from mrm.errors import ArgumentError
from mrm.physical.cgroups import ROOT
from mrm.physical.limits import HugePages, huge_pages, meminfo, nodes, read_text
from mrm.sizes import format_size, parse_size
from mrm.system.pages import base_page_size, frame_size, huge_pages_folder


@dataclass(frozen=True)
class Outcome:
    """What became of a wish for huge pages.

    Attributes
    ----------
    wanted : int
        Pages that were to be free, or to be given back.
    before, after : HugePages
        The kernel's pool.
    node : int or None
        The NUMA node, if it was about one.
    refused : str or None
        Why the setting could not be written at all.
    """

    wanted: int
    before: HugePages
    after: HugePages
    node: int | None = None
    refused: str | None = None

    @property
    def added(self) -> int:
        """Pages that were set aside; negative if they were given back."""
        return (self.after.total - self.after.surplus) - (self.before.total - self.before.surplus)

    @property
    def enough(self) -> bool:
        """Whether as many are free now as were wanted."""
        return self.after.available >= self.wanted


def raise_available(nbytes: int, node: int | None = None, root: Path = ROOT) -> Outcome:
    """Make sure that so many bytes of huge pages are free; never lower anything.

    Parameters
    ----------
    nbytes : int
        How much is to be free, rounded up to whole pages.
    node : int, optional
        On which NUMA node; anywhere when not given.
    root : Path, optional
        Where /proc and /sys are.

    Returns
    -------
    Outcome
        Look at ``enough``: fewer pages are no error to the kernel.
    """
    wanted = -(-nbytes // frame_size())
    with _one_at_a_time(node, root):
        before = after = _pages(node, root)
        for attempt in range(2):
            missing = wanted - after.available
            if missing <= 0:
                break
            if attempt:
                _compact(root)
            refused = _write(after.total - after.surplus + missing, node, root)
            after = _pages(node, root)
            if refused:
                return Outcome(wanted, before, after, node, refused)
    return Outcome(wanted, before, after, node)


def release(nbytes: int, node: int | None = None, root: Path = ROOT) -> Outcome:
    """Give back so many bytes of huge pages at the most, of those that are free.

    Parameters
    ----------
    nbytes : int
        How much.
    node : int, optional
        From which NUMA node.
    root : Path, optional
        Where /proc and /sys are.
    """
    wanted = nbytes // frame_size()
    with _one_at_a_time(node, root):
        before = _pages(node, root)
        persistent = before.total - before.surplus
        refused = None
        if less := min(wanted, before.available, persistent):
            refused = _write(persistent - less, node, root)
        return Outcome(wanted, before, _pages(node, root), node, refused)


@contextlib.contextmanager
def available(nbytes: int, node: int | None = None, root: Path = ROOT) -> Iterator[Outcome]:
    """A context in which so many bytes of huge pages are free, if that can be had.

    What was added is subtracted at its end, also of pages in use: those go when they
    are given back.

    Parameters
    ----------
    nbytes : int
        How much is to be free.
    node : int, optional
        On which NUMA node.
    root : Path, optional
        Where /proc and /sys are.
    """
    outcome = raise_available(nbytes, node, root)
    try:
        yield outcome
    finally:
        if outcome.added > 0:
            with _one_at_a_time(node, root):
                now = _pages(node, root)
                _write(max(0, now.total - now.surplus - outcome.added), node, root)


def why_not_all(outcome: Outcome, root: Path = ROOT) -> str:
    """Say why fewer pages are free than were wanted, and what to do."""
    if outcome.refused:
        return outcome.refused
    info = meminfo(root)
    missing = (outcome.wanted - outcome.after.available) * frame_size()
    free = info.get("MemFree", 0)
    said = f"{format_size(missing)} are missing. {format_size(free)} of memory is free"
    blocks = free_blocks(root)
    if blocks is not None:
        said += (
            f", {format_size(blocks * frame_size())} of it in blocks of {format_size(frame_size())} and more"
        )
    if free < missing:
        return f"{said}: end what uses the memory, or drop the file cache (`sysctl vm.drop_caches=3`), and try again."
    return (
        f"{said}: memory is fragmented, and compacting did not help. Set huge pages aside early, best at boot: "
        f"`hugepages={outcome.wanted}` on the kernel's command line."
    )


def free_blocks(root: Path = ROOT) -> int | None:
    """Free blocks of physical memory, counted in huge pages; None if unknown."""
    order = (frame_size() // base_page_size()).bit_length() - 1
    found = None
    for line in read_text(root / "proc/buddyinfo").splitlines():
        counts = line.split()[4:]
        found = (found or 0) + sum(int(n) << (i - order) for i, n in enumerate(counts) if i >= order)
    return found


def persistent_setting(outcome: Outcome) -> tuple[str, str]:
    """File and content that set these pages aside at every boot."""
    pages = outcome.after.total - outcome.after.surplus
    if outcome.node is None:
        return "etc/sysctl.d/60-mrm.conf", f"vm.nr_hugepages = {pages}\n"
    # sysctl knows no nodes; systemd-tmpfiles writes to any file, and early.
    where = f"/sys/devices/system/node/node{outcome.node}/hugepages/{huge_pages_folder()}/nr_hugepages"
    return f"etc/tmpfiles.d/60-mrm-node{outcome.node}.conf", f"w {where} - - - - {pages}\n"


def _pages(node: int | None, root: Path) -> HugePages:
    if node is not None and node not in nodes(root):
        raise ArgumentError(
            f"this machine has no NUMA node {node}; it has {', '.join(map(str, nodes(root)))}"
        )
    return huge_pages(None, node, root) or HugePages(frame_size(), 0, 0)


def _setting(node: int | None, root: Path) -> Path:
    base = "sys/kernel/mm" if node is None else f"sys/devices/system/node/node{node}"
    return root / base / "hugepages" / huge_pages_folder() / "nr_hugepages"


def _write(pages: int, node: int | None, root: Path) -> str | None:
    """Write the setting; None, or why it could not be."""
    setting = _setting(node, root)
    try:
        setting.write_text(f"{pages}\n")
    except FileNotFoundError:
        return f"this kernel has no huge pages of {format_size(frame_size())}"
    except OSError as error:
        value = f"vm.nr_hugepages={pages}" if node is None else f"{pages} in {setting}"
        return f"{setting} cannot be written ({error.strerror}): ask the administrator to set {value}"
    return None


def _compact(root: Path) -> None:
    with contextlib.suppress(OSError):
        (root / "proc/sys/vm/compact_memory").write_text("1\n")


@contextlib.contextmanager
def _one_at_a_time(node: int | None, root: Path) -> Iterator[None]:
    """Keep other processes that run this from reading the setting between our read and write."""
    try:
        fd = os.open(_setting(node, root), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# ---- python -m mrm.tools.fund with SIZE -- command ------------------------------------


def run_with(nbytes: int, command: list[str]) -> int:
    """Run a command with so much made available; its exit status.

    Without the rights to do so, it is run all the same, and a line says so.
    """
    # From here on a signal ends the command, not us: there is a setting to be put back.
    with _Forwarding() as forwarding, available(nbytes) as outcome:
        if not outcome.enough:
            print(f"mrm: not all huge pages could be had. {why_not_all(outcome)}", file=sys.stderr)
        return _run(command, forwarding)


class _Forwarding:
    """Hands signals that would end this process to its child, once there is one.

    Ctrl-C needs no handing on: a terminal sends it to the child as well.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._hand_on) for number in self._SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        if self.child is None:
            sys.exit(128 + number)
        self.child.send_signal(number)


def _run(command: list[str], forwarding: _Forwarding) -> int:
    """Run a command to its end, whatever signals come; status as a shell has it."""
    try:
        child = forwarding.child = subprocess.Popen(command)
    except OSError as error:
        print(f"mrm: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    while True:
        try:
            status = child.wait()
            return status if status >= 0 else 128 - status
        except KeyboardInterrupt:
            continue


def _main(arguments: list[str]) -> int:
    if len(arguments) < 4 or arguments[0] != "with" or arguments[2] != "--":
        print("usage: python -m mrm.tools.fund with SIZE -- COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    try:
        nbytes = parse_size(arguments[1])
    except ArgumentError as error:
        print(f"mrm: {error}", file=sys.stderr)
        return 2
    return run_with(nbytes, arguments[3:])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
