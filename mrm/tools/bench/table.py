"""The figures of a run as tables for a terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.figures import FlipFigure, LaneFigure, Result
from mrm.tools.bench.lineup import OURS, TITLES
from mrm.tools.bench.machine import blind_spots, in_words


def show(result: Result, console: Console) -> None:
    """Print everything that ``result`` has, and what a reader must know beside it."""
    console.print(Text(in_words(result.machine), style="dim"))
    console.print(legend())
    for threads in sorted({figure.threads for figure in result.lanes}):
        lanes = [figure for figure in result.lanes if figure.threads == threads]
        console.print(lanes_table(lanes, threads, narrow=console.width < 110))
    if result.flip:
        console.print(flips_table(result.flip))
    if result.frames:
        console.print(frames_table(result.frames))
    notes = blind_spots(result.machine) + result.notes + unavailable(result.lanes)
    console.print(Group(*(Text(f"- {note}", style="dim") for note in notes)))


def legend() -> Table:
    """What the names of lanes and columns stand for."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), style="dim")
    for lane, title in TITLES.items():
        table.add_row(lane, title, style="bold" if lane in OURS else "dim")
    table.add_row("shot/page", "TLB shootdowns a page", style="dim")
    table.add_row("mutators", "their reads a second, of those beside no relocator", style="dim")
    table.add_row("x by hand", "time over that of the same system calls made by hand", style="dim")
    return table


def unavailable(lanes: Iterable[LaneFigure]) -> list[str]:
    """What the lanes' notes say, each once."""
    return list(dict.fromkeys(f"{figure.lane}: {figure.note}" for figure in lanes if figure.note))


def rate(gb_per_s: float) -> str:
    """A rate in the unit that suits it: ``138 GB/s``, ``41.3 TB/s``."""
    value, unit = (gb_per_s / 1e3, "TB/s") if gb_per_s >= 1e3 else (gb_per_s, "GB/s")
    return f"{value:,.{0 if value >= 100 else 1}f} {unit}"


def lanes_table(figures: list[LaneFigure], threads: int, narrow: bool) -> Table:
    """Lanes side by side, beside ``threads`` mutators; ``narrow`` leaves out what can be missed."""
    beside = {0: "no mutator", 1: "one mutator thread"}.get(threads, f"{threads} mutator threads")
    title = f"Relocating {format_size(FRAME_SIZE)} pages beside {beside}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("lane", no_wrap=True)
    stock = next((f.gb_per_s for f in figures if f.lane == "mremap"), None)
    rows = {figure.lane: _lane_cells(figure, stock) for figure in figures}
    shown = [heading for heading in _HEADINGS if not (narrow and heading in _MISSABLE)]
    for heading in shown:
        table.add_column(heading, justify="right", no_wrap=True)
    for lane, cells in rows.items():
        table.add_row(lane, *(cells.get(name, "") for name in shown), style="bold" if lane in OURS else "")
    return table


_HEADINGS = ("rate", "slowest - fastest", "us/page", "x mremap", "shot/page", "mutators", "x by hand")
_MISSABLE = ("slowest - fastest", "us/page")


def _lane_cells(figure: LaneFigure, stock: float | None) -> dict[str, str]:
    """What is known of a lane, by heading."""
    if figure.gb_per_s is None or figure.gb_per_s_spread is None or figure.us_per_page is None:
        return {"rate": "not here"}
    cells = {
        "rate": rate(figure.gb_per_s),
        "slowest - fastest": " - ".join(rate(end) for end in figure.gb_per_s_spread),
        "us/page": f"{figure.us_per_page:.3g}",
    }
    if stock:
        cells["x mremap"] = f"{figure.gb_per_s / stock:,.2f}"
    if figure.shootdowns_per_page is not None:
        cells["shot/page"] = f"{figure.shootdowns_per_page:.5f}"
    if figure.mutator_relative is not None:
        cells["mutators"] = f"{figure.mutator_relative:.0%}"
    if figure.over_by_hand is not None:
        cells["x by hand"] = f"{figure.over_by_hand:.2f}"
    return cells


def flips_table(figures: list[FlipFigure]) -> Table:
    """Flips by size of the pool and number of mutators."""
    table = Table(title="A whole pool to a new view (a flip)", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("pool", no_wrap=True)
    for heading in ("mutators", "by", "open us", "link us", "retire us", "TB/s", "slowest - fastest", "shot"):
        table.add_column(heading, justify="right")
    for f in figures:
        low, high = f.tb_per_s_spread
        table.add_row(
            format_size(f.gib * 2**30), str(f.threads), f.by,
            f"{f.open_us:.1f}", f"{f.link_us:.1f}", f"{f.retire_us:.1f}",
            f"{f.tb_per_s:,.0f}", f"{low:,.0f} - {high:,.0f}",
            "" if f.shootdowns is None else f"{f.shootdowns:.2f}", style="bold" if f.by == "mrm" else "",
        )  # fmt: skip
    return table


FRAMES = {
    "take_give_ns": "take and give of a frame, from C, ns",
    "take_give_python_ns": "take and give of a frame, from Python, ns",
    "take_give_array_ns": "take and give in arrays of 512, from Python, ns a frame",
    "take_give_many_ns": "take and give in arrays of 512, from C, ns a frame",
    "two_threads_over_one": "two threads that take and give, over one",
    "kernel_cycle_ns": "mmap and munmap of a huge page, for comparison, ns",
    "batch_of_one_us": "batch of one page and retire, from Python, us",
    "batch_of_one_by_hand_us": "... its system calls alone, by hand, us",
    "batch_of_one_overhead_us": "... what mrm and Python add, us",
    "million_open_s": "pool of a million frames, on a system that maps nothing: opens in, s",
    "million_take_run_us": "... take_run(1024) with half the frames held at random, us",
    "million_no_run_us": "... finding that there is no such run, us",
}


def frames_table(frames: dict[str, float | None]) -> Table:
    """What physical frames cost, without any mapping."""
    table = Table(title="Frames and overheads", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    for name, title in FRAMES.items():
        value = frames.get(name)
        figure = "not here" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
        table.add_row(title, figure)
    return table
