"""A run as one page that needs nothing else: report.html, and report.json beside it."""

import json
from html import escape
from pathlib import Path

from mrm.sizes import format_size
from mrm.tools.bench.figures import FlipFigure, LaneFigure, Result
from mrm.tools.bench.lineup import OURS, TITLES
from mrm.tools.bench.machine import blind_spots, in_words
from mrm.tools.bench.plots import plots
from mrm.tools.bench.table import FRAMES, rate, unavailable
from mrm.tools.bench.targets import TARGETS

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mrm bench remap</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }}
th:first-child, td:first-child, td.words {{ text-align: left; }}
tr.ours td {{ font-weight: 600; color: #0072B2; }}
td.missed {{ font-weight: 600; color: #D55E00; }} .dim {{ color: #666; }}
svg {{ max-width: 100%; height: auto; }} .wide {{ overflow-x: auto; }}
</style></head><body>
<h1>What it costs to relocate a huge page here</h1>
<p class="dim">{machine}</p>
{body}
</body></html>
"""


def write(result: Result, folder: Path) -> Path:
    """Write report.html and report.json into ``folder``, which is made: the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(result.to_json(), indent=1) + "\n")
    page = folder / "report.html"
    page.write_text(PAGE.format(machine=escape(in_words(result.machine)), body="\n".join(_sections(result))))
    return page


def _sections(result: Result) -> list[str]:
    sections = []
    for caption, svg in plots(result).items():
        sections += [f"<h2>{escape(caption)}</h2>", f'<div class="wide">{svg}</div>']
    if sections:
        sections.append(f'<p class="dim">{escape(KEY)}</p>')
    sections += ["<h2>Lanes</h2>", _table(LANES, [_lane(f) for f in result.lanes])]
    if result.flip:
        sections += ["<h2>Flips</h2>", _table(FLIPS, [_flip(f) for f in result.flip])]
    if result.frames:
        rows = [("", [title, _figure(result.frames.get(name))]) for name, title in FRAMES.items()]
        sections += ["<h2>Frames and overheads</h2>", _table(("what", "figure"), rows)]
    sections += ["<h2>Targets</h2>", _table(("what", "asked", "measured", ""), _targets(result))]
    notes = blind_spots(result.machine) + result.notes + unavailable(result.lanes)
    sections += ["<h2>To know beside it</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    return sections


KEY = (
    "Blue: mrm. Grey: the same system calls, made by hand. Orange: what the kernel offers to anybody. "
    "A point is the median of the rounds; the bar behind it reaches from the slowest round to the fastest."
)
LANES = (
    "lane", "how", "mutators", "rate", "slowest", "fastest",
    "us/page", "shootdowns/page", "mutators keep", "x by hand",
)  # fmt: skip
FLIPS = ("pool", "by", "mutators", "open us", "link us", "retire us", "TB/s", "shootdowns")


def _lane(f: LaneFigure) -> tuple[str, list[str]]:
    spread = f.gb_per_s_spread
    cells = [
        f.lane,
        TITLES[f.lane],
        str(f.threads),
        "not here" if f.gb_per_s is None else rate(f.gb_per_s),
        "" if spread is None else rate(spread[0]),
        "" if spread is None else rate(spread[1]),
        _figure(f.us_per_page),
        _figure(f.shootdowns_per_page),
        "" if f.mutator_relative is None else f"{f.mutator_relative:.0%}",
        _figure(f.over_by_hand),
    ]
    return "ours" if f.lane in OURS else "", cells


def _flip(f: FlipFigure) -> tuple[str, list[str]]:
    steps = [f"{step:.1f}" for step in (f.open_us, f.link_us, f.retire_us)]
    cells = [
        format_size(f.gib * 2**30),
        f.by,
        str(f.threads),
        *steps,
        f"{f.tb_per_s:,.0f}",
        _figure(f.shootdowns),
    ]
    return "ours" if f.by == "mrm" else "", cells


def _targets(result: Result) -> list[tuple[str, list[str]]]:
    verdict = {True: "reached", False: "missed", None: "not measured"}
    return [
        (
            "",
            [
                target.text,
                f"{'≤' if target.at_most else '≥'} {target.bound:g}",
                _figure(target.measure(result)),
                verdict[target.holds(result)],
            ],
        )
        for target in TARGETS
    ]


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, list[str]]]) -> str:
    """An HTML table; the first of each row is its class."""
    lines = ['<div class="wide"><table><tr>', *(f"<th>{escape(cell)}</th>" for cell in head), "</tr>"]
    for kind, cells in rows:
        lines.append(f'<tr class="{kind}">')
        lines += [f"<td{_cell_class(cell)}>{escape(cell)}</td>" for cell in cells]
        lines.append("</tr>")
    return "".join(lines) + "</table></div>"


def _cell_class(cell: str) -> str:
    if cell in TITLES.values():
        return ' class="words"'
    return ' class="missed"' if cell == "missed" else ""
