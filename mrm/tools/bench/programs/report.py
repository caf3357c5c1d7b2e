"""A run of ``mrm bench programs`` as one page: report.html, and report.json beside it."""

from pathlib import Path

from mrm.tools.bench.page import (
    Row,
    notes_section,
    pictures_sections,
    table,
    targets_rows,
    write_page,
)
from mrm.tools.bench.programs.figures import Figure, Result
from mrm.tools.bench.programs.lineup import OURS
from mrm.tools.bench.programs.plots import plots
from mrm.tools.bench.programs.table import HEADINGS, cells, what
from mrm.tools.bench.programs.targets import TARGETS

KEY = (
    "A bar is the median of the processes; the thin line across its end reaches from the fastest to the slowest. Blue: "
    "mrm run. The dotted line: the plain interpreter."
)


def write(result: Result, folder: Path) -> Path:
    """Write report.html, report.json and the picture as a file into ``folder``, which is made: the page's path."""
    pictures = plots(result)
    page = write_page(
        folder, "mrm bench programs", "Python programs on huge pages here", result.machine,
        _sections(result, pictures), result.to_json(),
    )  # fmt: skip
    for svg in pictures.values():
        (folder / "programs.svg").write_text(svg)
    return page


def _sections(result: Result, pictures: dict[str, str]) -> list[str]:
    sections = pictures_sections(pictures, KEY)
    sections += ["<h2>Targets</h2>", table(("what", "asked", "measured", ""), targets_rows(TARGETS, result))]
    for program in result.names():
        rows = [_row(result, figure) for figure in result.of(program)]
        sections += [f"<h2>{what(result, program)}</h2>", table(("setup", *HEADINGS), rows)]
    return sections + notes_section(result.notes)


def _row(result: Result, figure: Figure) -> Row:
    return "ours" if figure.setup == OURS else "", [figure.setup, *cells(result, figure)]
