"""A run of ``mrm bench heap`` as one page: report.html, and report.json beside it."""

from pathlib import Path

from mrm.tools.bench.heap.figures import Figure, Result
from mrm.tools.bench.heap.lineup import BASE, OURS
from mrm.tools.bench.heap.plots import plots
from mrm.tools.bench.heap.table import HEADINGS, cells, title
from mrm.tools.bench.heap.targets import TARGETS
from mrm.tools.bench.heap.workloads import WORKLOADS
from mrm.tools.bench.page import (
    Row,
    notes_section,
    pictures_sections,
    table,
    targets_rows,
    write_page,
)

KEY = (
    f"A point is the median of the processes, as a ratio to {BASE}'s with as many threads; the bar behind it reaches "
    "from the slowest to the fastest. Blue: mrm."
)


def write(result: Result, folder: Path) -> Path:
    """Write report.html, report.json and each picture as a file into ``folder``, which is made: the page's path."""
    pictures = plots(result)
    page = write_page(
        folder, "mrm bench heap", "Our heap beside other allocators here", result.machine,
        _sections(result, pictures), result.to_json(),
    )  # fmt: skip
    for name, svg in zip(("rates", "peaks"), pictures.values()):
        (folder / f"{name}.svg").write_text(svg)
    return page


def _sections(result: Result, pictures: dict[str, str]) -> list[str]:
    sections = pictures_sections(pictures, KEY)
    sections += ["<h2>Targets</h2>", table(("what", "asked", "measured", ""), targets_rows(TARGETS, result))]
    for workload in result.names("workload"):
        what = WORKLOADS[workload].what
        sections += [f"<h2>{workload}</h2>", f'<p class="dim">{what}</p>']
        for threads in result.threads():
            rows = [_row(result, figure) for figure in result.of(workload, threads)]
            sections.append(table((title(workload, threads), *HEADINGS), rows))
    return sections + notes_section(result.notes)


def _row(result: Result, figure: Figure) -> Row:
    return "ours" if figure.allocator.startswith(OURS) else "", [figure.allocator, *cells(result, figure)]
