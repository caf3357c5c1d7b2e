"""Who works beside a balloon, and what is left of it: windows, interleaved, within one run.

Each cycle has three parts, in changing order: the neighbour alone, beside a deflate and an
inflate of ours, and beside the same by the kernel's calls. Another one, without the
neighbour, has a thread that commits, alone and beside a deflate.
"""

import time
from collections.abc import Callable
from statistics import median

from mrm import Pool
from mrm.tools.bench.balloon.figures import Commits, Neighbour, spread
from mrm.tools.bench.balloon.neighbour import Committer, Stream
from mrm.tools.bench.balloon.rates import Best, timed

WINDOW = 0.01
ALONE, OURS, KERNEL = "alone", "ours", "kernel"

Window = tuple[int, int, int]


def neighbour(
    pool: Pool,
    best: Best,
    cycles: int,
    threads: int,
    nbytes: int,
    seconds: float,
    advance: Callable[[int], None],
) -> Neighbour | None:
    """A neighbour beside balloons; None where not one window fitted into a part.

    Parameters
    ----------
    pool : Pool
        Empty, before and after; so is the file of ``best``.
    threads : int
        How many fetch.
    nbytes : int
        Of each of the neighbour's three arrays.
    seconds : float
        How long it is left alone in each cycle.
    """
    cycle_windows: list[dict[str, list[Window]]] = []
    processor = beside = 0.0

    def part(name: str) -> None:
        if name == ALONE:
            time.sleep(seconds)
        elif name == OURS:
            timed(lambda: pool.deflate(pool.maximum, threads=threads))
            timed(lambda: pool.inflate(pool.maximum))
        else:
            best.fill(threads)
            best.punch()

    with Stream(nbytes, WINDOW) as stream:
        for cycle in range(cycles):
            advance(cycle)
            found = {}
            order = (ALONE, OURS, KERNEL)
            turn = cycle % len(order)
            for name in order[turn:] + order[:turn]:
                ran, begin = time.process_time(), time.monotonic_ns()
                part(name)
                end, used = time.monotonic_ns(), time.process_time() - ran
                found[name] = stream.between(begin, end)
                if name == OURS:
                    # What the process ran, but for the neighbour, whose windows are notes of the same time.
                    wall = sum(w for w, _, _ in found[name]) or 1
                    share = sum(p for _, p, _ in found[name]) / wall
                    processor += max(0.0, used - share * (end - begin) / 1e9)
                    beside += (end - begin) / 1e9
            cycle_windows.append(found)
    whole = [found for found in cycle_windows if all(found.values())]
    if not whole:
        return None
    every = {name: [w for found in whole for w in found[name]] for name in (ALONE, OURS, KERNEL)}
    means = [_mean(found[OURS]) / _mean(found[ALONE]) for found in whole]
    by_processor = [_mean(found[OURS], 1) / _mean(found[ALONE], 1) for found in whole]
    return Neighbour(
        mean_relative=median(means),
        tail_relative=_tail(every[OURS]) / _tail(every[ALONE]),
        mean_relative_by_processor=median(by_processor),
        tail_relative_by_processor=_tail(every[OURS], 1) / _tail(every[ALONE], 1),
        kernel_mean_relative=median(_mean(found[KERNEL]) / _mean(found[ALONE]) for found in whole),
        kernel_tail_relative=_tail(every[KERNEL]) / _tail(every[ALONE]),
        kernel_mean_relative_by_processor=median(
            _mean(found[KERNEL], 1) / _mean(found[ALONE], 1) for found in whole
        ),
        gb_per_s=_mean(every[ALONE]),
        tail_gb_per_s=_tail(every[ALONE]),
        beside_gb_per_s=_mean(every[OURS]),
        beside_tail_gb_per_s=_tail(every[OURS]),
        mean_relative_spread=spread(means),
        fetching_processor_seconds=processor,
        beside_seconds=beside,
        window_ms=WINDOW * 1e3,
        windows=len(every[OURS]),
        threads=threads,
        undisturbed=_percentiles(every[ALONE]),
        beside=_percentiles(every[OURS]),
        beside_kernel=_percentiles(every[KERNEL]),
    )


def commits(
    pool: Pool, other: Pool, cycles: int, threads: int, seconds: float, advance: Callable[[int], None]
) -> Commits | None:
    """What commits of ``other`` take while ``pool`` is deflated; None where there was not one in a part."""
    alone: list[int] = []
    beside: list[int] = []
    with Committer(other) as committer:
        for cycle in range(cycles):
            advance(cycle)
            begin = time.monotonic_ns()
            time.sleep(seconds)
            alone += committer.between(begin, time.monotonic_ns())
            begin = time.monotonic_ns()
            timed(lambda: pool.deflate(pool.maximum, threads=threads))
            beside += committer.between(begin, time.monotonic_ns())
            timed(lambda: pool.inflate(pool.maximum))
    if not alone or not beside:
        return None
    return Commits(
        median_us=median(alone) / 1e3,
        worst_us=max(alone) / 1e3,
        beside_median_us=median(beside) / 1e3,
        beside_worst_us=max(beside) / 1e3,
        commits=len(beside),
    )


def _mean(windows: list[Window], time_of: int = 0) -> float:
    """GB/s over all windows: on the clock (0), or by processor time (1)."""
    return sum(w[2] for w in windows) / max(1, sum(w[time_of] for w in windows))


def _tail(windows: list[Window], time_of: int = 0) -> float:
    """GB/s of the slowest window in a hundred."""
    rates = sorted(w[2] / max(1, w[time_of]) for w in windows)
    return rates[len(rates) // 100]


def _percentiles(windows: list[Window]) -> list[float]:
    rates = sorted(w[2] / w[0] for w in windows)
    return [rates[round(percent * (len(rates) - 1) / 100)] for percent in range(101)]
