"""The figures of a run as pictures, for the report: SVG, to be put into a page.

Colours are those of the other benchmarks, shapes say the same once more, and every point has its
figure beside it. What others measured on another machine is grey.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib

from mrm.tools.bench.balloon.figures import Neighbour, Rate, Result
from mrm.tools.bench.balloon.table import direction, number, rates
from mrm.tools.pictures import STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, KERNEL, OTHERS = "#0072B2", "#D55E00", "#777777"


def plots(result: Result) -> dict[str, str]:
    """SVG of every picture that the run has figures for, by caption."""
    pictures = {}
    with matplotlib.rc_context(STYLE):
        if any(rate.gb_per_s for rate in rates(result)):
            pictures["How fast memory goes, and comes again"] = svg(both(result))
        if result.neighbour is not None:
            pictures["What a neighbour keeps"] = svg(neighbour(result.neighbour))
    return pictures


def both(result: Result) -> "Figure":
    """Inflate on the left, deflate by threads on the right, beside the kernel's own and the literature."""
    from matplotlib import pyplot

    given = [rate for rate in (*result.inflate, *result.inflate_other_backings) if rate.gb_per_s]
    fetched = [rate for rate in (*result.deflate, *result.deflate_from_system) if rate.gb_per_s]
    papers = [(row["name"], row["inflate_gb_per_s"]) for row in result.literature]
    installs = [
        (row["name"], row["install_gb_per_s"]) for row in result.literature if "install_gb_per_s" in row
    ]
    rows = max(len(given) + len(papers), len(fetched) + len(installs))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.2 + 0.45 * rows), layout="constrained")
    left.set_xscale("log")
    _rates(left, given, papers)
    _rates(right, fetched, installs)
    left.set(title="given back", xlabel="GB/s, logarithmic: more is better")
    right.set(title="fetched", xlabel="GB/s: more is better")
    right.set_xlim(left=0)
    for label, colour, marker in (("mrm", OURS, "o"), ("the kernel's own calls", KERNEL, "s")):
        right.plot([], [], marker, color=colour, markersize=6, label=label)
    right.plot([], [], "D", color=OTHERS, markersize=6, label="from papers, other machines")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def _rates(axes: "Axes", found: Sequence[Rate], papers: list[tuple[str, float]]) -> None:
    names = [direction(rate).partition(", ")[2] for rate in found] + [name for name, _ in papers]
    for y, rate in enumerate(found):
        _point(axes, y - 0.14, rate.gb_per_s, rate.gb_per_s_spread, OURS, "o")
        _point(axes, y + 0.14, rate.kernel_gb_per_s, rate.kernel_gb_per_s_spread, KERNEL, "s")
    for y, (_, value) in enumerate(papers, len(found)):
        _point(axes, y, value, None, OTHERS, "D")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.2)
    for label in axes.get_yticklabels()[len(found) :]:
        label.set_color(OTHERS)


def _point(
    axes: "Axes", y: float, value: float | None, spread: tuple[float, float] | None, colour: str, marker: str
) -> None:
    if value is None:
        return
    if spread is not None:
        axes.plot(spread, (y, y), color=colour, linewidth=4, alpha=0.3, solid_capstyle="butt")
    axes.plot(value, y, marker, color=colour, markersize=6)
    axes.annotate(
        number(value), (max(value, spread[1] if spread else value), y), (7, 0), textcoords="offset points",
        va="center", color=colour, fontsize=8.5,
    )  # fmt: skip


def neighbour(found: Neighbour) -> "Figure":
    """The distribution of its windows, from the slowest to the fastest."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3.8), layout="constrained")
    lines = (
        ("alone", found.undisturbed, OTHERS, ":"),
        ("beside inflate and deflate", found.beside, OURS, "-"),
        ("beside the kernel's own calls", found.beside_kernel, KERNEL, "--"),
    )
    for name, values, colour, style in lines:
        axes.plot(range(len(values)), values, style, color=colour, label=name)
    axes.set(
        xlabel=f"percent of windows of {found.window_ms:g} ms that were slower",
        ylabel="triad, GB/s",
        xlim=(0, 100),
    )
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure
