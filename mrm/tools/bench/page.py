"""A run as one page that needs nothing else: report.html, and report.json beside it."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mrm.tools.bench.machine import in_words
from mrm.tools.bench.target import Target

Row = tuple[str, list[str]]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
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
<h1>{heading}</h1>
<p class="dim">{machine}</p>
{body}
</body></html>
"""


def write_page(
    folder: Path, title: str, heading: str, machine: dict[str, Any], sections: Iterable[str], data: Any
) -> Path:
    """Write report.html and report.json into ``folder``, which is made: the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    page = folder / "report.html"
    page.write_text(
        PAGE.format(
            title=escape(title),
            heading=escape(heading),
            machine=escape(in_words(machine)),
            body="\n".join(sections),
        )
    )
    return page


def pictures_sections(pictures: dict[str, str], key: str) -> list[str]:
    """Pictures by caption, and what their colours mean."""
    sections = []
    for caption, svg in pictures.items():
        sections += [f"<h2>{escape(caption)}</h2>", f'<div class="wide">{svg}</div>']
    if sections:
        sections.append(f'<p class="dim">{escape(key)}</p>')
    return sections


def notes_section(notes: Iterable[str]) -> list[str]:
    """What a reader must know beside the figures."""
    return ["<h2>To know beside it</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]


def targets_rows(targets: Iterable[Target], result: Any) -> list[Row]:
    """Every target beside the figure of ``result``."""
    return [
        ("", [target.text, target.asked, figure(target.measure(result)), target.verdict(result)])
        for target in targets
    ]


def figure(value: float | None) -> str:
    """A number for people."""
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Iterable[Row], words: Iterable[str] = ()) -> str:
    """An HTML table; the first of each row is its class, and cells among ``words`` are prose."""
    prose = set(words)
    lines = ['<div class="wide"><table><tr>', *(f"<th>{escape(cell)}</th>" for cell in head), "</tr>"]
    for kind, cells in rows:
        lines.append(f'<tr class="{kind}">')
        lines += [f"<td{_cell_class(cell, prose)}>{escape(cell)}</td>" for cell in cells]
        lines.append("</tr>")
    return "".join(lines) + "</table></div>"


def _cell_class(cell: str, prose: set[str]) -> str:
    if cell in prose:
        return ' class="words"'
    return ' class="missed"' if cell == "missed" else ""
