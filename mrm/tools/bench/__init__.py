"""``mrm bench remap``: every way to relocate a page, side by side on this machine.

Read in this order: lanes.pyx (what a lane is), stock.pyx and ours.pyx (the lanes),
replay.pyx (the same system calls made by hand), flips.pyx, measure.py (windows,
interleaved), run.py, and what becomes of the figures in table.py, report.py and
targets.py.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """The command line's part, imported when it is asked for: the rest works without click."""
    if name == "command":
        from mrm.tools.bench.group import command

        return command
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
