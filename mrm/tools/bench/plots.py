"""The figures of a run as pictures, for the report: SVG, to be put into a page.

Colours are Okabe and Ito's, which the colour-blind tell apart; shapes say the same
once more, and every point has its figure written beside it, so that no legend has to
be looked up. Rates are on logarithmic scales: the lanes lie four decades apart.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.ticker import LogLocator, NullLocator

from mrm.tools.bench.figures import LaneFigure, Result
from mrm.tools.bench.lineup import OURS, TITLES, TWINS
from mrm.tools.bench.table import rate
from mrm.tools.pictures import STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS_COLOUR, STOCK_COLOUR, HAND_COLOUR = "#0072B2", "#D55E00", "#777777"
STEPS = {"open_us": "#0072B2", "link_us": "#007A5A", "retire_us": "#B35900"}
LINES = ("#0072B2", "#D55E00", "#007A5A", "#A8578A")


def plots(result: Result) -> dict[str, str]:
    """SVG of every picture that the run has figures for, by caption."""
    pictures = {}
    with matplotlib.rc_context(STYLE):
        if any(figure.gb_per_s for figure in result.lanes):
            pictures["How fast pages move"] = svg(rates(result))
            pictures["What it costs everybody else"] = svg(costs(result))
        if result.flip:
            pictures["A whole pool to a new view"] = svg(flips(result))
    return pictures


def rates(result: Result) -> "Figure":
    """Rates by lane, one panel for each number of mutators."""
    from matplotlib import pyplot

    threads = sorted({figure.threads for figure in result.lanes})
    names = _lanes(result)
    figure, panels = pyplot.subplots(
        1, len(threads), sharey=True, sharex=True, squeeze=False,
        figsize=(3.0 + 3.2 * len(threads), 0.9 + 0.36 * len(names)), layout="constrained",
    )  # fmt: skip
    for axes, n in zip(panels[0], threads):
        for y, name in enumerate(names):
            found = result.lane(name, n)
            if found is None or found.gb_per_s is None or found.gb_per_s_spread is None:
                axes.text(
                    0.02, y, "not here", color="#777777", va="center", transform=axes.get_yaxis_transform()
                )
                continue
            colour, marker = _look(name)
            axes.plot(
                found.gb_per_s_spread, (y, y), color=colour, linewidth=4, alpha=0.3, solid_capstyle="butt"
            )
            axes.plot(found.gb_per_s, y, marker, color=colour, markersize=7)
            axes.annotate(
                rate(found.gb_per_s), (found.gb_per_s_spread[1], y), (7, 0), textcoords="offset points",
                va="center", color=colour, fontsize=9,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_title(_beside(n), loc="left", fontsize=10)
        axes.set_xlabel("bytes relocated, logarithmic")
        axes.xaxis.set_major_formatter(lambda value, _: rate(value).replace(".0", ""))
        axes.tick_params(axis="x", labelsize=8, rotation=30)
        axes.margins(x=0.32)
    _name_lanes(panels[0][0], names)
    return figure


def costs(result: Result) -> "Figure":
    """Shootdowns a page, and what mutators keep, beside as few mutators as were measured."""
    from matplotlib import pyplot

    threads = sorted({f.threads for f in result.lanes if f.threads}) or [0]
    n = threads[0]
    names = _lanes(result)
    figure, (left, right) = pyplot.subplots(
        1, 2, sharey=True, figsize=(10, 0.9 + 0.36 * len(names)), layout="constrained"
    )
    shot = {name: found.shootdowns_per_page for name in names if (found := result.lane(name, n))}
    floor = min((value for value in shot.values() if value), default=1e-5) / 3
    for y, name in enumerate(names):
        found = result.lane(name, n)
        if found is None:
            continue
        colour, marker = _look(name)
        if (value := shot[name]) is not None:
            _dot(left, max(value, floor), y, colour, marker, f"{value:.2g}" if value else "none")
        if found.mutator_relative is not None:
            _dot(right, 100 * found.mutator_relative, y, colour, marker, f"{found.mutator_relative:.0%}")
    left.set_xscale("log")
    left.margins(x=0.18)
    left.set_xlabel("shootdowns a page, logarithmic: less is better")
    left.set_title(_beside(n), loc="left", fontsize=10)
    right.set_xlim(0, max(125, 1.15 * right.get_xlim()[1]))
    right.axvline(100, color="#777777", linewidth=1)
    right.set_xlabel("mutators' reads, % of undisturbed: more is better")
    _name_lanes(left, names)
    return figure


def flips(result: Result) -> "Figure":
    """Rate by size of the pool, and the three steps of a flip."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    threads = sorted({f.threads for f in result.flip})
    sizes = sorted({f.gib for f in result.flip})
    ends = []
    for n, colour in zip(threads, LINES):
        by_hand, ours = (
            sorted((f.gib, f.tb_per_s) for f in result.flip if (f.threads, f.by) == (n, by))
            for by in ("hand", "mrm")
        )
        left.plot(*zip(*by_hand), ":", color=colour)
        left.plot(*zip(*ours), "o-", color=colour, markersize=5)
        ends.append((ours[-1][1], f"{_beside(n)}: {ours[-1][1]:,.0f} TB/s", colour))
    left.set_title("mrm; dotted: the same steps by hand, as in lanes.c", loc="left", fontsize=10)
    left.set(xscale="log", yscale="log", xlabel="pool, GiB", ylabel="TB/s, logarithmic")
    left.set_xticks(sizes, [f"{size:g}" for size in sizes])
    left.xaxis.set_minor_locator(NullLocator())
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:,.0f}")
    left.yaxis.set_minor_locator(NullLocator())
    left.set_xlim(sizes[0] * 0.85, sizes[-1] * (1.7 * len(sizes) ** 0.8))
    _label_ends(left, sizes[-1], ends)
    n = 1 if 1 in threads else threads[0]
    bars = {f.gib: f for f in result.flip if (f.threads, f.by) == (n, "mrm")}
    bottom = [0.0] * len(sizes)
    for step, colour in STEPS.items():
        heights = [getattr(bars[size], step) for size in sizes]
        right.bar(range(len(sizes)), heights, bottom=bottom, color=colour, width=0.55)
        bottom = [b + h for b, h in zip(bottom, heights)]
    # The words for the colours stand beside the last bar, each at the height of its part.
    last, below = bars[sizes[-1]], 0.0
    for step, colour in STEPS.items():
        height = getattr(last, step)
        word = f"{step.removesuffix('_us')} {height:.1f} us"
        right.annotate(
            word, (len(sizes) - 0.68, below + height / 2), va="center", color=colour, weight="bold"
        )
        below += height
    right.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
    right.set_xlim(-0.6, len(sizes) + 0.5)
    right.set(xlabel="pool, GiB", ylabel=f"us a flip, {_beside(n)}")
    right.grid(axis="x", visible=False)
    return figure


