"""What has to end before the interpreter does, and what a child after fork has to forget.

Python runs the handlers of its end in the opposite order of their registration, which is that of imports
and so nobody's choice; and a handler that raises leaves the rest of its work undone. So there is one for
all: kinds of things end in the order of their numbers, and each thing, whatever another raises.
"""

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_kinds: list["AtEnd[Any]"] = []


class AtEnd(Generic[T]):
    """Things of one kind that are there; it keeps none of them alive.

    Parameters
    ----------
    order : int
        Kinds with a lower number end first.
    forget : callable
        What is done with each in a child after fork.
    end : callable
        What is done with each at the interpreter's end.
    """

    def __init__(self, order: int, forget: Callable[[T], object], end: Callable[[T], object]) -> None:
        self._order, self._forget, self._end = order, forget, end
        self._there: weakref.WeakSet[T] = weakref.WeakSet()
        _kinds.append(self)
        _kinds.sort(key=lambda kind: kind._order)

    def add(self, thing: T) -> None:
        """One more."""
        self._there.add(thing)


def _forget_all() -> None:
    _raise([failure for kind in _kinds for failure in _each(kind._forget, kind._there)])


def _end_all() -> None:
    _raise([failure for kind in _kinds for failure in _each(kind._end, kind._there)])


def _each(call: Callable[[Any], object], things: "weakref.WeakSet[Any]") -> list[Exception]:
    """Call it with each thing: what the calls raised."""
    failures = []
    for thing in list(things):
        try:
            call(thing)
        except Exception as failure:  # noqa: BLE001 - raised when the others have ended
            failures.append(failure)
    return failures


def _raise(failures: list[Exception]) -> None:
    """Raise what there is, for Python to print."""
    if len(failures) > 1:
        raise ExceptionGroup("not all ended well", failures)
    if failures:
        raise failures[0]


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_end_all)
