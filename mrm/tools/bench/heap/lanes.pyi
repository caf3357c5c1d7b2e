from mrm.tools.bench.heap.allocator import Allocator

class Workload:
    """So many threads at work on an allocator.

    Parameters
    ----------
    allocator : Allocator
        Whose functions they call.
    threads : int
        How many.
    slots, least, most, turn : int
        Blocks that each has at a time, their bytes, and how many there are until something else
        begins; what that is, is the workload's.
    """

    def __init__(
        self, allocator: Allocator, threads: int, *, slots: int, least: int, most: int, turn: int = 1
    ) -> None: ...
    def begin(self) -> None:
        """Start the threads; they are at work, unmeasured, when it returns."""

    def pause(self) -> None:
        """Have every lane come to an end of what it does unmeasured."""

    @property
    def paused(self) -> bool:
        """Whether all of them have."""

    def measure(self) -> None:
        """Have the clock begin, as soon as all lanes are paused."""

    def stop(self) -> None:
        """Have every lane end as soon as it can."""

    @property
    def ended(self) -> bool:
        """Whether all of them have."""

    def wait(self) -> None:
        """Wait until all have ended, and free what is left."""

    @property
    def ops_per_s(self) -> float:
        """Blocks a second, of all lanes together."""

    @property
    def refused(self) -> int:
        """Calls that returned no block."""

    @property
    def damaged(self) -> int:
        """Blocks that were not as they had been left."""

    @property
    def generations(self) -> int:
        """Threads that there have been."""
