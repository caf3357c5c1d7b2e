"""A process that changes settings for its owner, and undoes the changes when the owner is gone.

    python -I -S keeper.py OWNER FOLDER NODES COMPACT [NODE:CHANGE ...]

Whoever changes nr_hugepages and is killed (kill -9, out of memory) between the change and the
note of it leaves a setting that nobody puts back. So the change and the note are made by
a process that has nothing else to do and so nothing to die of: this one. It takes orders from a
socket, answers each with what came of it, adds it up, and when the owner's end closes, or the
owner is gone while somebody else (a child after fork) still holds that end open, it undoes the sum.

It blocks every signal: those of the terminal are for the owner, and a pending signal makes the
kernel stop half way through making huge pages. SIGKILL, alone, ends it without undoing anything.

Numbers are added to and taken from what is there, never set, and under a lock on the
setting's file, which ``mrm fund`` takes as well. What it adds is counted in the setting itself
(persistent pages), so that surplus pages, which come and go by themselves, do not disturb the sum.

This file is run by itself, outside of the package, and may use the standard library only. Its
functions that change numbers are those of ``kernelpool``, too: there is one way to do it.
"""

import contextlib
import fcntl
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

NR = "nr_hugepages"

#: How long it tries to put back pages that the kernel does not find at once, in seconds: with
#: the owner waiting, and without. A lock on a setting is waited for as long as the former.
PATIENCE_ASKED = 2.0
PATIENCE_ALONE = 10.0

_ORDERS = 0  # the socket's descriptor

_Figures = TypeVar("_Figures")


# ---- numbers ---------------------------------------------------------------------------


def value(folder: str) -> int:
    """What ``nr_hugepages`` is now: the persistent pages, which is what writing it sets.

    /sys shows persistent and surplus pages together, and the latter in a file of their own.
    Between reading the two, surplus pages can come and go (a balloon at work on other
    processors), so they are read until nothing has moved.
    """
    total, surplus = steady(lambda: _total_and_surplus(folder))
    return total - surplus


def steady(read: Callable[[], _Figures]) -> _Figures:
    """Figures of one moment that come from several files: read until they are twice the same."""
    seen = read()
    for _ in range(1000):
        again = read()
        if again == seen:
            break
        seen = again
    return seen


def shift(folder: str, change: int) -> tuple[int, int]:
    """Add to ``nr_hugepages``, alone, and never below zero: what it really changed by, and errno or 0.

    The kernel gives fewer pages than asked for without a word. Taking away pages that are in use
    makes them surplus: they go to the system when they are let go of.
    """
    with alone(folder):
        return add(folder, change)


def add(folder: str, change: int) -> tuple[int, int]:
    """The same for whoever is ``alone`` already."""
    before = value(folder)
    error = 0
    try:
        write(f"{folder}/{NR}", max(0, before + change))
    except OSError as refused:
        error = refused.errno or 0
    return value(folder) - before, error


