"""The owner's side of a keeper: settings that are changed for as long as this process has use for it.

A pool that sends pages on to the system, or fetches more than the kernel has set aside, changes
``nr_hugepages``. A ``Keeper`` has a process of its own do that (``keeper.py``), started with the
first change, which undoes the sum when the keeper is closed or this process ends, by kill -9, too::

    with Keeper() as keeper:
        added = keeper.change(512)      # pages that really were added
        ...
                                        # and here they are taken back

What the process has answered is known here as well: if somebody ends it (kill -9 at both at
once, a control group that is killed whole), the next change starts another, which goes on from
there, and ``close`` puts things back by itself.

The process has the rights that this one had at its start. A server that gives up root later calls
``start`` before. In a container whose first process (PID 1) is the owner, the kernel kills all others
with it, the keeper among them: there the container needs an init (``docker run --init``).
"""

import errno
import multiprocessing.spawn
import os
import re
import select
import socket
import subprocess
import threading
import warnings
from pathlib import Path
from types import TracebackType
from typing import Self

from mrm.errors import ClosedError, ForkedError, FundingError, SettingWarning
from mrm.physical import keeper, kernelpool
from mrm.physical.cgroups import ROOT
from mrm.physical.keeper import NR
from mrm.system.atend import AtEnd
from mrm.system.pages import frame_size

# A Python without site-packages starts in 20 ms; most of this is for emulated processors.
_SECONDS_TO_START = 30.0


class Keeper:
    """Changes settings of the kernel's huge page pool, and undoes it all at its end.

    May be used by several threads; changes are made one after another. A child after fork has
    no keeper: its calls raise ForkedError, and the parent's is not kept alive by it.

    Parameters
    ----------
    root : Path, optional
        Where /proc and /sys are.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._orders: socket.socket | None = None
        self._number = 0  # of the last order
        self._open: dict[int, int | None] = {}  # orders that were not answered yet: of which node
        self._sums: dict[int | None, int] = {}
        self._closed = False
        _keepers.add(self)

    @property
    def sums(self) -> dict[int | None, int]:
        """What ``nr_hugepages`` was changed by in all, by node (None: the machine), in pages."""
        return {node: total for node, total in self._sums.items() if total}

    @property
    def pid(self) -> int | None:
        """The process that does it; None before there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process now, with the rights that there are now."""
        self._check()
        with self._lock:
            self._begin()

    def change(self, delta: int, node: int | None = None) -> int:
        """Add pages to ``nr_hugepages``, or take some away; how many it really were.

        Parameters
        ----------
        delta : int
            Pages, below 0 to take away. Those that are in use become surplus, and go to the
            system when they are let go of.
        node : int, optional
            The NUMA node; where the kernel likes when not given.

        Raises
        ------
        FundingError
            If the setting may not be written, or there is no process to do it.
        """
        self.check(delta, node)
        if not delta:
            return 0
        with self._lock:
            if self._closed:
                raise ClosedError("the keeper of settings is closed")
            changed, error = self._carry_out(node, delta)
        if error and not changed:
            said = kernelpool.refusal(error, delta, node, self._root)
            raise FundingError(said, call="write", error=error, nbytes=abs(delta) * frame_size())
        return changed

    def close(self) -> dict[int | None, int]:
        """Put everything back; what could not be, as ``sums`` has it, and with a SettingWarning.

        Idempotent. Waits at most two seconds for pages that the kernel does not find at once.
        Frames that the pages of ``sums`` are in are best let go of afterwards: what is added while
        frames are surplus makes those persistent, and takes no page from the system.
        """
        if os.getpid() != self._owner:
            return {}
        with self._lock:
            self._closed = True
            if self._process is not None:
                try:
                    left = self._order("undo")
                    self._sums = {
                        _node(node): int(total) for node, total in (word.split(":") for word in left)
                    }
                except OSError:
                    self._undo_here()
                self._end()
            else:
                self._undo_here()
            left_over = self.sums
            self._sums.clear()
        if left_over:
            said = ", ".join(f"{NR} by {-total}" for total in left_over.values())
            warnings.warn(
                f"settings of the system could not be put back: change {said}", SettingWarning, stacklevel=2
            )
        return left_over

    def _undo_here(self) -> None:
        """Undo what is known, where somebody has ended the process that should."""
        for node, total in self.sums.items():
            changed, _ = kernelpool.change(-total, node, self._root)
            self._sums[node] += changed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The process sees the end of its socket, and undoes what there is.
        if getattr(self, "_process", None) is not None and os.getpid() == self._owner:
            self._end()

    # ---- orders ------------------------------------------------------------------------

    def check(self, delta: int, node: int | None = None) -> None:
        """Raise the FundingError that ``change`` would, if the setting may not be written."""
        self._check()
        kernelpool.check(node, self._root)
        # A process that is there already has the rights that there were when it was started.
        if self._process is None and not kernelpool.writable(node, self._root):
            error = _why_not_writable(kernelpool.setting(node, self._root))
            said = kernelpool.refusal(error, delta, node, self._root)
            raise FundingError(said, call="open", error=error, nbytes=abs(delta) * frame_size())

    def _carry_out(self, node: int | None, delta: int) -> tuple[int, int]:
        """Have it done, by another process if somebody has ended the one that there was."""
        while True:
            fresh = self._process is None
            self._begin()
            try:
                changed, error = map(int, self._order("shift", node, delta))
                return changed, error
            except BrokenPipeError as ended:
                status = self._end()  # before it was told: nothing is lost
                if fresh:
                    why = f"the process that keeps settings ended at once ({_fate(status)}); nothing was changed"
                    raise FundingError(why, call="send", error=ended.errno) from ended
            except ConnectionError as ended:
                status = self._end()
                where = kernelpool.setting(node, self._root)
                raise FundingError(
                    f"the process that keeps settings was ended ({_fate(status)}) while it was to change {where} "
                    f"by {delta}, and whether it did nobody knows: look there. What it had answered before, "
                    f"{self.sums or 'nothing'}, is put back in the end",
                    call="recv",
                    error=ended.errno,
                    nbytes=abs(delta) * frame_size(),
                ) from ended

    def _order(self, what: str, node: int | None = None, delta: int = 0) -> list[str]:
        """Send an order and wait for its answer; answers that nobody waited for (Ctrl-C) are booked first."""
        assert self._orders is not None
        self._number += 1
        number = self._number
        order = f"{number} {what}"
        if what == "shift":
            self._open[number] = node
            order += f" {_number(node)} {delta}"
        self._orders.send(order.encode(), socket.MSG_NOSIGNAL)
        while True:
            answer = self._orders.recv(4096).decode().split()
            if not answer:
                raise ConnectionResetError(errno.ECONNRESET, "the keeper is gone")
            answered = int(answer[0])
            if answered in self._open:
                about = self._open.pop(answered)
                self._sums[about] = self._sums.get(about, 0) + int(answer[1])
            if answered == number:
                return answer[1:]

    # ---- the process -------------------------------------------------------------------

    def _begin(self) -> None:
        """Start the process, unless there is one."""
        if self._process is not None:
            return
        python = keepers_python()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        adopted = [f"{_number(node)}:{total}" for node, total in self.sums.items()]
        command = [
            *(python, "-I", "-S", os.path.abspath(keeper.__file__), str(self._owner)),
            *(kernelpool.folder(None, self._root), kernelpool.nodes_folder(self._root)),
            *(str(self._root / kernelpool.COMPACT), *adopted),
        ]
        with theirs:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise _no_python(python, error.strerror or str(error)) from error
        self._process, self._orders = process, ours
        self._open.clear()
        waiting = select.poll()
        waiting.register(ours, select.POLLIN)
        try:
            if waiting.poll(_SECONDS_TO_START * 1000) and ours.recv(4096) == b"0 ready":
                return
        except OSError:
            pass
        except BaseException:
            process.kill()
            self._end()
            raise
        process.kill()  # it is no Python, or cannot run: nothing was changed by it
        raise _no_python(python, f"it does not answer ({_fate(self._end())})")

    def _end(self) -> int | None:
        """Close the socket, at which the process ends, and wait for it; its status."""
        assert self._process is not None
        if self._orders is not None:
            self._orders.close()
        process, self._process, self._orders = self._process, None, None
        return process.wait()

    def _check(self) -> None:
        if os.getpid() != self._owner:
            raise ForkedError("this process is a child of the one that changed the settings")
        if self._closed:
            raise ClosedError("the keeper of settings is closed")

    def _forget(self) -> None:
        """In a child after fork: the parent's end is not kept open, and its process is not ours."""
        if self._orders is not None:
            self._orders.close()
        if self._process is not None:
            self._process.returncode = 0
        self._process = self._orders = None


