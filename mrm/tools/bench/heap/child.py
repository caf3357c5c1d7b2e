"""One measurement, in a process of its own: ``python -m mrm.tools.bench.heap.child JSON``.

A process for each, since an allocator that has worked before is another one than one that has not, and since its peak
memory would be that of everything it has done. The figures go to the standard output, as a line of JSON.
"""

import json
import sys
import time
from typing import Any

from mrm.errors import Error
from mrm.tools.bench.heap.allocator import Allocator
from mrm.tools.bench.heap.lineup import ALLOCATORS
from mrm.tools.bench.heap.memory import Memory
from mrm.tools.bench.heap.workloads import WORKLOADS
from mrm.tools.cli import FINE, FOUND

_LOOKS_EVERY = 0.005  # seconds


def measure(
    allocator: str, workload: str, threads: int, seconds: float, grow_to: int, room: int
) -> dict[str, Any]:
    """Run a workload for so many seconds on an allocator, and for as many before, unmeasured.

    Parameters
    ----------
    allocator, workload : str
        Names of the line-up and of the workloads.
    threads : int
        How many are at work.
    seconds : float
        Of either part. What cannot stop then goes on to its end.
    grow_to : int
        Bytes of the blocks that grow.
    room : int
        Bytes of a pool, for an allocator that has one.

    Returns
    -------
    dict
        ``ops_per_s``, ``peak_bytes``, and how many calls were ``refused``, blocks ``damaged`` and
        threads there were.
    """
    functions = ALLOCATORS[allocator].load(room)
    try:
        work = WORKLOADS[workload].begun(functions, threads, grow_to)
        with Memory() as memory:
            work.begin()
            _wait(seconds, memory, functions)
            work.pause()
            while not work.paused:
                _wait(_LOOKS_EVERY, memory, functions)
            work.measure()
            _wait(seconds, memory, functions)
            work.stop()
            while not work.ended:
                _wait(_LOOKS_EVERY, memory, functions)
            work.wait()
            return {
                "ops_per_s": work.ops_per_s,
                "peak_bytes": memory.peak,
                "refused": work.refused,
                "damaged": work.damaged,
                "generations": work.generations,
            }
    finally:
        functions.close()


def _wait(seconds: float, memory: Memory, functions: Allocator) -> None:
    """Wait, and look at the memory meanwhile."""
    until = time.monotonic() + seconds
    while True:
        memory.look(functions.frames)
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, _LOOKS_EVERY))


def trial(allocator: str, room: int) -> dict[str, Any]:
    """Whether an allocator can be loaded and allocates; it raises where not."""
    functions = ALLOCATORS[allocator].load(room)
    try:
        if not functions.trial(1):
            raise MemoryError(f"{allocator} refuses a byte")
    finally:
        functions.close()
    return {}


def main(asked: dict[str, Any]) -> int:
    """Do what is asked for, and print what came of it; a failure in words."""
    try:
        found = measure(**asked) if "workload" in asked else trial(**asked)
    except (Error, MemoryError) as failure:
        print(failure, file=sys.stderr)
        return FOUND
    print(json.dumps(found))
    return FINE


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
