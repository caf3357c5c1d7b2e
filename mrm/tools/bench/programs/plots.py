"""The figures of a run as a picture, for the report: SVG, to be put into a page.

A panel for each program, a bar for each setup, as long as the program took; how much of the bar is filled is the share
of the program's memory that lay on huge pages. The line is the plain interpreter.
"""

from typing import TYPE_CHECKING

import matplotlib

from mrm.tools.bench.programs.figures import Figure, Result
from mrm.tools.bench.programs.lineup import OURS, PLAIN
from mrm.tools.bench.programs.table import what
from mrm.tools.pictures import STYLE, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

OURS_COLOUR, PLAIN_COLOUR, OTHERS_COLOUR = "#0072B2", "#444444", "#D55E00"


def plots(result: Result) -> dict[str, str]:
    """SVG of every picture that the run has figures for, by caption."""
    if not result.programs:
        return {}
    with matplotlib.rc_context(STYLE):
        return {"How long programs take, and how much of their memory is on huge pages": svg(bars(result))}


def bars(result: Result) -> "Picture":
    """A panel for each program."""
    from matplotlib import pyplot

    programs = result.names()
    most = max(len(result.of(program)) for program in programs)
    picture, panels = pyplot.subplots(
        len(programs), 1, squeeze=False, figsize=(9, 0.6 + len(programs) * (0.9 + 0.3 * most)),
        layout="constrained",
    )  # fmt: skip
    for axes, program in zip(panels[:, 0], programs):
        _panel(axes, result, program)
    picture.supxlabel("seconds: less is better. Filled: the share of its memory on huge pages", fontsize=9)
    return picture


def _panel(axes: "Axes", result: Result, program: str) -> None:
    figures = result.of(program)
    for y, figure in enumerate(figures):
        colour = _colour(figure)
        axes.barh(y, figure.seconds, height=0.62, color="white", edgecolor=colour, linewidth=1.2)
        axes.barh(y, figure.seconds * (figure.huge_share or 0), height=0.62, color=colour, alpha=0.75)
        axes.plot(figure.spread, (y, y), color="#222222", linewidth=1.2, solid_capstyle="butt")
        axes.annotate(
            _words(result, figure), (max(figure.seconds, figure.spread[1]), y), (6, 0),
            textcoords="offset points", va="center", fontsize=8.5, color=colour,
        )  # fmt: skip
    plain = result.figure(program, PLAIN)
    if plain is not None:
        axes.axvline(plain.seconds, color=PLAIN_COLOUR, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(figures)), [figure.setup for figure in figures])
    axes.set_ylim(len(figures) - 0.45, -0.55)
    axes.set_xlim(0, 1.3 * max(max(figure.seconds, figure.spread[1]) for figure in figures))
    for label, figure in zip(axes.get_yticklabels(), figures):
        label.set_color(_colour(figure))
        label.set_fontweight("bold" if figure.setup == OURS else "normal")
    axes.set_title(what(result, program), loc="left", fontsize=10)
    axes.grid(axis="y", visible=False)


def _words(result: Result, figure: Figure) -> str:
    said = [f"{figure.seconds:.3g} s"]
    if figure.setup != PLAIN and (ratio := result.over_plain(figure)) is not None:
        said.append(f"{ratio:.2f} of plain")
    if figure.huge_share is not None:
        said.append(f"{figure.huge_share:.0%} huge")
    return ", ".join(said)


def _colour(figure: Figure) -> str:
    return {OURS: OURS_COLOUR, PLAIN: PLAIN_COLOUR}.get(figure.setup, OTHERS_COLOUR)
