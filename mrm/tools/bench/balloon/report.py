"""A run of ``mrm bench balloon`` as one page: report.html, and report.json beside it."""

from pathlib import Path

from mrm.tools.bench.balloon.figures import Rate, Result
from mrm.tools.bench.balloon.plots import plots
from mrm.tools.bench.balloon.table import (
    NEIGHBOUR_HEADINGS,
    RATE_HEADINGS,
    cells,
    direction,
    neighbour_rows,
    notes,
    rates,
)
from mrm.tools.bench.balloon.targets import TARGETS
from mrm.tools.bench.page import (
    Row,
    figure,
    notes_section,
    pictures_sections,
    table,
    targets_rows,
    write_page,
)

KEY = (
    "Blue: mrm. Orange: the kernel's own calls, by hand, in the same run. Grey: literature, measured by others on "
    "another machine. A point is the median of the cycles; the bar behind it reaches from the slowest to the fastest."
)


def write(result: Result, folder: Path) -> Path:
    """Write report.html and report.json into ``folder``, which is made: the page's path."""
    return write_page(
        folder, "mrm bench balloon", "How fast memory goes to the kernel and comes again here", result.machine,
        _sections(result), result.to_json(),
    )  # fmt: skip


def _sections(result: Result) -> list[str]:
    sections = pictures_sections(plots(result), KEY)
    sections += ["<h2>Rates</h2>", table(("direction", *RATE_HEADINGS), map(_rate, rates(result)))]
    if result.neighbour is not None:
        rows: list[Row] = [("", [name, *found]) for name, found in neighbour_rows(result.neighbour)]
        sections += ["<h2>A neighbour</h2>", table(NEIGHBOUR_HEADINGS, rows)]
    targets = table(("what", "asked", "measured", ""), targets_rows(TARGETS, result))
    sections += ["<h2>Targets</h2>", targets]
    literature: list[Row] = [
        ("", [row["name"], figure(row["inflate_gb_per_s"]), figure(row.get("install_gb_per_s"))])
        for row in result.literature
    ]
    sections += ["<h2>Literature (EuroSys 2025, another machine)</h2>"]
    sections += [table(("how", "gives back, GB/s", "installs, GB/s"), literature)]
    tried: list[Row] = [("", [name, figure(found)]) for name, found in result.kernel_ways.items()]
    sections += ["<h2>The kernel's own ways that were tried</h2>"]
    sections += [table(("way", "GB/s"), tried)]
    return sections + notes_section(notes(result))


def _rate(rate: Rate) -> Row:
    return "ours", [direction(rate), *cells(rate)]