def _label_ends(axes: "Axes", x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Words beside the ends of lines, moved apart where they would lie on each other."""
    lowest, highest = axes.get_ylim()
    gap = (highest / lowest) ** (1 / 14)
    at = 0.0
    for y, words, colour in sorted(ends):
        at = max(y, at * gap)
        axes.annotate(words, (x, y), (x * 1.18, at), va="center", color=colour, fontsize=8.5)


def _dot(axes: "Axes", x: float, y: float, colour: str, marker: str, words: str) -> None:
    axes.plot(x, y, marker, color=colour, markersize=7)
    axes.annotate(words, (x, y), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=9)


def _name_lanes(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for label, name in zip(axes.get_yticklabels(), names):
        label.set_color(_look(name)[0])
        label.set_fontweight("bold" if name in OURS else "normal")


def _look(name: str) -> tuple[str, str]:
    """Colour and marker: ours, ours made by hand, or the kernel's."""
    if name in OURS:
        return OURS_COLOUR, "o"
    return (HAND_COLOUR, "D") if name in TWINS.values() else (STOCK_COLOUR, "s")


def _lanes(result: Result) -> list[str]:
    measured: set[str] = {figure.lane for figure in _figures(result)}
    return [name for name in TITLES if name in measured]


def _figures(result: Result) -> list[LaneFigure]:
    return [figure for figure in result.lanes if figure.gb_per_s is not None]


def _beside(threads: int) -> str:
    return {0: "no mutator", 1: "1 mutator"}.get(threads, f"{threads} mutators")
