from mrm import Pool

class Loops:
    """``pool`` through its C handle."""

    def __init__(self, pool: Pool) -> None: ...
    def take_give(self, n: int) -> int:
        """Take a frame and give it back, ``n`` times without the GIL: nanoseconds in all."""

    def take_give_many(self, n: int, frames: int) -> int:
        """The same with ``frames`` at once: nanoseconds in all."""

def kernel_cycle(n: int) -> int | None:
    """Get a huge page from the kernel and give it back, ``n`` times: nanoseconds in all, or None."""
