"""The figures of a run as pictures, for the report: SVG, to be put into a page.

A panel for each workload, a row for each allocator, and how far to the right its points lie is how much
faster it is than mimalloc, or how much more memory it takes: steps are ratios, so twice and half lie equally
far from the line. The shape says how many threads; colours are Okabe and Ito's, one for each allocator, and
hollow points are the forms on huge pages. What is ours is bold, and has its figures beside it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.ticker import FixedLocator, NullLocator

from mrm.tools.bench.heap.figures import Figure, Result, over
from mrm.tools.bench.heap.lineup import BASE, HUGE, OURS
from mrm.tools.bench.heap.run import words
from mrm.tools.bench.heap.table import rate
from mrm.tools.pictures import STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COLOURS = {
    OURS: "#0072B2",
    BASE: "#D55E00",
    "jemalloc": "#007A5A",
    "tcmalloc": "#A8578A",
    "glibc": "#777777",
}
MARKERS = ("o", "s", "D", "^", "v")
COLUMNS = 3
_TICKS = (0.001, 0.01, 0.1, 0.25, 0.5, 1, 2, 4, 10, 100, 1000, 10_000, 100_000)
_FINE_TICKS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 4)


def plots(result: Result) -> dict[str, str]:
    """SVG of every picture that the run has figures for, by caption."""
    if not result.workloads or BASE not in result.names("allocator"):
        return {}
    with matplotlib.rc_context(STYLE):
        return {
            f"How fast, over {BASE}": svg(panels(result, "ops_per_s", "faster")),
            f"How much memory at the peak, over {BASE}": svg(panels(result, "peak_mib", "more memory")),
        }


def panels(result: Result, of: str, right: str) -> "Picture":
    """A panel for each workload."""
    from matplotlib import pyplot

    workloads, names = result.names("workload"), result.names("allocator")
    rows = -(-len(workloads) // COLUMNS)
    columns = min(COLUMNS, len(workloads))
    picture, grid = pyplot.subplots(
        rows, columns, squeeze=False, sharey=True,
        figsize=(1.9 + 3.7 * columns, 0.7 + rows * (0.8 + 0.27 * len(names))), layout="constrained",
    )  # fmt: skip
    for at, axes in enumerate(grid.flat):
        if at >= len(workloads):
            axes.set_visible(False)
            continue
        _panel(axes, result, workloads[at], names, of)
        axes.set_title(workloads[at], loc="left", fontsize=11, weight="bold")
    for axes in grid[:, 0]:
        _name(axes, names)
    _key(picture, result.threads(), right)
    return picture


def _panel(axes: "Axes", result: Result, workload: str, names: Sequence[str], of: str) -> None:
    axes.set_xscale("log")
    axes.axvline(1, color=COLOURS[BASE], linewidth=1, alpha=0.7)
    counts = result.threads()
    shown = [1.0]
    for y, name in enumerate(names):
        if name == OURS or name == OURS + HUGE:
            axes.axhspan(y - 0.5, y + 0.5, color=COLOURS[OURS], alpha=0.07, linewidth=0)
        for n, count in enumerate(counts):
            found = result.figure(workload, count, name)
            ratio = over(found, result.figure(workload, count, BASE), of)
            if found is None or ratio is None:
                continue
            at = y + (n - (len(counts) - 1) / 2) * 0.24
            shown.append(ratio)
            _point(axes, found, ratio, at, MARKERS[n % len(MARKERS)], of)
    low, high = min(shown), max(shown)
    # A margin of a ratio, and room for the figures of ours.
    axes.set_xlim(low / 1.35, high * 1.35)
    ticks = [tick for tick in _TICKS if low / 1.35 <= tick <= high * 1.35]
    if len(ticks) < 3:
        ticks = [tick for tick in _FINE_TICKS if low / 1.35 <= tick <= high * 1.35]
    if high / low > 300:
        ticks = [tick for tick in ticks if tick in (0.01, 1, 100, 10_000)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}x")
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="y", visible=False)
    _ours(axes, result, workload, of)


def _point(axes: "Axes", found: Figure, ratio: float, y: float, marker: str, of: str) -> None:
    colour = _colour(found.allocator)
    if of == "ops_per_s" and found.ops_per_s:
        ends = [ratio * end / found.ops_per_s for end in found.spread]
        axes.plot(ends, (y, y), color=colour, linewidth=3, alpha=0.3, solid_capstyle="butt")
    hollow = found.allocator.endswith(HUGE)
    axes.plot(
        ratio, y, marker, color=colour, markersize=5, markerfacecolor="white" if hollow else colour,
        markeredgewidth=1.2,
    )  # fmt: skip


def _ours(axes: "Axes", result: Result, workload: str, of: str) -> None:
    """What ours is in figures, in the corner."""
    said = [
        f"{rate(found.ops_per_s)} ops/s" if of == "ops_per_s" else f"{found.peak_mib:,.0f} MiB"
        for count in result.threads()
        if (found := result.figure(workload, count, OURS)) is not None
    ]
    if said:
        axes.set_title(" / ".join(said), loc="right", fontsize=8, color=COLOURS[OURS])


def _name(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for label, name in zip(axes.get_yticklabels(), names):
        label.set_color(_colour(name))
        label.set_fontweight("bold" if name.startswith(OURS) else "normal")


def _key(picture: "Picture", counts: Sequence[int], right: str) -> None:
    from matplotlib.lines import Line2D

    shapes = [
        Line2D([], [], marker=MARKERS[n % len(MARKERS)], color="#444444", linestyle="", label=words(count))
        for n, count in enumerate(counts)
    ]
    picture.legend(
        handles=shapes, loc="outside lower center", ncols=len(shapes), frameon=False,
        title=f"{BASE} is 1x; to the right: {right}. Hollow: with its option for huge pages. "
        f"In blue at the top: mrm's own figures, by threads",
        title_fontsize=9,
    )  # fmt: skip


def _colour(allocator: str) -> str:
    return COLOURS.get(allocator.removesuffix(HUGE), "#444444")
