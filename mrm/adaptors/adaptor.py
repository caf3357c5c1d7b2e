"""What adaptors have in common: a heap's methods, of which each hands three places to its own kind.

A block is made (``_make``, whatever the method was called), changed (``_change``) or ended (``_end``). An
adaptor overrides these, and everything else follows: the others are asked of the heap below, and buffers
and arrays are blocks of the adaptor's own malloc, so that they are counted, too.

Locks. An adaptor's lock is held for its own books only, never while the heap below is called: no order of
locks can go wrong, however adaptors are stacked. It is one that its thread may take again, since any
line may start a garbage collection that frees a buffer. At a fork all of them are held, so that a
child's books are whole.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from mrm.adaptors.block import Block
from mrm.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np


@runtime_checkable
class HeapLike(Protocol):
    """What can be wrapped: ``mrm.Heap``, an adaptor, or an object of one's own with these."""

    def malloc(self, nbytes: int, /) -> int:
        """Address of a block of so many bytes or more; MemoryError, or one of its kind, if there is no memory."""

    def calloc(self, count: int, size: int, /) -> int:
        """The same for ``count`` times ``size`` bytes that are zero."""

    def realloc(self, address: int, nbytes: int, /) -> int:
        """Where the block is, that now has so many bytes; if that fails it is as it was."""

    def aligned(self, alignment: int, nbytes: int, /) -> int:
        """A block at a multiple of ``alignment``."""

    def free(self, address: int, /) -> None:
        """End a block; 0 is none."""

    def usable_size(self, address: int, /) -> int:
        """Bytes that a block has; an error, or 0, for what is none."""

    def owns(self, address: int, /) -> bool:
        """Whether an address lies in a block's memory."""


_all: weakref.WeakSet[Adaptor] = weakref.WeakSet()
_all_lock = threading.RLock()
_held: list[Adaptor] = []  # from just before a fork to just after it


