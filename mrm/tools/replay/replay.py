"""What a log tells by itself, and what came of running it again."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import mrm
from mrm.tools.replay.books import keep_books
from mrm.tools.replay.calls import Calls
from mrm.tools.replay.run import run_on_glibc, run_on_heap

if TYPE_CHECKING:
    import os


@dataclasses.dataclass(frozen=True, slots=True)
class Leak:
    """Blocks of one size and one place that were never freed."""

    nbytes: int  #: of each
    blocks: int  #: how many
    where: str  #: ``file:line`` of the program; empty if the log does not say


@dataclasses.dataclass(frozen=True, slots=True)
class Mismatch:
    """A call that was about no block."""

    line: int  #: of the log
    what: str  #: such as "freed twice"
    address: int  #: that it named
    nbytes: int  #: that it asked for, or, of a free, that the block had
    where: str  #: ``file:line`` of the program; empty if the log does not say


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a log tells by itself. Bytes are those that were asked for."""

    calls: int  #: lines
    cut_off: bool  #: the last line had no end, and was left out
    kinds: dict[str, int]  #: calls by method
    threads: int  #: that called
    seconds: float  #: from opening the log to its last call
    blocks: int  #: made in all
    made_bytes: int  #: of these, and what reallocs added
    largest: int  #: bytes of the largest block
    failed: int  #: calls that got no memory
    peak_bytes: int  #: most bytes at a time
    peak_blocks: int  #: blocks there were then
    peak_line: int  #: line of the log where that was
    peak_seconds: float  #: when that was
    most_blocks: int  #: most blocks at a time
    leaks: list[Leak]  #: blocks that were never freed, most bytes first
    leaked_blocks: int  #: how many these are
    leaked_bytes: int  #: and their bytes
    mismatches: dict[str, int]  #: calls that were about no block, by what they were
    mismatched: list[Mismatch]  #: the first of them
    unseen: int  #: blocks that ended without a call in the log
    unseen_bytes: int  #: of these

    @property
    def places(self) -> list[tuple[str, int, int]]:
        """Leaks added up by the line of the program: that, bytes and blocks, most bytes first; empty if not known."""
        places: dict[str, tuple[int, int]] = {}
        for leak in self.leaks:
            if leak.where:
                nbytes, blocks = places.get(leak.where, (0, 0))
                places[leak.where] = nbytes + leak.nbytes * leak.blocks, blocks + leak.blocks
        found = [(where, nbytes, blocks) for where, (nbytes, blocks) in places.items()]
        return sorted(found, key=lambda place: (-place[1], place[0]))

    @property
    def sound(self) -> bool:
        """Whether every block was freed, once."""
        return not (self.leaked_blocks or self.unseen or any(self.mismatches.values()))


@dataclasses.dataclass(frozen=True, slots=True)
class Replayed:
    """What came of running a log again."""

    calls: int  #: made
    failed: int  #: that got no memory
    failed_line: int  #: line of the log of the first of these; 0: none
    failed_bytes: int  #: that it asked for
    skipped: int  #: calls about blocks that were not got, or never were blocks
    seconds: float  #: that it took

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds if self.seconds else 0.0


def examine(log: str | os.PathLike[str] | Calls, most: int = 1000) -> Found:
    """What a log tells by itself, without a heap.

    Parameters
    ----------
    log : path or Calls
        What ``mrm.adaptors.Log`` wrote.
    most : int
        How many calls that are about no block to name.
    """
    calls = log if isinstance(log, Calls) else Calls(log)
    books = keep_books(calls, most)
    leaks = [Leak(nbytes, blocks, where) for nbytes, where, blocks in books.pop("live")]
    leaks.sort(key=lambda leak: (-leak.nbytes * leak.blocks, leak.where))
    return Found(
        calls=calls.n,
        cut_off=calls.cut_off,
        leaks=leaks,
        leaked_blocks=sum(leak.blocks for leak in leaks),
        leaked_bytes=sum(leak.nbytes * leak.blocks for leak in leaks),
        mismatched=[Mismatch(*mismatch) for mismatch in books.pop("mismatched")],
        **books,
    )


def replay(log: str | os.PathLike[str] | Calls, heap: Any = None) -> Replayed:
    """Run a log again, in the order of its lines, by one thread, and free at its end what it left.

    Parameters
    ----------
    log : path or Calls
        What ``mrm.adaptors.Log`` wrote.
    heap : HeapLike, optional
        Where; libc's malloc, if none is given. A ``mrm.Heap`` is called without Python in between,
        anything else by its methods.
    """
    calls = log if isinstance(log, Calls) else Calls(log)
    keep_books(calls, 0)
    return Replayed(*(run_on_glibc(calls) if heap is None else run_on_heap(calls, heap)))


def sufficient(log: str | os.PathLike[str] | Calls) -> int:
    """Bytes of the smallest pool on which a log runs to its end, in whole frames; by trying.

    A heap's memory is more than its blocks, by what lies between them; how much depends on the order of the
    calls. The log is run on private heaps with a limit, halving the distance between enough and too
    little, to a frame or a hundredth.

    Notes
    -----
    One thread runs it. In a program whose threads allocate at the same time each keeps pages of its own at hand:
    add a page for each thread and size class that it uses (``heap.stats().classes`` has their bytes).
    """
    calls = log if isinstance(log, Calls) else Calls(log)
    found = examine(calls, 0)
    little = found.peak_bytes // mrm.FRAME_SIZE
    with _private(None) as heap:
        run_on_heap(calls, heap)
        enough = -(-heap.stats().memory_peak // mrm.FRAME_SIZE)
    little = min(little, enough)
    while enough - little > max(enough // 100, 1):
        middle = (enough + little) // 2
        with _private(middle * mrm.FRAME_SIZE) as heap:
            _, failed, *_ = run_on_heap(calls, heap, stop=True)
        if failed:
            little = middle
        else:
            enough = middle
    return enough * mrm.FRAME_SIZE


def _private(limit: int | None) -> mrm.Heap:
    """A private heap that need not be on huge pages: nothing is measured on it but its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mrm.BackingWarning)
        return mrm.Heap(limit=limit, name="replay")
