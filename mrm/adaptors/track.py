"""A heap that knows where its live blocks were made.

A block is noted with the bytes that were asked for and the Python frames that it was asked from. Noting
costs the walk up the stack and no more: lines are looked up when somebody wants to see them. A note goes
before its block does, so that another thread that gets the same address finds no old one.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from mrm.adaptors.adaptor import Adaptor, HeapLike
from mrm.adaptors.callers import OURS
from mrm.errors import ArgumentError
from mrm.sizes import format_size

if TYPE_CHECKING:
    from types import CodeType

_Stack = tuple[tuple["CodeType", int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Tracked:
    """A live block, or several of one place: then ``address`` is that of the first."""

    address: int  #: where it is
    nbytes: int  #: asked for, in all
    blocks: int  #: how many they are
    thread: int  #: that made it (threading.get_ident)
    stack: traceback.StackSummary  #: where, innermost last, as in a traceback

    def __str__(self) -> str:
        where = "".join(self.stack.format()).rstrip()
        return f"{format_size(self.nbytes)} in {_count(self.blocks, 'block')}, from:\n{where}"


class Track(Adaptor):
    """A heap that knows where its live blocks were made.

    Parameters
    ----------
    heap : HeapLike
        What is wrapped.
    depth : int
        Frames to note, from the caller up; 0 is all. Each costs about 50 ns, and 16 bytes.
    """

    def __init__(self, heap: HeapLike, depth: int = 16) -> None:
        super().__init__(heap)
        if depth < 0:
            raise ArgumentError(f"depth is a number of frames, or 0 for all, not {depth}")
        self._depth = depth or sys.maxsize
        self._notes: dict[int, tuple[int, int, _Stack]] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def live(self) -> list[Tracked]:
        """Every block that there is, oldest first."""
        with self._lock:
            notes = list(self._notes.items())
        return [Tracked(at, nbytes, 1, thread, _readable(stack)) for at, (nbytes, thread, stack) in notes]

    def by_place(self) -> list[Tracked]:
        """The same added up by stack, most bytes first."""
        with self._lock:
            notes = list(self._notes.items())
        places: dict[_Stack, list[tuple[int, int, int]]] = {}
        for address, (nbytes, thread, stack) in notes:
            places.setdefault(stack, []).append((address, nbytes, thread))
        found = []
        for stack, blocks in places.items():
            address, _, thread = blocks[0]
            total = sum(nbytes for _, nbytes, _ in blocks)
            found.append(Tracked(address, total, len(blocks), thread, _readable(stack)))
        return sorted(found, key=lambda tracked: -tracked.nbytes)

    def where(self, address: int) -> Tracked | None:
        """The block that begins at an address, if it is one of these."""
        with self._lock:
            note = self._notes.get(address)
        return None if note is None else Tracked(address, note[0], 1, note[1], _readable(note[2]))

    def report(self, most: int = 10) -> str:
        """The places that have most bytes, in words."""
        places = self.by_place()
        total = sum(place.nbytes for place in places)
        blocks = sum(place.blocks for place in places)
        lines = [
            f"{_count(blocks, 'live block')} of {format_size(total)}, from {_count(len(places), 'place')}"
        ]
        lines += [str(place) for place in places[:most]]
        return "\n\n".join(lines)

    def _note(self, address: int, nbytes: int) -> None:
        frames: list[tuple[CodeType, int]] = []
        frame = sys._getframe(1)
        while frame is not None and len(frames) < self._depth:
            if frame.f_code.co_filename not in OURS or frames:
                frames.append((frame.f_code, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
        note = (nbytes, threading.get_ident(), tuple(frames))
        with self._lock:
            self._notes[address] = note

    def _make(self, method: str, nbytes: int, *arguments: int) -> int:
        address = super()._make(method, nbytes, *arguments)
        self._note(address, nbytes)
        return address

    def _change(self, address: int, nbytes: int) -> int:
        with self._lock:
            note = self._notes.pop(address, None)
        try:
            moved = super()._change(address, nbytes)
        except BaseException:
            self._put_back(address, note)
            raise
        self._note(moved, nbytes)
        return moved

    def _end(self, address: int) -> None:
        with self._lock:
            note = self._notes.pop(address, None)
        try:
            super()._end(address)
        except BaseException:
            self._put_back(address, note)
            raise

    def _put_back(self, address: int, note: tuple[int, int, _Stack] | None) -> None:
        if note is not None:
            with self._lock:
                self._notes[address] = note

    def _all_ended(self) -> None:
        with self._lock:
            self._notes.clear()


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _readable(stack: _Stack) -> traceback.StackSummary:
    lines = [
        traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
        for code, line in reversed(stack)
    ]
    return traceback.StackSummary.from_list(lines)
