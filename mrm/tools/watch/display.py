"""What ``mrm top`` shows: one pool as a few tables, made of whatever its books hold.

No state of frames, account, fund or figure is named here that has to be there: what the
books have comes up by itself, and what they have not is left out.
"""

from typing import Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mrm.sizes import format_size
from mrm.tools.watch.find import Books
from mrm.tools.watch.rates import Reading, changes, rates

_COLOURS = {
    "ready": "green", "released": "cyan", "strict": "yellow", "held": "red", "inflated": "blue",
}  # fmt: skip
_BAR = 60


def frame(books: Books, before: Reading, now: Reading) -> RenderableType:
    """One picture of a pool."""
    told = now.books
    parts: list[RenderableType] = [_title(books, told), _states(told), _accounts(before, now)]
    # Beside each other where the terminal is wide enough.
    parts += [Text(), Columns([_funds(told), _rates(before, now)], padding=(0, 4))]
    if note := _note(told):
        parts.append(Text(note, style="dim"))
    return Group(*parts)


def listing(pools: list[Books], omitted: list[str]) -> RenderableType:
    """A table of pools, and what may be missing in it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PID", "POOL", "NAME", "SIZE", "BACKING", "COMMAND"):
        table.add_column(column, justify="right" if column in ("PID", "POOL", "SIZE") else "left")
    for pool in pools:
        head = pool.head
        size = format_size(head["frames"] * head["frame_size"])
        table.add_row(
            str(pool.pid), str(head["number"]), Text(head["name"]), size, head["backing"], Text(pool.command)
        )
    said = [] if pools else [Text("No pool that this user may see and this mrm can read is open.")]
    said += [Text(sentence, style="dim") for sentence in omitted]
    return Group(*([table] if pools else []), *said)


def _size(told: dict[str, Any], frames: int) -> str:
    return format_size(frames * told["pool"]["frame_size"]) if frames else "0"


def _title(books: Books, told: dict[str, Any]) -> Text:
    pool = told["pool"]
    title = Text(books.label, style="bold")
    title.append(f": {pool['frames']} frames, {format_size(pool['size'])}, {pool['backing']}", style="")
    return title


def _states(told: dict[str, Any]) -> RenderableType:
    """A bar of the frames by state, and its legend."""
    total = told["pool"]["frames"]
    bar, legend = Text(), []
    for state, n in told["frames"].items():
        colour = _COLOURS.get(state, "magenta")
        # Whatever there is shows, be it ever so little.
        bar.append("█" * (max(1, n * _BAR // total) if n else 0), style=colour)
        legend.append(Text.assemble((f"{state} ", colour), f"{n} ({_size(told, n)})"))
    legend += [Text(f"mapped {told['mapped']}"), Text(f"deferred aliases {told['pending']}")]
    return Group(bar, Columns(legend, padding=(0, 3)), Text())


def _accounts(before: Reading, now: Reading) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(
        ("ACCOUNT", "BALANCE", "ALLOCATED", "LOW", "HIGH", "CACHED", "OVERDRAWN", "LIMIT", "TAKE+GIVE/S")
    ):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    seconds = max(now.seconds - before.seconds, 1e-9)
    for a in now.books["accounts"]:
        figures = (a[f] for f in (
            "balance", "allocated", "allocated_low", "allocated_high", "cached", "overdrawn", "limit",
        ))  # fmt: skip
        rate = changes(before.books, now.books, a["number"]) / seconds
        table.add_row(Text(a["name"]), *(f"{n}" for n in figures), _number(rate))
    return table


def _funds(told: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(("FUND", "FRAMES", "GRANTED", "LENT", "AVAILABLE")):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for fund in told["funds"]:
        table.add_row(Text(fund["name"]), *(str(fund[f]) for f in ("frames", "granted", "lent", "available")))
    return table


def _rates(before: Reading, now: Reading) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("EVENTS", no_wrap=True)
    table.add_column("A SECOND", justify="right", no_wrap=True)
    for line, rate in rates(before, now).items():
        table.add_row(line, "not known" if rate is None else _number(rate))
    return table


def _note(told: dict[str, Any]) -> str:
    if told["counted"] < told["pool"]["frames"]:
        return f"Frames by state are estimated from {told['counted']} of {told['pool']['frames']}."
    return ""


def _number(rate: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if rate >= unit * 10:
            return f"{rate / unit:.1f}{name}"
    return f"{rate:.0f}"
