"""A run of ``mrm bench remap`` as one page: report.html, and report.json beside it."""

from pathlib import Path

from mrm.sizes import format_size
from mrm.tools.bench.figures import FlipFigure, LaneFigure, Result
from mrm.tools.bench.lineup import OURS, TITLES
from mrm.tools.bench.machine import blind_spots
from mrm.tools.bench.page import (
    figure,
    notes_section,
    pictures_sections,
    table,
    targets_rows,
    write_page,
)
from mrm.tools.bench.plots import plots
from mrm.tools.bench.table import FRAMES, rate, unavailable
from mrm.tools.bench.targets import TARGETS


def write(result: Result, folder: Path) -> Path:
    """Write report.html and report.json into ``folder``, which is made: the page's path."""
    return write_page(
        folder, "mrm bench remap", "What it costs to relocate a huge page here", result.machine,
        _sections(result), result.to_json(),
    )  # fmt: skip


def _sections(result: Result) -> list[str]:
    sections = pictures_sections(plots(result), KEY)
    sections += ["<h2>Lanes</h2>", table(LANES, [_lane(f) for f in result.lanes], TITLES.values())]
    if result.flip:
        sections += ["<h2>Flips</h2>", table(FLIPS, [_flip(f) for f in result.flip])]
    if result.frames:
        rows = [("", [title, figure(result.frames.get(name))]) for name, title in FRAMES.items()]
        sections += ["<h2>Frames and overheads</h2>", table(("what", "figure"), rows)]
    sections += ["<h2>Targets</h2>", table(("what", "asked", "measured", ""), targets_rows(TARGETS, result))]
    notes = blind_spots(result.machine) + result.notes + unavailable(result.lanes)
    return sections + notes_section(notes)


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
        figure(f.us_per_page),
        figure(f.shootdowns_per_page),
        "" if f.mutator_relative is None else f"{f.mutator_relative:.0%}",
        figure(f.over_by_hand),
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
        figure(f.shootdowns),
    ]
    return "ours" if f.by == "mrm" else "", cells
