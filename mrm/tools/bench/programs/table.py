"""The figures of a run as tables for a terminal, and as the rows of a page."""

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mrm.sizes import format_size
from mrm.tools.bench.machine import in_words
from mrm.tools.bench.programs.figures import Figure, Result
from mrm.tools.bench.programs.lineup import OURS, PROGRAMS

HEADINGS = ("seconds", "fastest - slowest", "over plain", "on huge pages")


def show(result: Result, console: Console) -> None:
    """Print everything that ``result`` has, and what a reader must know beside it."""
    words = f"{in_words(result.machine)}; {result.machine['interpreter']}"
    console.print(Text(words, style="dim"))
    for program in result.names():
        table = Table(title=what(result, program), box=box.SIMPLE_HEAD, title_justify="left")
        for i, heading in enumerate(("setup", *HEADINGS)):
            table.add_column(heading, justify="right" if i else "left", no_wrap=True)
        for figure in result.of(program):
            table.add_row(figure.setup, *cells(result, figure), style="bold" if figure.setup == OURS else "")
        console.print(table)
    console.print(Group(*(Text(f"- {note}", style="dim") for note in result.notes)))


def what(result: Result, name: str) -> str:
    """A program and its size, in a sentence."""
    program = next(program for program in PROGRAMS if program.name == name)
    size = result.sizes[name]
    return f"{name}: {program.what.format(format_size(size) if program.needs else f'{size:,}')}"


def cells(result: Result, figure: Figure) -> list[str]:
    """What was measured, for people."""
    ratio = result.over_plain(figure)
    return [
        f"{figure.seconds:.3g}",
        f"{figure.spread[0]:.3g} - {figure.spread[1]:.3g}",
        "" if ratio is None else f"{ratio:.2f}",
        "not told" if figure.huge_share is None else f"{figure.huge_share:.1%}",
    ]
