from types import TracebackType
from typing import Self

class Mutators:
    """``threads`` readers of the ``nbytes`` (a power of two) at ``heap``; a context manager."""

    threads: int
    def __init__(self, heap: int, nbytes: int, threads: int) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    @property
    def reads(self) -> int:
        """Reads so far, of all threads."""
