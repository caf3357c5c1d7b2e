"""A heap that asks before it says that memory is short."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrm.adaptors.adaptor import Adaptor, HeapLike
from mrm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable


class OnFailure(Adaptor):
    """A heap that calls back when a block cannot be had, and tries again if it is told to.

    Parameters
    ----------
    heap : HeapLike
        What is wrapped.
    callback : callable
        ``callback(nbytes)`` is called in the thread that asked for so many bytes, as often as they cannot be had.
        If it has freed something it returns true, and the heap is asked again; else the caller gets the
        error. It may use the heap, and what it raises itself goes to the caller.

    Notes
    -----
    What is above an adaptor it does not see: put ``OnFailure`` around ``Limit``, and it is asked when the limit is
    reached, too. A pool has a callback of its own (``pool.on_shortage``), which is for all of its users.
    """

    def __init__(self, heap: HeapLike, callback: Callable[[int], object]) -> None:
        super().__init__(heap)
        if not callable(callback):
            raise ArgumentError(
                f"{callback!r} cannot be called; it is called with the bytes that were asked for"
            )
        self._callback = callback

    def _make(self, method: str, nbytes: int, *arguments: int) -> int:
        while True:
            try:
                return super()._make(method, nbytes, *arguments)
            except MemoryError:
                if not self._callback(nbytes):
                    raise

    def _change(self, address: int, nbytes: int) -> int:
        while True:
            try:
                return super()._change(address, nbytes)
            except MemoryError:
                if not self._callback(nbytes):
                    raise
