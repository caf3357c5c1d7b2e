"""Runs a command with huge pages set aside for it, and takes them back afterwards.

    python -m mrm.tools.fund with 1GiB -- make check

takes back what it added, also after Ctrl-C and kill -9; what somebody else changed in the meantime stays.
A keeper does it (see ``mrm.physical.keeping``). This file does not need click, so that it works
without the command line's extra.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from mrm.errors import ArgumentError, FundingError
from mrm.physical import keeper
from mrm.physical.cgroups import ROOT
from mrm.physical.keeping import Keeper
from mrm.physical.kernelpool import COMPACT, Outcome, pages, why_not_all
from mrm.sizes import parse_size
from mrm.system.pages import frame_size


@contextlib.contextmanager
def available(nbytes: int, root: Path = ROOT) -> Iterator[Outcome]:
    """A context in which so many bytes of huge pages are free, if that can be had.

    What was added is subtracted at its end, also of pages in use: those go when they
    are given back.

    Parameters
    ----------
    nbytes : int
        How much is to be free.
    root : Path, optional
        Where /proc and /sys are.
    """
    wanted = -(-nbytes // frame_size())
    before = pages(None, root)
    missing = wanted - before.available
    refused = None
    with Keeper(root) as changes:
        try:
            if missing > 0 and (missing := missing - changes.change(missing)) > 0:
                keeper.compact(str(root / COMPACT))
                changes.change(missing)
        except FundingError as error:
            refused = str(error)
        yield Outcome(wanted, before, pages(None, root), None, refused)


def run_with(nbytes: int, command: list[str], root: Path = ROOT) -> int:
    """Run a command with so much made available; its exit status.

    Without the rights to do so, it is run all the same, and a line says so.
    """
    # From here on a signal ends the command, not us: there is a setting to be put back.
    with _Forwarding() as forwarding, available(nbytes, root) as outcome:
        if not outcome.enough:
            print(f"mrm: not all huge pages could be had. {why_not_all(outcome, root)}", file=sys.stderr)
        return _run(command, forwarding)


class _Forwarding:
    """Hands signals that would end this process to its child, once there is one.

    Ctrl-C needs no handing on: a terminal sends it to the child as well. What comes while the child
    is being started, when it may be there and nobody knows its number yet, waits until it is known.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self._starting = False
        self._waiting: list[int] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._hand_on) for number in self._SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def _hand_on(self, number: int, _: FrameType | None) -> None:
        if self._starting:
            self._waiting.append(number)
        elif self.child is None:
            sys.exit(128 + number)
        else:
            self.child.send_signal(number)

    def start(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Start the child; what has come meanwhile is its."""
        self._starting = True
        try:
            self.child = subprocess.Popen(command)
        finally:
            self._starting = False
            while self._waiting:
                self._hand_on(self._waiting.pop(0), None)
        return self.child


def _run(command: list[str], forwarding: _Forwarding) -> int:
    """Run a command to its end, whatever signals come; status as a shell has it."""
    try:
        child = forwarding.start(command)
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
