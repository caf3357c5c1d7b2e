"""What is measured on: frames to relocate and a heap for mutators, on the best that there is.

Huge pages where enough are free; they are not fetched here, because that changes a
setting of the machine: ``mrm fund`` does it. With fewer, the frames come first and the
heap lies on ordinary memory; with hardly any, all of it does. The notes say which.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mrm import Pool
from mrm.errors import BackingWarning
from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE, base_page_size, page_table_span
from mrm.tools.bench.machine import available_bytes, free_huge_pages

FRAME = FRAME_SIZE
GIB = 1 << 30
FEWEST = 64  # frames: huge pages for fewer are not worth being measured on
SPARE = 1  # huge page that the kernel lane gets and gives back


@dataclass(frozen=True)
class Ground:
    """How much there is, and on what.

    Attributes
    ----------
    nbytes : int
        Of the frames, and as much of the heap.
    huge_frames, huge_heap : bool
        Whether there are huge pages for them.
    notes : tuple of str
        What a reader of the figures must know about it.
    """

    nbytes: int
    huge_frames: bool
    huge_heap: bool
    notes: tuple[str, ...]

    @contextmanager
    def frames(self) -> Iterator[Pool]:
        """The pool whose frames are relocated."""
        with _pool(self.nbytes, self.huge_frames) as pool:
            yield pool

    @contextmanager
    def heap(self) -> Iterator[tuple[int, int]]:
        """Address and bytes of what mutators read."""
        with _pool(self.nbytes, self.huge_heap) as pool:
            pool.zero(pool.take(len(pool)))
            yield pool.window.address(0), self.nbytes


def survey(wanted: int) -> Ground:
    """What there is of ``wanted`` bytes, a power of two, for frames and as much for the heap."""
    free = free_huge_pages() - SPARE
    nbytes = wanted
    while nbytes > free * FRAME and nbytes > FEWEST * FRAME:
        nbytes //= 2
    notes = []
    fund = f"`mrm fund {format_size(2 * wanted).replace(' ', '')}`, as root, gets more"
    if huge := nbytes <= free * FRAME:
        if nbytes < wanted:
            notes.append(
                f"Only {free} huge pages are free: the frames are {format_size(nbytes)} "
                f"instead of {format_size(wanted)}. {fund}."
            )
        huge_heap = 2 * nbytes <= free * FRAME
        if not huge_heap:
            notes.append(f"The heap is on ordinary memory: there are huge pages for the frames only. {fund}.")
    else:
        huge_heap = False
        nbytes = min(wanted, 1 << (available_bytes() // 8).bit_length() - 1)
        notes.append(
            f"There are no huge pages: {format_size(nbytes)} of frames are on ordinary memory, "
            f"where a frame may be {FRAME // base_page_size()} small pages. {fund}."
        )
    span = page_table_span()
    if nbytes < span:
        size = format_size(span)
        notes.append(
            f"Views by hand below {size} share no page tables: the kernel shares what spans {size} only."
        )
    return Ground(nbytes, huge, huge_heap, tuple(notes))


def touch_step(pool: Pool) -> int:
    """Bytes between two touches that together link all of a mapping of ``pool``."""
    return base_page_size() if pool.backing == "small" else FRAME


def _pool(nbytes: int, huge: bool) -> Pool:
    with warnings.catch_warnings():
        # Said in the notes, in words that fit here.
        warnings.simplefilter("ignore", BackingWarning)
        return Pool(nbytes, huge="require" if huge else "prefer")
