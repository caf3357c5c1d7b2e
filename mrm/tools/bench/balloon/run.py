"""One run of ``mrm bench balloon``: both directions, to the pool and to the system, and who works beside it."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mrm import Pool
from mrm.errors import BackingWarning
from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.balloon.beside import commits, neighbour
from mrm.tools.bench.balloon.byhand import FALLOCATE, KernelFile
from mrm.tools.bench.balloon.figures import LITERATURE_NOTE, Inflate, Neighbour, Result
from mrm.tools.bench.balloon.rates import TRIED_BYTES, Best, to_pool, to_system
from mrm.tools.bench.machine import Neighbours, available_bytes, free_huge_pages, machine
from mrm.tools.bench.options import Advance

SPARE = 4  # huge pages for the pool that commits beside it
OTHER_BYTES = 256 << 20  # what other backings are measured on
OTHER_CYCLES = 5
MOST_BESIDE = 10  # cycles beside a neighbour: each is a hundred windows
STREAM_BYTES = 64 << 20
ALONE_SECONDS = 0.5


def run(size: int, cycles: int, threads: list[int], advance: Advance) -> Result:
    """Measure everything.

    Parameters
    ----------
    size : int
        Bytes that go in and come out; fewer where there are not so many huge pages.
    cycles : int
        How often.
    threads : list of int
        Numbers of threads that fetch.
    advance : callable
        Told what is being measured, how many steps are done, and of how many.
    """
    result = Result(machine(), cycles)
    neighbours = Neighbours()
    nbytes = _survey(result, size)
    if max(threads) > result.machine["cpus"]:
        result.notes.append(f"{max(threads)} threads fetch on {result.machine['cpus']} processors.")
    if nbytes:
        _huge(result, nbytes, cycles, threads, advance)
    _others(result, min(size, OTHER_BYTES), min(cycles, OTHER_CYCLES), advance)
    result.notes.append(LITERATURE_NOTE)
    neighbours.tell(
        result.machine, result.notes, "rates are lower and spreads wider than on a machine at rest"
    )
    return result


def _survey(result: Result, size: int) -> int:
    """Bytes of huge pages that there are for it, and a note if they are fewer than was asked for."""
    free = max(0, free_huge_pages() - SPARE)
    result.nbytes = nbytes = min(size // FRAME_SIZE, free) * FRAME_SIZE
    fund = f"`mrm fund {format_size(size + SPARE * FRAME_SIZE).replace(' ', '')}`, as root, gets more"
    if not nbytes:
        why = f"no huge pages are free; {fund}"
        result.notes.append(f"The balloon of huge pages is not measured: {why}.")
        result.inflate += [Inflate("hugetlb", to=to, note=why) for to in ("pool", "system")]
    elif nbytes < size:
        result.notes.append(
            f"Only {free + SPARE} huge pages are free: it is {format_size(nbytes)} that goes in and comes out, "
            f"instead of {format_size(size)}. {fund}."
        )
    return nbytes


def _huge(result: Result, nbytes: int, cycles: int, threads: list[int], advance: Advance) -> None:
    """The balloon of huge pages: rates, and who works beside it."""
    shift = FRAME_SIZE.bit_length() - 1
    processors = result.machine["cpus"]
    beside = max(1, min(max(threads), processors - 1))
    numbers = sorted({1, beside, *threads})
    # A pool that begins with one frame needs no time to be funded, nor pages that the file by hand wants.
    with Pool(FRAME_SIZE, maximum=nbytes, huge="require", threads=1) as pool:
        pool.inflate(FRAME_SIZE)
        advance("the kernel's fastest way", 0, 1)
        with KernelFile(min(nbytes, TRIED_BYTES), shift) as tried:
            best = Best(tried, numbers)
        with KernelFile(nbytes, shift) as file:
            best.use(file)
            given, fetched = to_pool(
                pool, best, threads, cycles, lambda done: advance("to the kernel's pool", done, cycles)
            )
            result.kernel_ways = best.tried
            result.inflate.append(given)
            result.deflate += fetched
            few = min(cycles, MOST_BESIDE)
            alone = min(ALONE_SECONDS, nbytes / 8e9 + 0.05)
            advance("beside a neighbour", 0, few)
            found = neighbour(
                pool, best, few, beside, stream_bytes(nbytes), alone,
                lambda done: advance("beside a neighbour", done, few),
            )  # fmt: skip
            if found is None:
                result.notes.append("Nobody was measured beside it: a window takes longer than a cycle here.")
            else:
                result.neighbour = _with_commits(found, pool, few, beside, alone, advance)
                result.notes.append(
                    f"The neighbour has a processor of its own{' as far as there are two' if processors < 2 else ''}, "
                    f"{beside} fetching thread{'s have' if beside > 1 else ' has'} the others."
                )
            given_on, fetched_on = to_system(
                pool, best, cycles, lambda done: advance("on to the system", done, cycles)
            )
            result.inflate.append(given_on)
            result.deflate_from_system.append(fetched_on)


def _with_commits(
    found: Neighbour, pool: Pool, cycles: int, threads: int, alone: float, advance: Advance
) -> Neighbour:
    """The same neighbour, with what commits took beside the pool's balloon."""
    with Pool(2 * FRAME_SIZE, huge="require") as other:
        took = commits(
            pool, other, cycles, threads, alone, lambda done: advance("beside commits", done, cycles)
        )
    return replace(found, commits=took)


def _others(result: Result, nbytes: int, cycles: int, advance: Advance) -> None:
    """Ordinary memory, which a pool has where there are no huge pages, or on demand: it goes to the system."""
    if available_bytes() < 4 * nbytes:
        result.notes.append("Ordinary memory is not measured: there is too little of it.")
        return
    kinds: tuple[Literal["prefer", "off"], ...] = ("off",) if free_huge_pages() else ("prefer", "off")
    for huge in kinds:
        advance("on ordinary memory", 0, 1)
        result.inflate_other_backings.append(_other(huge, nbytes, cycles))


def _other(huge: Literal["prefer", "off"], nbytes: int, cycles: int) -> Inflate:
    """A pool without huge pages of the kernel's pool, beside a file like its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BackingWarning)
        pool = Pool(FRAME_SIZE, maximum=nbytes, huge=huge)
    with pool, KernelFile(nbytes, advised=pool.backing == "thp") as file:
        pool.inflate(FRAME_SIZE)
        best = Best(file, [1], (FALLOCATE,))
        found, _ = to_pool(pool, best, [1], cycles, lambda done: None)
    return replace(found, to="system")


def stream_bytes(nbytes: int) -> int:
    """Bytes of each array of a neighbour: more than the caches hold, unless all is tiny."""
    cache = 0
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        cache = max(cache, int(size.read_text().strip().rstrip("K")) << 10)
    return min(max(STREAM_BYTES, cache), max(nbytes, 1 << 20), 256 << 20)
