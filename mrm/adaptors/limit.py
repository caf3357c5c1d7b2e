"""A heap that has at most so many bytes.

Bytes are those that blocks have (their usable size), since these are what a block costs. Before a block is
made the bytes asked for are set aside, so that threads cannot pass the limit together; afterwards they are
corrected to what the block has. A block that was rounded up beyond the limit is freed again.
"""

from __future__ import annotations

from mrm.adaptors.adaptor import Adaptor, HeapLike
from mrm.errors import OutOfFrames
from mrm.sizes import format_size, parse_size_or_zero


class Limit(Adaptor):
    """A heap that has at most so many bytes.

    Parameters
    ----------
    heap : HeapLike
        What is wrapped.
    limit : int or str
        Bytes that its blocks may have together, or a size such as ``"256MiB"``. Blocks that the heap had
        before do not count.
    """

    def __init__(self, heap: HeapLike, limit: int | str) -> None:
        super().__init__(heap)
        self._limit = parse_size_or_zero(limit)
        self._used = 0

    @property
    def limit(self) -> int:
        """Bytes that may be used; it can be set, to less than is in use, too: then nothing is made until it fits."""
        return self._limit

    @limit.setter
    def limit(self, limit: int | str) -> None:
        self._limit = parse_size_or_zero(limit)

    @property
    def used(self) -> int:
        """Bytes that its blocks have."""
        return self._used

    @property
    def left(self) -> int:
        """Bytes that may still be used."""
        return max(self._limit - self._used, 0)

    def _reserve(self, nbytes: int, asked: int) -> None:
        """Set bytes aside, of those that were asked for."""
        with self._lock:
            if nbytes <= 0 or self._used + nbytes <= self._limit:
                self._used += nbytes
                return
            used = self._used
        raise OutOfFrames(
            f"a block of {format_size(asked)} would pass the limit of {format_size(self._limit)}, of which "
            f"{format_size(used)} are used: free blocks, or raise .limit",
            nbytes=asked,
        )

    def _make(self, method: str, nbytes: int, *arguments: int) -> int:
        self._reserve(nbytes, nbytes)
        has = nbytes
        try:
            address = super()._make(method, nbytes, *arguments)
            try:
                usable = self._heap.usable_size(address)
                self._reserve(usable - nbytes, nbytes)
                has = usable
            except BaseException:
                self._heap.free(address)
                raise
        except BaseException:
            self._reserve(-has, nbytes)
            raise
        return address

    def _change(self, address: int, nbytes: int) -> int:
        had = self._heap.usable_size(address)
        more = max(nbytes - had, 0)
        self._reserve(more, nbytes)
        try:
            moved = super()._change(address, nbytes)
        except BaseException:
            self._reserve(-more, nbytes)
            raise
        # What rounding adds here is let pass: the block is changed already, and that cannot be undone.
        with self._lock:
            self._used += self._heap.usable_size(moved) - had - more
        return moved

    def _end(self, address: int) -> None:
        had = self._heap.usable_size(address)
        super()._end(address)
        self._reserve(-had, had)

    def _all_ended(self) -> None:
        with self._lock:
            self._used = 0
