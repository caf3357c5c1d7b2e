"""Small files of the kernel's, as text and as numbers.

Nothing here fails: a file that cannot be read is empty, and a number that cannot is None. A number
is read by three system calls and nothing around them, since some are looked at all the time.
"""

import os
from pathlib import Path


def read_text(path: Path) -> str:
    """A file's text; empty when it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    """The number that a file consists of; None when it cannot be read or is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 64))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None
