"""``mrm coverage``: what the kernel says of a process's pages, as a table or for programs."""

import json

import click
from rich.console import Console
from rich.table import Table

from mrm._coverage import KINDS, Coverage, coverage
from mrm.sizes import format_size
from mrm.system.pages import frame_size
from mrm.tools.cli import FINE


@click.command()
@click.argument("pid", type=click.IntRange(1), metavar="PID")
@click.option("--json", "as_json", is_flag=True, help="Print figures for programs.")
@click.pass_context
def command(ctx: click.Context, pid: int, as_json: bool) -> None:
    """Say how much of a running process's memory lies on huge pages, by kind.

    It is read from /proc/PID/smaps: what the page tables hold now, whatever the program, or its
    allocator, has asked for. One's own processes need no rights.

    \b
    Examples:
      mrm coverage 4711           a table
      mrm coverage 4711 --json    figures for programs
      mrm coverage $$             of this shell

    JSON: {"pid", "page_size", "resident", "huge", "share", "kinds": {KIND: {"resident", "huge",
    "share"}}}, in bytes; shares go from 0 to 1.

    \b
    Exit status: 0 done; 1 no such process, or no right to; 2 usage.
    """
    found = coverage(pid)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2))
    else:
        Console(highlight=False).print(table(found))
    ctx.exit(FINE)


def table(found: Coverage) -> Table:
    """A line for each kind of memory, and one for all."""
    shown = Table(box=None, pad_edge=False, header_style="bold", show_footer=True, footer_style="bold")
    shown.add_column("MEMORY", "all", no_wrap=True)
    shown.add_column("RESIDENT", format_size(found.resident), justify="right", no_wrap=True)
    shown.add_column(
        f"ON {format_size(frame_size())} PAGES", format_size(found.huge), justify="right", no_wrap=True
    )
    shown.add_column("SHARE", f"{found.share:.1%}", justify="right", no_wrap=True)
    shown.add_column("WHAT")
    for portion in found.portions:
        shown.add_row(
            portion.kind,
            format_size(portion.resident),
            format_size(portion.huge),
            f"{portion.share:.1%}",
            KINDS[portion.kind],
        )
    return shown
