"""The run as pictures, for the report: SVG, to be put into the page.

Colours are Okabe and Ito's, which the colour-blind tell apart, and every line has its
name written beside it. Times of operations are on logarithmic scales: they reach from a
tenth of a microsecond to what the system's scheduler takes.
"""

import math
from statistics import median
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.ticker import FuncFormatter, NullFormatter

from mrm.tools.demo.results import Latency, Outcome
from mrm.tools.demo.words import duration
from mrm.tools.pictures import STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#B35900", "#007A5A", "#A8578A", "#777777"
PHASES = {
    "mark": BLUE,
    "settle": GREY,
    "open": GREEN,
    "flip": PURPLE,
    "retire": "#222222",
    "relocate": ORANGE,
}


def plots(outcome: Outcome) -> dict[str, str]:
    """SVG of every picture that the run has figures for, by caption."""
    pictures = {}
    with matplotlib.rc_context(STYLE):
        if outcome.samples:
            pictures["The run"] = svg(course(outcome))
        if outcome.latency.total:
            pictures["How long an operation takes"] = svg(stalls(outcome))
        if outcome.cycles:
            pictures["Where a cycle's time goes"] = svg(anatomy(outcome))
    return pictures


def course(outcome: Outcome) -> "Figure":
    """What was done over time: operations, pages, longest operations, free frames."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(4, 1, sharex=True, figsize=(10, 8), layout="constrained")
    times = [sample.at for sample in outcome.samples]
    for axes, title, colour, values in (
        (panels[0], "operations of mutators, million a second", BLUE,
         [s.operations_per_s / 1e6 for s in outcome.samples]),
        (panels[1], "pages remapped by view flips, thousand a second", PURPLE,
         [s.remapped_per_s / 1e3 for s in outcome.samples]),
        (panels[2], "pages emptied and used again, a second", ORANGE,
         [s.emptied_per_s for s in outcome.samples]),
    ):  # fmt: skip
        axes.fill_between(times, values, color=colour, alpha=0.15, linewidth=0)
        axes.plot(times, values, color=colour)
        axes.set_title(title, loc="left", fontsize=10, color=colour)
        axes.set_ylim(bottom=0)
        typical = median(values)
        axes.axhline(typical, color=colour, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"median {typical:,.3g}" if typical < 1000 else f"median {typical:,.0f}", (1.0, typical),
            (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center", color=colour,
        )  # fmt: skip
    worst = [max(sample.worst_ns, 1) for sample in outcome.samples]
    panels[3].plot(times, worst, "o", color=GREEN, markersize=3.5)
    panels[3].set_title(
        "longest operation in each tenth of a second, logarithmic", loc="left", fontsize=10, color=GREEN
    )
    _time_scale(panels[3], "y")
    panels[3].set_xlabel("seconds")
    panels[3].set_xlim(0, times[-1])
    return figure


def stalls(outcome: Outcome) -> "Figure":
    """Percentiles, the rarest to the right, by the clock and by the thread's own time."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 4.2), layout="constrained")
    ends = []
    for latency, colour, name in (
        (outcome.latency, ORANGE, "by the clock"),
        (outcome.own_latency, BLUE, "less what others had\nof the processor"),
    ):
        if latency.total == 0:
            continue
        rarity, values = _tail(latency)
        axes.step(rarity, values, where="post", color=colour, linewidth=1.8)
        ends.append((values[-1], rarity[-1], name, colour))
    for end, (worst, at, name, colour) in enumerate(sorted(ends)):
        axes.plot(at, worst, "o", color=colour)
        axes.annotate(
            f"{name}\nworst {duration(worst)}", (at, worst), (10, 14 * end), textcoords="offset points",
            va="center", color=colour,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("one operation in so many takes longer")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(1, outcome.latency.total * 30)
    _time_scale(axes, "y")
    axes.set_title(
        "time of an operation, checkpoint and clock included, logarithmic", loc="left", fontsize=10
    )
    return figure


def anatomy(outcome: Outcome) -> "Figure":
    """The phases of a median cycle, one above the other, on a logarithmic scale of time."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 3.0), layout="constrained")
    for y, (phase, colour) in enumerate(PHASES.items()):
        times = sorted(getattr(cycle, phase) for cycle in outcome.cycles)
        low, middle, high = (max(times[int(q * (len(times) - 1))], 1) for q in (0.05, 0.5, 0.95))
        axes.plot((low, high), (y, y), color=colour, linewidth=5, alpha=0.3, solid_capstyle="butt")
        axes.plot(middle, y, "o", color=colour, markersize=7)
        axes.annotate(
            duration(middle),
            (high, y),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
        )
    axes.set_yticks(range(len(PHASES)), list(PHASES))
    for label, colour in zip(axes.get_yticklabels(), PHASES.values(), strict=True):
        label.set_color(colour)
        label.set_fontweight("bold")
    axes.set_ylim(len(PHASES) - 0.5, -0.5)
    _time_scale(axes, "x")
    axes.set_title(
        f"median of {len(outcome.cycles):,} cycles; the bar holds nine in ten of them",
        loc="left",
        fontsize=10,
    )
    return figure


def _tail(latency: Latency) -> tuple[list[float], list[int]]:
    """How rare it is that an operation takes longer, and how long that is."""
    rarity, values = [1.0], [latency.counts[0][0]]
    left = latency.total
    for ns, n in latency.counts:
        rarity.append(latency.total / left)
        values.append(ns)
        left -= n
    rarity.append(float(latency.total))
    values.append(latency.worst)
    return rarity, values


def _time_scale(axes: "Axes", which: str) -> None:
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    decades = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
    (axes.set_xlim if which == "x" else axes.set_ylim)(decades)
    axis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    axis.set_minor_formatter(NullFormatter())
