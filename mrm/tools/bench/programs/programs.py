"""Programs that touch much memory, a little at a time and in no order: ``python programs.py NAME SIZE``.

Each makes what it needs, and does its work once, which is not timed; then three times, which is; says in a line of JSON
which process it is and how long one time took; and then waits for a line, so that whoever started it can look
at its memory. This file imports nothing of mrm: the interpreter may be any.
"""

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable

TIMES = 3
GATHERED = 1 << 24  # elements of one gather
GOLDEN = 0.6180339887498949  # steps of this part of a whole come near none of those before


def gather(nbytes: int) -> tuple[float, object]:
    """Fetch elements of a NumPy array of so many bytes, at random; seconds of 16 million."""
    import numpy

    array = numpy.arange(nbytes // 8)
    where = numpy.random.default_rng(1).integers(0, len(array), GATHERED)
    into = numpy.zeros(GATHERED, array.dtype)
    return timed(lambda: array.take(where, out=into, mode="clip")), (array, where, into)


def lookups(count: int) -> tuple[float, object]:
    """Look up every key of a dict of so many, in no order; seconds of all of them."""
    found = {str(number): number for number in range(count)}
    keys = list(found)
    random.Random(1).shuffle(keys)

    def look_up() -> int:
        total = 0
        for key in keys:
            total += found[key]
        return total

    return timed(look_up), (found, keys)


def collect(count: int) -> tuple[float, object]:
    """Have the collector look at so many objects, each of which refers to one far away; seconds of gc.collect()."""
    gc.disable()
    objects: list[list[object]] = [[None] for _ in range(count)]
    step = int(count * GOLDEN) | 1
    at = 0
    for one in objects:
        at = (at + step) % count
        one[0] = objects[at]
    return timed(gc.collect), objects


def timed(do: Callable[[], object]) -> float:
    """Seconds of one time, of several; after one that is not timed, by which all that it touches is there."""
    do()
    begin = time.perf_counter()
    for _ in range(TIMES):
        do()
    return (time.perf_counter() - begin) / TIMES


if __name__ == "__main__":
    programs = {"gather": gather, "lookups": lookups, "collect": collect}
    seconds, kept = programs[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({"pid": os.getpid(), "seconds": seconds}), flush=True)
    sys.stdin.readline()
    os._exit(0)  # to free millions of objects one by one is not what is measured
