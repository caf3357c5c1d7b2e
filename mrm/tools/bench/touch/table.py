"""The figures of a run as a table for a terminal."""

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.balloon.table import number, span
from mrm.tools.bench.machine import in_words
from mrm.tools.bench.touch.figures import Lane, Result

HEADINGS = (
    *("us a page", "least - most", "GB/s", "over pool", "least - most"),
    *("99th percentile", "slowest", "the same pages", "setting, us a page"),
)


def show(result: Result, console: Console) -> None:
    """Print everything that ``result`` has, and what a reader must know beside it."""
    console.print(Text(in_words(result.machine), style="dim"))
    table = Table(
        title=f"First touch of {format_size(FRAME_SIZE)}, by where it has been: {format_size(result.nbytes)}, "
        f"medians of {result.rounds} rounds; a while is {result.wait_seconds:g} s",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for i, heading in enumerate(("page", *HEADINGS)):
        table.add_column(heading, justify="right" if i else "left")
    for lane in result.lanes:
        table.add_row(lane.name, *cells(lane))
    console.print(table)
    console.print(Group(*(Text(f"- {note}", style="dim") for note in notes(result))))


def cells(lane: Lane) -> list[str]:
    """The figures of a lane, for people."""
    if lane.us_per_page is None:
        return ["not here", *[""] * (len(HEADINGS) - 1)]
    same = "" if lane.same_pages is None else f"{lane.same_pages} of {lane.pages}"
    return [
        number(lane.us_per_page),
        span(lane.us_per_page_spread),
        number(lane.gb_per_s),
        number(lane.relative),
        span(lane.relative_spread),
        number(lane.us_tail),
        number(lane.us_worst),
        same,
        number(lane.setting_us_per_page),
    ]


def notes(result: Result) -> list[str]:
    """What must be known beside the figures."""
    said = [f"{lane.name}: {lane.what}." for lane in result.lanes]
    said += [f"{lane.name}: not measured, as {lane.note}." for lane in result.lanes if lane.note]
    said += [
        f"{lane.name}: the host was told of {format_size(lane.reported_bytes)} in {lane.rounds} rounds."
        for lane in result.lanes
        if lane.reported_bytes is not None
    ]
    return said + result.notes