class Adaptor:
    """A heap that hands every call on; the others are made of it.

    Parameters
    ----------
    heap : HeapLike
        What is wrapped, and kept alive.
    """

    def __init__(self, heap: HeapLike) -> None:
        self._heap: Any = check_heap(heap)
        self._lock = threading.RLock()
        with _all_lock:
            _all.add(self)

    # ---- what kinds override ----------------------------------------------------------

    def _make(self, method: str, nbytes: int, *arguments: int) -> int:
        """A new block, by ``method`` of the heap below; ``nbytes`` is what it comes to."""
        address: int = getattr(self._heap, method)(*arguments)
        return address

    def _change(self, address: int, nbytes: int) -> int:
        """Make a block larger or smaller."""
        moved: int = self._heap.realloc(address, nbytes)
        return moved

    def _end(self, address: int) -> None:
        """End a block."""
        self._heap.free(address)

    def _all_ended(self) -> None:
        """The heap below was closed: it has no blocks any more."""

    def _forking(self) -> None:
        """The process is about to fork; the lock is held."""

    def _forked(self) -> None:
        """The process is a child now, and what it does is its own."""

    # ---- blocks -----------------------------------------------------------------------

    @property
    def heap(self) -> Any:
        """What is wrapped."""
        return self._heap

    def malloc(self, nbytes: int, /) -> int:
        """Address of a block of so many bytes or more.

        Raises
        ------
        OutOfFrames
            If there is no memory for it, or an adaptor says so.
        """
        nbytes = plain(nbytes)
        return self._make("malloc", nbytes, nbytes)

    def calloc(self, count: int, size: int, /) -> int:
        """Address of a block of ``count`` times ``size`` bytes, all zero."""
        count, size = plain(count), plain(size)
        return self._make("calloc", count * size, count, size)

    def aligned(self, alignment: int, nbytes: int, /) -> int:
        """Address of a block at a multiple of ``alignment``, a power of two."""
        nbytes = plain(nbytes)
        return self._make("aligned", nbytes, alignment, nbytes)

    def realloc(self, address: int, nbytes: int, /) -> int:
        """Make a block larger or smaller, and say where it is now; 0 makes a new one.

        If it fails the block is as it was.
        """
        if not address:
            return self.malloc(nbytes)
        return self._change(address, plain(nbytes))

    def free(self, address: int, /) -> None:
        """End a block; 0 is none."""
        if address:
            self._end(address)

    def usable_size(self, address: int, /) -> int:
        """Bytes that a block has: at least what was asked for."""
        nbytes: int = self._heap.usable_size(address)
        return nbytes

    def owns(self, address: int, /) -> bool:
        """Whether an address lies in a block's memory."""
        return bool(self._heap.owns(address))

    # ---- buffers and arrays -----------------------------------------------------------

    def buffer(self, nbytes: int, /, zero: bool = False) -> Block:
        """Bytes with the buffer protocol and DLPack, which end with the object, or with ``free()``.

        Parameters
        ----------
        nbytes : int
            How many.
        zero : bool
            Whether they shall be zero.
        """
        return Block(self, plain(nbytes), zero)

    def empty(self, shape: int | tuple[int, ...], dtype: Any = float) -> np.ndarray[Any, Any]:
        """A NumPy array whose data is a block, with whatever is in it."""
        return self._array(shape, dtype, False)

    def zeros(self, shape: int | tuple[int, ...], dtype: Any = float) -> np.ndarray[Any, Any]:
        """A NumPy array of zeros whose data is a block."""
        return self._array(shape, dtype, True)

    def _array(self, shape: int | tuple[int, ...], dtype: Any, zero: bool) -> np.ndarray[Any, Any]:
        import numpy as np

        kind = np.dtype(dtype)
        if kind.hasobject:
            raise ArgumentError(f"{kind!r} is of Python objects, which a heap's memory cannot hold")
        lengths = (shape,) if hasattr(shape, "__index__") else tuple(shape)
        nbytes = kind.itemsize
        for length in lengths:
            nbytes *= plain(length)
        return np.ndarray(lengths, kind, memoryview(self.buffer(nbytes, zero)))

    # ---- the heap as a whole ------------------------------------------------------------

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Every block of the heap below, as (address, bytes that it has)."""
        found: Iterator[tuple[int, int]] = self._heap.blocks()
        return found

    def stats(self) -> Any:
        """Figures of the heap below."""
        return self._heap.stats()

    def trim(self) -> int:
        """Have the heap below give back what it can; returns bytes."""
        nbytes: int = self._heap.trim()
        return nbytes

    def detach(self) -> Any:
        """End this adaptor, and hand back what it wraps, which stays open."""
        return self._heap

    def close(self) -> None:
        """Close the heap below, and with it every block; twice is once."""
        self._heap.close()
        self._all_ended()

    @property
    def closed(self) -> bool:
        """Whether the heap below is closed."""
        return bool(self._heap.closed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__module__.rpartition('.')[0]}.{type(self).__name__} of {self._heap!r}>"


def check_heap(heap: Any) -> Any:
    """What was given as a heap, if it is one.

    Raises
    ------
    ArgumentError
        If it has not a heap's methods.
    """
    if isinstance(heap, type) or not isinstance(heap, HeapLike):
        raise ArgumentError(
            f"{heap!r} is no heap: give an mrm.Heap, an adaptor of one, or an object with malloc, calloc, realloc, "
            "aligned, free, usable_size and owns"
        )
    return heap


def plain(nbytes: Any) -> int:
    """Bytes, or a count, as an int that is not negative.

    Raises
    ------
    ArgumentError
        If it is nothing of the kind.
    """
    if type(nbytes) is not int:
        if isinstance(nbytes, bool) or not hasattr(nbytes, "__index__"):
            raise ArgumentError(f"a size is an int of bytes, not {nbytes!r}")
        nbytes = nbytes.__index__()
    if nbytes < 0:
        raise ArgumentError(f"a size is 0 or more bytes, not {nbytes}")
    return int(nbytes)


def _before_fork() -> None:
    _all_lock.acquire()
    for adaptor in list(_all):
        adaptor._lock.acquire()
        _held.append(adaptor)
        adaptor._forking()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()
    _all_lock.release()


def _after_fork_in_child() -> None:
    for adaptor in _held:
        adaptor._forked()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