def write(file: str, number: int) -> None:
    """Write a setting: the one place that does."""
    with open(file, "w") as setting:
        setting.write(f"{number}\n")


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Keep others that do the same from reading the setting between our read and write.

    Whoever may read the file may lock it, and keep it locked: that is waited for for a while, and then
    an OSError (EWOULDBLOCK).
    """
    try:
        fd = os.open(f"{folder}/{NR}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield  # what cannot be read is not changed, either, and who tries to says why
        return
    try:
        _lock(fd)
        yield
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    until = time.monotonic() + PATIENCE_ASKED
    pause = 0.001
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def compact(file: str) -> None:
    """Have the kernel put free memory together (``/proc/sys/vm/compact_memory``), if it lets us."""
    with contextlib.suppress(OSError):
        write(file, 1)


def _total_and_surplus(folder: str) -> tuple[int, int]:
    if folder.endswith("/proc/sys/vm"):
        # Where /sys is hidden: the kernel's figures are in /proc/meminfo.
        found = {"HugePages_Total:": 0, "HugePages_Surp:": 0}
        with open(f"{folder}/../../meminfo") as meminfo:
            for line in meminfo:
                key, *rest = line.split()
                if key in found:
                    found[key] = int(rest[0])
        return found["HugePages_Total:"], found["HugePages_Surp:"]
    total = _number(f"{folder}/{NR}")
    try:
        return total, _number(f"{folder}/surplus_hugepages")
    except FileNotFoundError:
        return total, 0


def _number(file: str) -> int:
    with open(file) as setting:
        return int(setting.read())


# ---- the process -----------------------------------------------------------------------


class _Sums:
    """What was changed, and by how much, in all."""

    def __init__(self, folder: str, nodes: str, compact_file: str, adopted: list[str]) -> None:
        self._folder, self._nodes, self._compact = folder, nodes, compact_file
        self._sums: dict[int, int] = {}
        for word in adopted:
            node, change = word.split(":")
            self._sums[int(node)] = int(change)

    def shift(self, node: int, change: int) -> tuple[int, int]:
        """Change the setting of a node or (-1) of the machine, and remember it."""
        folder = self._folder if node < 0 else self._nodes.format(node)
        changed, error = shift(folder, change)
        self._sums[node] = self._sums.get(node, 0) + changed
        return changed, error

    def undo(self, patience: float) -> str:
        """Put everything back; what could not be, as ``NODE:CHANGE`` with blanks between."""
        until = time.monotonic() + patience
        pause = 0.01
        while True:
            for node, total in list(self._sums.items()):
                if total:
                    with contextlib.suppress(OSError, ValueError):
                        self.shift(node, -total)
            left = [f"{node}:{total}" for node, total in self._sums.items() if total]
            if not left or time.monotonic() + pause > until:
                return " ".join(left)
            compact(self._compact)
            time.sleep(pause)
            pause *= 2


def _serve(owner: int, sums: _Sums) -> bool:
    """Do as told until the owner has no more to say; whether it has asked for the undoing."""
    asked = False
    waiting = select.poll()
    waiting.register(_ORDERS, select.POLLIN)
    with contextlib.suppress(AttributeError, OSError):
        # Ready when the owner is gone, whoever holds the other end of the socket.
        waiting.register(os.pidfd_open(owner), select.POLLIN)
    while os.getppid() == owner:
        if any(fd != _ORDERS for fd, _ in waiting.poll()):
            return False
        order = os.read(_ORDERS, 4096).decode().split()
        if not order:
            return asked
        if order[1] == "undo":
            asked = True
            answer = sums.undo(PATIENCE_ASKED)
        else:
            try:
                changed, error = sums.shift(int(order[2]), int(order[3]))
            except OSError as refused:
                changed, error = 0, refused.errno or 0
            answer = f"{changed} {error}"
        os.write(_ORDERS, f"{order[0]} {answer}".encode())
    return False


def main(owner: int, sums: _Sums) -> None:
    """Serve, then undo; what stays undone goes to the system's log, as nobody else listens."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # Whoever is killed for want of memory, let it be somebody whose death nobody has to undo.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as setting:
        setting.write("-1000\n")
    asked = False
    with contextlib.suppress(OSError):
        os.write(_ORDERS, b"0 ready")
        asked = _serve(owner, sums)
    # An owner that has asked knows what is left, and waits for our end.
    if (left := sums.undo(0.0 if asked else PATIENCE_ALONE)) and not asked:
        import syslog

        syslog.openlog("mrm", 0, syslog.LOG_DAEMON)
        syslog.syslog(
            syslog.LOG_WARNING,
            f"{NR} that process {owner} changed is not put back (node, or -1 for all, and pages): {left}",
        )


if __name__ == "__main__":
    _, _owner, _folder, _nodes, _compact, *_adopted = sys.argv
    main(int(_owner), _Sums(_folder, _nodes, _compact, _adopted))
