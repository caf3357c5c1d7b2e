"""Whose code is an adaptor's: what is left out where a caller is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

#: Files of this package, as their code objects name them.
OURS = frozenset(str(path) for path in Path(__file__).parent.glob("*.py"))


def caller() -> str:
    """The line that called into the outermost adaptor, as ``file:line``; empty if there is none."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in OURS:
        frame = frame.f_back  # type: ignore[assignment]
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"
