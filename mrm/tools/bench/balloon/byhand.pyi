from types import TracebackType
from typing import Self

POPULATE: int
FALLOCATE: int

class KernelFile:
    """A memory file of ``nbytes``, mapped, without a page at first; a context manager."""

    fd: int
    nbytes: int
    def __init__(self, nbytes: int, page_shift: int = 0, advised: bool = False) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def close(self) -> None:
        """Give all of it back, and make its addresses trap."""

    def fill(self, part: int, threads: int = 1, way: int = ...) -> float:
        """Fetch all pages, ``part`` bytes a call: seconds."""

    def punch(self, part: int) -> float:
        """Take all pages away, ``part`` bytes a call: seconds."""

    @property
    def address(self) -> int:
        """Where it is shown, for as long as it is open."""

    @property
    def filled(self) -> int:
        """Bytes that there is memory for, as the kernel says."""

def huge_flags(page_shift: int) -> int:
    """What memfd_create wants for huge pages of 2**page_shift bytes."""
