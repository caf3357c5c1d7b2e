"""The figures of a run as tables for a terminal, and as the rows of a page."""

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mrm.tools.bench.heap.figures import Figure, Result, over
from mrm.tools.bench.heap.lineup import BASE, OURS
from mrm.tools.bench.heap.run import words
from mrm.tools.bench.heap.workloads import WORKLOADS
from mrm.tools.bench.machine import in_words

HEADINGS = ("ops/s", "slowest - fastest", f"x {BASE}", "peak MiB", f"x {BASE}")


def show(result: Result, console: Console) -> None:
    """Print everything that ``result`` has, and what a reader must know beside it."""
    console.print(Text(in_words(result.machine), style="dim"))
    for workload in result.names("workload"):
        console.print(_table(result, workload))
    console.print(Group(*(Text(f"- {note}", style="dim") for note in result.notes)))


def _table(result: Result, workload: str) -> Table:
    table = Table(
        title=f"{workload}: {WORKLOADS[workload].what}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("threads", justify="right")
    table.add_column("allocator", no_wrap=True)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for threads in result.threads():
        figures = result.of(workload, threads)
        for i, figure in enumerate(figures):
            table.add_row(
                "" if i else str(threads),
                figure.allocator,
                *cells(result, figure),
                style="bold" if figure.allocator.startswith(OURS) else "",
                end_section=i == len(figures) - 1,
            )
    return table


def cells(result: Result, figure: Figure) -> list[str]:
    """What was measured, and how it compares, for people."""
    base = result.figure(figure.workload, figure.threads, BASE)
    return [
        rate(figure.ops_per_s),
        " - ".join(map(rate, figure.spread)),
        times(over(figure, base)),
        f"{figure.peak_mib:,.1f}",
        times(over(figure, base, "peak_mib")),
    ]


def rate(ops_per_s: float) -> str:
    """Three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if ops_per_s >= size:
            return f"{ops_per_s / size:.3g} {unit}"
    return f"{ops_per_s:.3g}"


def times(ratio: float | None) -> str:
    """A ratio, with as many digits as say something."""
    if ratio is None:
        return ""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def title(workload: str, threads: int) -> str:
    """What a row is of."""
    return f"{workload}, {words(threads)}"
