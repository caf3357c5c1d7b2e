"""NumPy's arrays on heaps, without a change to the program that makes them.

::

    import mrm.numpy

    with mrm.numpy.use(heap):                  # here, and in what is called from here
        a = numpy.zeros((20_000, 20_000))      # lies in the heap

    mrm.numpy.install()                        # everywhere, from now on

Arrays from a threshold on have their data in the heap, smaller ones where NumPy puts them. They are arrays like
others: views, pickles and copies know nothing of it. An array keeps its heap's memory alive, whatever becomes of
the ``Heap`` and its pool, and a heap that is closed meanwhile ends with its last array.

``use`` is for a context, as NumPy has it (a ``contextvars`` variable): a task of asyncio has its own and begins with
its maker's; a thread begins with an empty one, and so with what is installed. ``install`` is for all that chose nothing
else: all threads and contexts, those that begin later too.

Without a heap it is a private one, whose memory a child of fork has a copy of, as with malloc. A heap on a pool is
another matter: its memory is shared, so that a child has not got it. There new arrays are made as NumPy makes
them, and those of its parent must not be touched.

tracemalloc sees each array once, in NumPy's domain (389047): the heap's own functions tell it nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from typing import TYPE_CHECKING, Any

import mrm
from mrm import _numpy
from mrm.adaptors.adaptor import check_heap
from mrm.errors import ArgumentError
from mrm.sizes import parse_size_or_zero

if TYPE_CHECKING:
    from collections.abc import Iterator


def _table() -> Any:
    """NumPy's table of functions for C extensions: in a module that NumPy 2 has given another name."""
    try:
        importlib.import_module("numpy")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "mrm.numpy needs NumPy: pip install 'managed-runtime-memory[numpy]'", name="numpy"
        ) from error
    try:
        module = importlib.import_module("numpy._core._multiarray_umath")
    except ModuleNotFoundError:
        module = importlib.import_module("numpy.core._multiarray_umath")
    return module._ARRAY_API


#: Bytes from which arrays go to the heap. Up to here malloc has most of them at hand; see docs/heap.md.
THRESHOLD = 64 << 10

_numpy.connect(_table())


@dataclasses.dataclass(slots=True)
class _State:
    installed: Any = None
    private: mrm.Heap | None = None  # what arrays lie in where no heap is named


_state = _State()


@contextlib.contextmanager
def use(heap: Any = None, *, threshold: int | str = THRESHOLD) -> Iterator[Any]:
    """Have arrays that are made in a ``with`` block, or in a decorated function, in a heap.

    Parameters
    ----------
    heap : HeapLike, optional
        An ``mrm.Heap``, whose functions NumPy calls without Python; an adaptor, or anything like a heap, whose methods
        it calls. Without one it is the private heap that all calls without one share.
    threshold : int or str
        Bytes of the smallest array that goes there.

    Yields
    ------
    HeapLike
        The heap.

    Raises
    ------
    ArgumentError
        If it is no heap; and at the end, if the context's handler is not the one that was set here: the block was
        left in another context than it was entered in, or before one that lies in it.

    Notes
    -----
    A generator that yields in such a block leaves it in force for who called it: make arrays in a function that the
    generator calls. A thread that is started in it has a context of its own, without it.
    """
    found = _heap(heap)
    handler = _numpy.handler_of(found, _bytes(threshold))
    before = _numpy.set_handler(handler)
    try:
        yield found
    finally:
        now = _numpy.get_handler()
        if now is not handler:
            raise ArgumentError(
                "this context's handler of NumPy's data is not the one that was set here: leave each `with "
                "mrm.numpy.use(...)` in the context that it was entered in, the last one first"
            )
        _numpy.set_handler(before)


def install(heap: Any = None, *, threshold: int | str = THRESHOLD) -> Any:
    """Have arrays in a heap, in every thread and context that chose no other handler.

    Parameters
    ----------
    heap : HeapLike, optional
        As for ``use``.
    threshold : int or str
        Bytes of the smallest array that goes there.

    Returns
    -------
    HeapLike
        The heap.

    Notes
    -----
    What stands behind NumPy's *default* handler is replaced, so that threads that run already, threads and
    contexts that begin later, and those that go back to the default one have it at once; those in a ``use`` block,
    or with a handler of somebody else's, keep theirs. Installing again replaces the heap; arrays of the one
    before keep it until the last of them is gone.
    """
    found = _heap(heap)
    _numpy.install(found, _bytes(threshold))
    _state.installed = found
    return found


def uninstall() -> None:
    """Have new arrays where NumPy puts them. Those that there are stay where they are, as long as they live."""
    _numpy.install(None, 0)
    _state.installed = None


def installed() -> Any:
    """The heap that is installed, or None."""
    return _state.installed


def _heap(heap: Any) -> Any:
    """What arrays shall lie in."""
    if heap is None:
        if _state.private is None or _state.private.closed:
            _state.private = mrm.Heap(name="numpy")
        return _state.private
    return check_heap(heap)


def _bytes(threshold: int | str) -> int:
    # NumPy makes an array without elements one byte long, which is nothing to have a page for.
    return max(parse_size_or_zero(threshold), 1)