# Children made without Python's handlers keep the socket open; the process looks at its owner, too. And a
# process that ends as it should has put its settings back when it is gone, not a moment later.
_keepers: AtEnd[Keeper] = AtEnd(1, Keeper._forget, Keeper.close)


def keepers_python() -> str:
    """A Python to run the keeper with: this one, unless it is embedded in something else.

    Raises
    ------
    FundingError
        If what runs this does not look like a Python, and no other has been named.
    """
    # What multiprocessing starts its children with: hosts that embed Python set it.
    executable = os.fsdecode(multiprocessing.spawn.get_executable() or "")
    if not executable or not re.match(r"(python|pypy)[0-9.]*[a-z-]*$", os.path.basename(executable)):
        what = f"is {executable!r}, which does not look like a Python" if executable else "is empty"
        raise FundingError(
            f"settings are changed, and put back, by a Python process of their own, and sys.executable {what}: "
            "name one by multiprocessing.set_executable(), or change the setting yourself (`mrm fund`)"
        )
    return executable


def _no_python(python: str, why: str) -> FundingError:
    return FundingError(
        f"settings are changed, and put back, by a process of their own, and {python} cannot be started for it: "
        f"{why}; nothing was changed. Name another Python by multiprocessing.set_executable()",
        call="execve",
    )


def _why_not_writable(path: Path) -> int:
    """The errno of opening it for writing, which changes nothing."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or 0
    return 0


def _fate(status: int | None) -> str:
    return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


def _node(number: str) -> int | None:
    return None if int(number) < 0 else int(number)


def _number(node: int | None) -> int:
    return -1 if node is None else node
