"""A heap that counts: blocks, bytes, peaks, of all its time and of parts of it.

Bytes are those that blocks have (their usable size). A *scope* counts what happens while it is open, in
whatever thread, with peaks above what there was when it began. Scopes may lie in each other, or
overlap; a change is added to each that is open, of which there are few.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mrm.adaptors.adaptor import Adaptor, HeapLike
from mrm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

_Function = TypeVar("_Function", bound="Callable[..., Any]")


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """Figures of a heap, or of a scope: then blocks and bytes are what it added, which may be less than nothing."""

    blocks: int = 0  #: that there are
    bytes: int = 0  #: that they have
    peak_blocks: int = 0  #: most blocks at a time
    peak_bytes: int = 0  #: most bytes at a time
    made: int = 0  #: blocks, so far
    made_bytes: int = 0  #: bytes of these, and what reallocs added
    changed: int = 0  #: reallocs
    freed: int = 0  #: blocks, so far
    failed: int = 0  #: calls that got no memory

    def as_dict(self) -> dict[str, int]:
        """The fields by name."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The fields as a JSON object."""
        return json.dumps(self.as_dict())


class _Tally:
    """Counts that are being counted."""

    __slots__ = tuple(field.name for field in dataclasses.fields(Counts))

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    if TYPE_CHECKING:
        blocks: int
        bytes: int
        peak_blocks: int
        peak_bytes: int
        made: int
        made_bytes: int
        changed: int
        freed: int
        failed: int

    def add(self, blocks: int, nbytes: int) -> None:
        """Note a block more or less, or one (0) that has other bytes now."""
        self.blocks += blocks
        self.bytes += nbytes
        if blocks > 0:
            self.made += 1
            self.peak_blocks = max(self.peak_blocks, self.blocks)
        elif blocks < 0:
            self.freed += 1
        else:
            self.changed += 1
        if nbytes > 0:
            self.made_bytes += nbytes
            self.peak_bytes = max(self.peak_bytes, self.bytes)

    def counts(self) -> Counts:
        return Counts(*[getattr(self, name) for name in self.__slots__])


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeTotals:
    """All scopes of one name that have ended."""

    name: str  #: theirs
    entered: int  #: how often
    peak_bytes: int  #: the most that one of them reached
    peak_blocks: int  #: the same of blocks
    made: int  #: blocks, in all
    made_bytes: int  #: bytes, in all
    left_bytes: int  #: that were still there at the ends, in all: what it keeps, or loses


class Scope:
    """A part of the program, as a ``with`` block or as a decorator; made by ``Statistics.scope``.

    As a decorator each call is a scope of its own, and they are added up by name; coroutines are counted from
    their first step to their end.
    """

    def __init__(self, statistics: Statistics, name: str | None) -> None:
        self._statistics = statistics
        self.name = name
        self._tally = _Tally()
        self._state = "new"

    def counts(self) -> Counts:
        """What was counted so far; after the end, in all."""
        with self._statistics._lock:
            return self._tally.counts()

    def __enter__(self) -> Self:
        if self._state != "new":
            raise ArgumentError("a scope counts once; call .scope() again for another")
        with self._statistics._lock:
            self._state = "open"
            self._statistics._open.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        with self._statistics._lock:
            self._state = "ended"
            self._statistics._open.remove(self)
            self._statistics._add_up(self.name or "scope", self._tally)

    def __call__(self, function: _Function) -> _Function:
        """Make each call of a function a scope of its own."""
        name = self.name or function.__qualname__
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def counted_coroutine(*arguments: Any, **keywords: Any) -> Any:
                with self._statistics.scope(name):
                    return await function(*arguments, **keywords)

            return counted_coroutine  # type: ignore[return-value]

        @functools.wraps(function)
        def counted(*arguments: Any, **keywords: Any) -> Any:
            with self._statistics.scope(name):
                return function(*arguments, **keywords)

        return counted  # type: ignore[return-value]


class Statistics(Adaptor):
    """A heap that counts.

    Parameters
    ----------
    heap : HeapLike
        What is wrapped. Blocks that it had before are not counted.
    """

    def __init__(self, heap: HeapLike) -> None:
        super().__init__(heap)
        self._tally = _Tally()
        self._open: list[Scope] = []
        self._totals: dict[str, ScopeTotals] = {}

    def counts(self) -> Counts:
        """Figures since the beginning, or since ``reset_peaks()``."""
        with self._lock:
            return self._tally.counts()

    def reset_peaks(self) -> Counts:
        """Let peaks begin anew from what there is now; returns what they were."""
        with self._lock:
            counts = self._tally.counts()
            self._tally.peak_blocks, self._tally.peak_bytes = self._tally.blocks, self._tally.bytes
        return counts

    def scope(self, name: str | None = None) -> Scope:
        """A part of the program to count by itself.

        Parameters
        ----------
        name : str, optional
            What ``scopes()`` adds it up under; else a decorated function's own name, or ``"scope"``.

        Examples
        --------
        ::

            with statistics.scope("load") as load:
                ...
            print(load.counts().peak_bytes)

            @statistics.scope()
            def parse(): ...
        """
        return Scope(self, name)

    def scopes(self) -> list[ScopeTotals]:
        """Scopes that have ended, added up by name, highest peak first."""
        with self._lock:
            found = list(self._totals.values())
        return sorted(found, key=lambda totals: (-totals.peak_bytes, totals.name))

    def _add_up(self, name: str, tally: _Tally) -> None:
        before = self._totals.get(name) or ScopeTotals(name, 0, 0, 0, 0, 0, 0)
        self._totals[name] = ScopeTotals(
            name,
            before.entered + 1,
            max(before.peak_bytes, tally.peak_bytes),
            max(before.peak_blocks, tally.peak_blocks),
            before.made + tally.made,
            before.made_bytes + tally.made_bytes,
            before.left_bytes + tally.bytes,
        )

    def _count(self, blocks: int, nbytes: int) -> None:
        with self._lock:
            self._tally.add(blocks, nbytes)
            for scope in self._open:
                scope._tally.add(blocks, nbytes)

    def _count_failure(self) -> None:
        with self._lock:
            self._tally.failed += 1
            for scope in self._open:
                scope._tally.failed += 1

    def _make(self, method: str, nbytes: int, *arguments: int) -> int:
        try:
            address = super()._make(method, nbytes, *arguments)
        except MemoryError:
            self._count_failure()
            raise
        self._count(1, self._heap.usable_size(address))
        return address

    def _change(self, address: int, nbytes: int) -> int:
        had = self._heap.usable_size(address)
        try:
            moved = super()._change(address, nbytes)
        except MemoryError:
            self._count_failure()
            raise
        self._count(0, self._heap.usable_size(moved) - had)
        return moved

    def _end(self, address: int) -> None:
        # Counted afterwards, so that a peak is never less than it was.
        had = self._heap.usable_size(address)
        super()._end(address)
        self._count(-1, -had)

    def _all_ended(self) -> None:
        with self._lock:
            for tally in (self._tally, *(scope._tally for scope in self._open)):
                tally.freed += max(tally.blocks, 0)
                tally.blocks = tally.bytes = 0
