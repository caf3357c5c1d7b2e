from types import TracebackType
from typing import Self

from mrm import Pool

class Stream:
    """One thread of triads over arrays of ``nbytes`` each; a context manager."""

    def __init__(self, nbytes: int, window: float = 0.01) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def between(self, begin: int, end: int) -> list[tuple[int, int, int]]:
        """Windows that lie within a time of ``time.monotonic_ns()``: of each (wall ns, processor ns, bytes)."""

class Committer:
    """One thread that commits a batch of one slot every ``pause`` seconds; a context manager."""

    def __init__(self, pool: Pool, pause: float = 0.001) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def between(self, begin: int, end: int) -> list[int]:
        """Commits within a time of ``time.monotonic_ns()``: nanoseconds that each took."""
