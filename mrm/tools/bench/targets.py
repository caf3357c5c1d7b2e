"""What the bench must show, as ratios within one run, and whether it does."""

from collections.abc import Callable

from mrm.tools.bench.figures import FlipFigure, Result
from mrm.tools.bench.target import Target


def _over_mremap(lane: str) -> Callable[[Result], float | None]:
    def ratio(result: Result) -> float | None:
        ours, stock = result.lane(lane, 1), result.lane("mremap", 1)
        return ours.gb_per_s / stock.gb_per_s if ours and stock and ours.gb_per_s and stock.gb_per_s else None

    return ratio


def _of_lane(lane: str, name: str) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float | None:
        found = result.lane(lane, 1)
        return None if found is None else getattr(found, name)

    return figure


def _flip(result: Result, by: str) -> FlipFigure | None:
    for figure in result.flip:
        if (figure.gib, figure.threads, figure.by) == (8, 1, by):
            return figure
    return None


def _of_flip(name: str) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float | None:
        found = _flip(result, "mrm")
        return None if found is None else getattr(found, name)

    return figure


def _flip_over_hand(result: Result) -> float | None:
    ours, hand = _flip(result, "mrm"), _flip(result, "hand")
    return hand.tb_per_s / ours.tb_per_s if ours and hand else None


def _of_frames(name: str) -> Callable[[Result], float | None]:
    return lambda result: result.frames.get(name)


def _tb_per_s(lane: str) -> Callable[[Result], float | None]:
    gb_per_s = _of_lane(lane, "gb_per_s")

    def figure(result: Result) -> float | None:
        rate = gb_per_s(result)
        return None if rate is None else rate / 1e3

    return figure


TARGETS = (
    Target("batch over mremap, page by page", 2.3, _over_mremap("batch"), at_most=False),
    Target("batch: shootdowns a page", 0.01, _of_lane("batch", "shootdowns_per_page")),
    Target("batch_runs over mremap", 10, _over_mremap("batch_runs"), at_most=False),
    Target("view over mremap", 200, _over_mremap("view"), at_most=False),
    Target("view: TB/s", 6.5, _tb_per_s("view"), at_most=False),
    Target("view: shootdowns a page", 0.01, _of_lane("view", "shootdowns_per_page")),
    Target("batch: time over its system calls by hand", 1.15, _of_lane("batch", "over_by_hand")),
    Target("batch_runs: time over its system calls by hand", 1.15, _of_lane("batch_runs", "over_by_hand")),
    Target("view: time over its system calls by hand", 1.15, _of_lane("view", "over_by_hand")),
    Target("flip of 8 GiB: TB/s", 300, _of_flip("tb_per_s"), at_most=False),
    Target("flip of 8 GiB: shootdowns", 2, _of_flip("shootdowns")),
    Target("flip of 8 GiB: time over the one by hand", 1.15, _flip_over_hand),
    Target("take and give of a frame from C, ns", 30, _of_frames("take_give_ns")),
    Target("take and give of a frame from Python, ns", 200, _of_frames("take_give_python_ns")),
    Target("take and give in arrays from Python, ns a frame", 10, _of_frames("take_give_array_ns")),
    Target(
        "take and give with two threads, over one", 1.8, _of_frames("two_threads_over_one"), at_most=False
    ),
    Target(
        "batch of one page from Python over its system calls, us", 2, _of_frames("batch_of_one_overhead_us")
    ),
    Target("pool of a million frames: opens in, s", 0.2, _of_frames("million_open_s")),
    Target("take_run(1024) of a million, half held at random, us", 50, _of_frames("million_take_run_us")),
)
