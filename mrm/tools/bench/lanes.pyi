class Lane:
    """One way to relocate pages; this one does nothing, and is what mutators are compared with."""

    fd: int
    frames: int
    step: int
    def __init__(self, fd: int, frames: int, step: int) -> None: ...
    def open(self) -> None:
        """Map what the first cycle moves."""

    def close(self) -> None:
        """Unmap it."""

    def note(self) -> str | None:
        """What a reader must know about an open lane's figures, or None."""

    def refuse(self, status: int) -> None:
        """Raise what a negative ``status`` of ``cycle`` stands for."""

    def run(self, seconds: float) -> tuple[int, float]:
        """Repeat the cycle for at least ``seconds``: pages moved, and seconds that it took."""
