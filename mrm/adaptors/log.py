"""A heap that writes every call to a file, which ``mrm replay`` runs again.

A line is a call, in CSV: seconds since the log was opened, the thread's number in the system, the method, the
block's address, bytes, for a realloc where the block was, for aligned the alignment, and, if that was
wanted, the line of the program that called. Bytes are those asked for, which is what has to be asked for
again; of a free, which asks for none, they are those that the block had. A call that got no memory has
the address 0.

Lines are in an order that could have been. A free is written before the block goes, so that no other thread
can have its address in an earlier line; everything else is written when it is done. A realloc that
moved may come after another's block at the place that it left, since holding others up until it is done would
make them wait for each other; whoever reads a log knows that (mrm/tools/replay).
"""

from __future__ import annotations

import csv
import io
import os
import threading
import time
from typing import TYPE_CHECKING, Any, TextIO

from mrm.adaptors.adaptor import Adaptor, HeapLike
from mrm.adaptors.callers import caller
from mrm.errors import Error

if TYPE_CHECKING:
    from collections.abc import Callable

#: The first line of a log.
COLUMNS = ("seconds", "thread", "action", "address", "bytes", "was", "alignment", "where")

_KEPT_BACK = 1 << 16  # characters before they go to the file


class Log(Adaptor):
    """A heap that writes every call to a file.

    Parameters
    ----------
    heap : HeapLike
        What is wrapped.
    file : path or text file
        Where to. A path is opened, emptied, and closed at the end; a file is the caller's, and only
        written to.
    where : bool
        Whether to write the line of the program that called, too, by which ``mrm replay`` tells where
        leaked blocks came from.

    Notes
    -----
    Lines are kept back until there are 64 KiB of them: call ``flush()`` before somebody else reads the file. A
    child of a fork writes nothing: what it does is no part of what its parent did.
    """

    def __init__(self, heap: HeapLike, file: str | os.PathLike[str] | TextIO, *, where: bool = False) -> None:
        super().__init__(heap)
        self._owned = isinstance(file, (str, os.PathLike))
        self._file: TextIO = (
            open(file, "w", newline="") if isinstance(file, (str, os.PathLike)) else file  # noqa: SIM115
        )
        self._begun = time.perf_counter()
        self._where = where
        self._lines: list[str] = [",".join(COLUMNS) + "\n"]
        self._kept = 0
        self._writing = True

    def flush(self) -> None:
        """Have everything in the file that was called before."""
        with self._lock:
            self._hand_over()
            if self._writing:
                self._file.flush()

    def detach(self) -> Any:
        """End the log, and hand back what it wraps, which stays open."""
        self._end_log()
        return super().detach()

    def close(self) -> None:
        """Close the heap below, and end the log."""
        super().close()
        self._end_log()

    def __del__(self) -> None:
        if getattr(self, "_writing", False):
            self._end_log()

    def _end_log(self) -> None:
        with self._lock:
            self._hand_over()
            if self._writing:
                self._file.flush()
            self._writing = False
            if self._owned:
                self._file.close()

    def _hand_over(self) -> None:
        lines, self._lines, self._kept = self._lines, [], 0
        if self._writing:
            self._file.write("".join(lines))

    def _forking(self) -> None:
        # So that the child has nothing in hand that it would write once more when it ends.
        self._hand_over()
        if self._writing:
            self._file.flush()

    def _forked(self) -> None:
        self._writing = False

    def _write(self, action: str, address: int, nbytes: int, was: str = "", alignment: str = "") -> None:
        where = _quoted(caller()) if self._where else ""
        line = (
            f"{time.perf_counter() - self._begun:.7f},{threading.get_native_id()},{action},"
            f"{address:#x},{nbytes},{was},{alignment},{where}\n"
        )
        with self._lock:
            if not self._writing:
                return
            self._lines.append(line)
            self._kept += len(line)
            if self._kept >= _KEPT_BACK:
                self._hand_over()

    def _written(self, call: Callable[[], int], *line: Any) -> int:
        """Call, and write what came of it; 0 is the address of no block."""
        action, nbytes, *rest = line
        try:
            address = call()
        except MemoryError:
            self._write(action, 0, nbytes, *rest)
            raise
        self._write(action, address, nbytes, *rest)
        return address

    def _make(self, method: str, nbytes: int, *arguments: int) -> int:
        make = super()._make
        alignment = str(arguments[0]) if method == "aligned" else ""
        return self._written(lambda: make(method, nbytes, *arguments), method, nbytes, "", alignment)

    def _change(self, address: int, nbytes: int) -> int:
        change = super()._change
        return self._written(lambda: change(address, nbytes), "realloc", nbytes, f"{address:#x}")

    def _end(self, address: int) -> None:
        try:
            had = self._heap.usable_size(address)
        except Error:
            had = 0  # the free will say what is wrong with it
        self._write("free", address, had)
        super()._end(address)


def _quoted(text: str) -> str:
    """As CSV wants it: most need nothing."""
    if not any(character in text for character in ',"\n\r'):
        return text
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([text])
    return line.getvalue()
