"""The figures of a run as tables for a terminal, and as the rows of a page."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mrm.sizes import format_size
from mrm.tools.bench.balloon.figures import Deflate, Inflate, Neighbour, Rate, Result, Spread
from mrm.tools.bench.machine import in_words

RATE_HEADINGS = ("GB/s", "slowest - fastest", "the kernel's own", "slowest - fastest", "ours over it")


def show(result: Result, console: Console) -> None:
    """Print everything that ``result`` has, and what a reader must know beside it."""
    console.print(Text(in_words(result.machine), style="dim"))
    size = format_size(result.nbytes)
    rows = [(direction(rate), cells(rate)) for rate in rates(result)]
    title = f"Memory to the kernel and back: {size}, medians of {result.cycles} cycles"
    console.print(_table(title, ("direction", *RATE_HEADINGS), rows))
    if result.neighbour is not None:
        title = f"A neighbour that streams, in windows of {result.neighbour.window_ms:g} ms"
        console.print(_table(title, NEIGHBOUR_HEADINGS, neighbour_rows(result.neighbour)))
    console.print(Group(*(Text(f"- {note}", style="dim") for note in notes(result))))


def rates(result: Result) -> list[Rate]:
    """Every rate, in the order of the table."""
    return [
        *result.inflate,
        *result.inflate_other_backings,
        *result.deflate,
        *result.deflate_from_system,
    ]


def direction(rate: Rate) -> str:
    """What a rate is of, in words."""
    backing = "" if rate.backing == "hugetlb" else f", {rate.backing} pages"
    if isinstance(rate, Inflate):
        place = "kernel's pool" if rate.to == "pool" else "system"
        return f"inflate, to the {place}{backing}"
    assert isinstance(rate, Deflate)
    threads = "1 thread" if rate.threads == 1 else f"{rate.threads} threads"
    return f"deflate, {threads}{', from the system' if rate.source == 'system' else ''}{backing}"


def cells(rate: Rate) -> list[str]:
    """The figures of a rate, for people."""
    if rate.gb_per_s is None or rate.kernel_gb_per_s is None or rate.ratio is None:
        return ["not here", "", "", "", ""]
    return [
        number(rate.gb_per_s),
        span(rate.gb_per_s_spread),
        number(rate.kernel_gb_per_s),
        span(rate.kernel_gb_per_s_spread),
        f"{rate.ratio:.2f}",
    ]


NEIGHBOUR_HEADINGS = ("what", "alone", "beside", "relative", "beside the kernel's own")


def neighbour_rows(found: Neighbour) -> list[tuple[str, list[str]]]:
    """What is left of a neighbour, and what commits wait."""
    rows = [
        (
            "mean, GB/s",
            [
                number(found.gb_per_s), number(found.beside_gb_per_s), f"{found.mean_relative:.1%}",
                f"{found.kernel_mean_relative:.1%}",
            ],
        ),
        (
            "tail (1st percentile of windows), GB/s",
            [
                number(found.tail_gb_per_s), number(found.beside_tail_gb_per_s), f"{found.tail_relative:.1%}",
                f"{found.kernel_tail_relative:.1%}",
            ],
        ),
        (
            "mean, by the second of its processor time",
            ["", "", f"{found.mean_relative_by_processor:.1%}", f"{found.kernel_mean_relative_by_processor:.1%}"],
        ),
        ("tail, by the second of its processor time", ["", "", f"{found.tail_relative_by_processor:.1%}", ""]),
        (
            "processors that fetching kept busy",
            ["", f"{found.fetching_processor_seconds / found.beside_seconds:.2f}", "", ""],
        ),
    ]  # fmt: skip
    if (took := found.commits) is not None:
        rows += [
            ("a commit of one slot, median, us", [number(took.median_us), number(took.beside_median_us), "", ""]),
            ("a commit of one slot, worst, us", [number(took.worst_us), number(took.beside_worst_us), "", ""]),
        ]  # fmt: skip
    return rows


def notes(result: Result) -> list[str]:
    """What must be known beside the figures: why some are missing, and what the kernel's own are of."""
    said = [f"{direction(rate)}: {rate.note}." for rate in rates(result) if rate.note]
    said += [
        f"The kernel's own, {direction(rate)}: {rate.kernel_way}."
        for rate in rates(result)
        if rate.kernel_way
    ]
    return said + result.notes


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def span(spread: Spread | None) -> str:
    """From the least to the most."""
    return "" if spread is None else " - ".join(map(number, spread))


def _table(title: str, headings: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=not i)
    for name, figures in rows:
        table.add_row(name, *figures)
    return table
