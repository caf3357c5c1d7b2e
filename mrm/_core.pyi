"""The pool as Python sees it."""

import os
from array import array
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, SupportsIndex, overload

from mrm._arrays import _Integers
from mrm._capi import api_address as api_address
from mrm._economy import Economy
from mrm._reservation import Reservation
from mrm._view import View
from mrm.stats import Mapping

class Pool(Economy):
    numa_node: int | Literal["interleave", "local"] | None
    def __init__(
        self,
        size: int | str,
        *,
        maximum: int | str | None = None,
        huge: str = "prefer",
        numa_node: int | Literal["interleave", "local"] | None = None,
        path: str | os.PathLike[str] | None = None,
        name: str | None = None,
        dump: bool = False,
        views: int | None = None,
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
        keep: bool = False,
    ) -> None: ...
    @overload
    def take(self, n: None = None) -> int: ...
    @overload
    def take(self, n: SupportsIndex) -> array[int]: ...
    def take_run(self, n: SupportsIndex) -> range: ...
    def give(self, frames: _Integers, *, reuse: str = "now") -> None: ...
    def _close(self) -> None: ...
    def open_view(self) -> View: ...
    def reserve(self, slots: SupportsIndex, *, at: int | None = None) -> Reservation: ...
    def retire(self) -> None: ...
    def mappings(self, frame: SupportsIndex) -> list[Mapping]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
