"""Starts the races of races.c and heapraces.c: `races.py LIBRARY HEAP_LIBRARY THREADS STEPS`, for run.py.

Two rounds. On the fake kernel a pool is large enough for the stacks to spill and for
long arrays, and calls take no time, so that threads meet more often; on the real one,
with small pages, mappings really come and go. ThreadSanitizer's shadow lies where mrm
places addresses, so they come from wherever the kernel likes; an arena of 16 views
fits there. Heaps race on this kernel, one on such a pool, and one of private memory.
"""

import ctypes
import sys
from contextlib import nullcontext

import mrm
from mrm.system.calls import Script

ROUNDS = (
    ("the fake kernel", 2048, Script(fake=True, record=False), 1),
    ("this kernel", 96, nullcontext(), 0),
)


def race_heaps(library: str, threads: int, steps: int) -> int:
    """Race on both kinds of heaps; 1 if something that the races check does not hold."""
    race = ctypes.CDLL(library).race
    race.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
    race.restype = ctypes.c_char_p
    with mrm.Pool("192MiB", huge="off", views=4) as pool, mrm.Heap(pool) as on_pool, mrm.Heap() as private:
        for heap in (on_pool, private):
            wrong = race(mrm.api_address(), id(heap), threads, steps)
            if wrong:
                print(f"on {heap}: {wrong.decode()}", file=sys.stderr)
                return 1
            print(f"{threads} threads, {steps} steps each, on {heap}: nothing is lost")
    return 0


def main(library: str, heap_library: str, threads: int, steps: int) -> int:
    """Race in every round; 1 if something that the races check does not hold."""
    race = ctypes.CDLL(library).race  # lets the GIL go
    race.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_int, ctypes.c_int)
    race.restype = ctypes.c_char_p
    for where, frames, kernel, on_fake in ROUNDS:
        with kernel, mrm.Pool(frames << 21, huge="require" if on_fake else "off", views=16) as pool:
            wrong = race(mrm.api_address(), id(pool), threads, steps, on_fake)
        if wrong:
            print(f"on {where}: {wrong.decode()}", file=sys.stderr)
            return 1
        print(f"{threads} threads and 2 that look, {steps} steps each, on {where}: nothing is lost")
    return race_heaps(heap_library, threads, steps * 10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
