"""One run of the bench: lanes, frames and flips, in this order, into one result."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from statistics import median

from mrm import Pool
from mrm.sizes import format_size
from mrm.tools.bench.figures import FlipFigure, Result
from mrm.tools.bench.flips import Flip, FlipByHand
from mrm.tools.bench.ground import FRAME, GIB, survey, touch_step
from mrm.tools.bench.lineup import TWINS, lineup
from mrm.tools.bench.machine import Neighbours, free_huge_pages, machine
from mrm.tools.bench.measure import Series, count_received
from mrm.tools.bench.mutators import Mutators
from mrm.tools.bench.ours import file_of
from mrm.tools.bench.overheads import PARTS, overheads

Advance = Callable[[str, int, int], None]
Steps = tuple[float, float, float, float]
FLIPS = 64  # flips of a window


def run(
    threads: Sequence[int], rounds: int, seconds: float, size: int, flip_up_to: int, advance: Advance
) -> Result:
    """Measure everything.

    Parameters
    ----------
    threads : sequence of int
        Numbers of mutators to measure beside.
    rounds : int
        Windows of each lane.
    seconds : float
        How long a window lasts at least.
    size : int
        Bytes of frames that lanes relocate, and of the heap.
    flip_up_to : int
        Bytes of the largest pool that is flipped.
    advance : callable
        Told what is being measured, how many steps are done, and of how many.
    """
    result = Result(machine())
    neighbours = Neighbours()
    site = survey(size)
    result.notes += site.notes
    if max(threads) >= result.machine["cpus"]:
        result.notes.append(
            f"The relocator and {max(threads)} mutators share {result.machine['cpus']} processors: "
            "what mutators lose there is mostly processor time."
        )
    with site.heap() as heap:
        with site.frames() as pool:
            if pool.backing != "hugetlb":
                result.notes.append(
                    f"The frames are on {pool.backing} pages; flips need huge pages and are left out."
                )
            _lanes(result, pool, heap, threads, rounds, seconds, advance)
            result.frames = overheads(pool, seconds, lambda part, done: advance(part, done, PARTS))
        # The pools that are flipped want the huge pages that the lanes are done with.
        if site.huge_frames:
            _flips(result, heap, threads, rounds, flip_up_to, advance)
    neighbours.tell(
        result.machine,
        result.notes,
        "rates are lower and spreads wider than on a machine at rest, and a mutator that does not run is not shot at",
    )
    return result


def _lanes(
    result: Result, pool: Pool, heap: tuple[int, int], threads: Sequence[int], rounds: int, seconds: float,
    advance: Advance,
) -> None:  # fmt: skip
    lanes = lineup(pool, touch_step(pool))
    series = Series(lanes, heap, seconds)
    total = rounds * len(threads) * len(lanes)
    done = 0

    def next_window(lane: str) -> None:
        nonlocal done
        advance(lane, done, total)
        done += 1

    for number in range(rounds):
        for n in threads:
            series.round(number, n, next_window)
    result.lanes = series.figures(threads, TWINS)


def _flips(
    result: Result, heap: tuple[int, int], threads: Sequence[int], rounds: int, up_to: int, advance: Advance
) -> None:
    """Flip pools of 1 GiB, 2 GiB and so on, as far as ``up_to`` and the huge pages go."""
    nbytes = min(GIB, up_to)
    while nbytes <= up_to:
        free = free_huge_pages()
        if free * FRAME < nbytes:
            result.notes.append(
                f"Pools of {format_size(nbytes)} and more are not flipped: "
                f"{free} huge pages are free, {nbytes // FRAME} are needed."
            )
            return
        advance(f"funding {format_size(nbytes)}", 0, rounds)
        with Pool(nbytes, huge="require") as pool:
            result.flip += _flip(pool, heap, threads, rounds, advance)
        nbytes *= 2


def _flip(
    pool: Pool, heap: tuple[int, int], threads: Sequence[int], rounds: int, advance: Advance
) -> list[FlipFigure]:
    """Ours and those by hand, window by window in turn."""
    flips: dict[tuple[int, str], list[list[Steps]]] = {}
    shootdowns: dict[tuple[int, str], list[float]] = {}
    nbytes = len(pool) * FRAME
    with ExitStack() as opened:
        flippers: dict[str, Flip | FlipByHand] = {
            "mrm": opened.enter_context(closing(Flip(pool))),
            "hand": opened.enter_context(closing(FlipByHand(file_of(pool), nbytes))),
        }
        for number in range(rounds):
            advance(f"flips of {format_size(nbytes)}", number, rounds)
            for n in threads:
                with Mutators(*heap, n):
                    for by, flipper in flippers.items():
                        flipper.run(2)
                        before = count_received()
                        flips.setdefault((n, by), []).append(flipper.run(FLIPS))
                        after = count_received()
                        if before is not None and after is not None:
                            shootdowns.setdefault((n, by), []).append((after - before) / FLIPS)
    return [
        _flip_figure(nbytes, n, by, found, shootdowns.get((n, by), [])) for (n, by), found in flips.items()
    ]


def _flip_figure(
    nbytes: int, threads: int, by: str, windows: list[list[Steps]], shot: list[float]
) -> FlipFigure:
    """Medians, not means: a flip that waited for a processor that the host took away says nothing."""
    every = [flip for window in windows for flip in window]
    opened, linked, retired, closed = (median(flip[step] for flip in every) for step in range(4))
    rates = [nbytes / median(sum(flip[:3]) for flip in window) / 1e6 for window in windows]
    return FlipFigure(
        gib=nbytes / GIB,
        threads=threads,
        open_us=opened,
        link_us=linked,
        retire_us=retired,
        tb_per_s=median(rates),
        tb_per_s_spread=(min(rates), max(rates)),
        shootdowns=median(shot) if shot else None,
        close_us=closed,
        by=by,
    )
