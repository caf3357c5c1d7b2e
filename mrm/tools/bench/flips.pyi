from mrm import Pool

class Flip:
    """Flips of ``pool``; one view is open from the beginning to ``close()``."""

    def __init__(self, pool: Pool) -> None: ...
    def close(self) -> None:
        """Close the view that is open, and let the pool go."""

    def refuse(self) -> None:
        """Raise with the engine's own sentence."""

    def run(self, flips: int) -> list[tuple[float, float, float, float]]:
        """Flip so many times: of each flip, microseconds of open, link, retire and close."""

class FlipByHand:
    """The same steps, as lanes.c makes them, on the file ``fd`` of ``nbytes``."""

    def __init__(self, fd: int, nbytes: int) -> None: ...
    def close(self) -> None:
        """Make all of it trap."""

    def run(self, flips: int) -> list[tuple[float, float, float, float]]:
        """The same as ``Flip.run``; there is nothing to close."""
