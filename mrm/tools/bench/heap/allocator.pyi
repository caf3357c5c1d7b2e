from typing import Self

class Allocator:
    """A table of functions."""

    @staticmethod
    def library(name: str, prefix: str = "") -> Self:
        """A library's, whose functions are called malloc, realloc and free, with something before it."""

    @property
    def held_elsewhere(self) -> int:
        """Bytes that it has now, in memory that the kernel does not count as this process's."""

    def trial(self, nbytes: int) -> int:
        """The address of a block of so many bytes, which is freed again; 0 if there was none."""
