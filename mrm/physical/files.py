"""Small files of the kernel's, as text and as numbers.

Nothing here fails: a file that cannot be read is empty, and a number that cannot is None.
"""

from pathlib import Path

from mrm.system.figures import read_figure


def read_text(path: Path) -> str:
    """A file's text; empty when it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    """The number that a file consists of; None when it cannot be read or is none."""
    return read_figure(path)
