"""Runs one Lua program on one allocator; what run.py starts, a process for each measurement.

$ python one.py mrm programs/trees.lua --pool 256MiB

The program prints to standard output, by C's own. The last line on standard error is JSON:
seconds from the state's first block to its last, the most memory that the allocator had
from the system for it, and what it lay on.
"""

import argparse
import contextlib
import ctypes
import json
import sys
import time
import warnings
from pathlib import Path

from liblua import LuaError, State

import mrm


def most_resident() -> int:
    """Bytes of this process that were in memory at the most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/self/status does not say how much of this process was in memory")


def timed(program: Path, arguments: list[str], heap: "mrm.Heap | None") -> float:
    """Run a program in a state of its own; seconds."""
    begun = time.perf_counter()
    with State(heap) as lua:
        lua.run(program, *arguments)
    return time.perf_counter() - begun


def on_malloc(program: Path, arguments: list[str]) -> dict[str, object]:
    """Run it on what Lua takes by itself: realloc and free."""
    # What Python has freed is given back first, and the most so far forgotten. Where the C library
    # or the system does not do it, less is seen than there was.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    before = most_resident()
    seconds = timed(program, arguments, None)
    return {"seconds": seconds, "peak": most_resident() - before, "backing": "malloc"}


def on_mrm(program: Path, arguments: list[str], size: str, huge: str) -> dict[str, object]:
    """Run it on a heap on a pool of its own."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", mrm.BackingWarning)
        pool = mrm.Pool(size, huge=huge)
    with pool:
        with mrm.Heap(pool, name="lua") as heap:
            seconds = timed(program, arguments, heap)
        frames = pool.accounts["pool"].stats().allocated_high
        return {
            "seconds": seconds,
            "peak": frames * mrm.FRAME_SIZE,
            "backing": pool.backing,
            "warning": " ".join(str(warning.message) for warning in said),
        }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run one Lua program on one allocator.")
    parser.add_argument("setup", choices=["malloc", "mrm"])
    parser.add_argument("program", type=Path)
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--pool", default="256MiB", metavar="SIZE")
    parser.add_argument("--huge", default="prefer", choices=["require", "prefer", "off"])
    options = parser.parse_args()
    try:
        if options.setup == "malloc":
            figures = on_malloc(options.program, options.arguments)
        else:
            figures = on_mrm(options.program, options.arguments, options.pool, options.huge)
    except (LuaError, mrm.Error, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(figures), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
