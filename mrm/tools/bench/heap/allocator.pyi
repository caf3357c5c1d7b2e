from mrm import Heap, Pool

class Allocator:
    """A table of functions."""

    @staticmethod
    def library(name: str, prefix: str = "") -> Allocator:
        """A library's, whose functions are called malloc, realloc and free, with something before it."""

    @staticmethod
    def of_heap(heap: Heap, pool: Pool | None = None) -> Allocator:
        """A heap of ours, with the pool that it is on; both are closed with it."""

    @property
    def frames(self) -> int | None:
        """The most bytes that it has had of a pool's frames; None where it has no pool.

        By the pool's books as they are now, and by the heap's of what has been.
        """

    def close(self) -> None:
        """End a heap and its pool; libraries stay."""

    def trial(self, nbytes: int) -> int:
        """The address of a block of so many bytes, which is freed again; 0 if there was none."""
