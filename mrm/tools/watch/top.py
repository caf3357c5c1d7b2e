"""``mrm top``: a pool of another process, live."""

import time

import click
from rich.console import Console
from rich.live import Live

from mrm.tools.cli import FINE, USAGE
from mrm.tools.watch.display import frame, listing
from mrm.tools.watch.find import Books, listed, wanted
from mrm.tools.watch.rates import Reading, take


@click.command()
@click.argument("who", metavar="[PID|NAME]", required=False)
@click.option("--pool", "number", type=click.IntRange(1), metavar="N", help="The process's pool number N.")
@click.option(
    "--interval", type=click.FloatRange(0.05, 3600), default=1.0, show_default=True, help="Seconds between."
)
@click.option("--once", is_flag=True, help="Show one picture, of one interval, and end.")
@click.pass_context
def command(ctx: click.Context, who: str | None, number: int | None, interval: float, once: bool) -> None:
    """Watch a pool of a running process; without an argument, list the pools there are.

    NAME is what the pool was opened with, mrm.Pool(name=). Watching costs the process
    nothing: its books lie in shared memory, and are read as they are. Ctrl-C ends it.

    \b
    Examples:
      mrm top                   which processes have pools
      mrm top 4711              the pool of process 4711
      mrm top heap              the pool that is called heap
      mrm top heap --once       one picture, for a log

    \b
    Exit status: 0 done, or the pool has ended; 1 nothing to watch, or no right to; 2 usage,
    or several pools are meant.
    """
    console = Console(highlight=False)
    if who is None:
        census = listed()
        console.print(listing(census.books, census.omitted))
        census.close()
        ctx.exit(FINE)
    found = wanted(who)
    try:
        meant = [books for books in found if number in (None, books.head["number"])]
        if len(meant) != 1:
            console.print(listing(meant or found, []))
            which = "none of these is meant" if not meant else "several are meant"
            click.echo(f"mrm: {which}: choose by PID and --pool", err=True)
            ctx.exit(USAGE)
        try:
            _watch(console, meant[0], interval, once)
        except KeyboardInterrupt:
            click.echo(err=True)
    finally:
        for books in found:
            books.close()
    ctx.exit(FINE)


def _watch(console: Console, books: Books, interval: float, once: bool) -> None:
    """Show one picture after the other, until there is no more to be seen."""
    before = take(books.read())
    if once or not console.is_terminal:
        while True:
            now = _next(books, interval)
            if now is None:
                break
            console.print(frame(books, before, now))
            before = now
            if once:
                return
    else:
        with Live(frame(books, before, before), console=console, auto_refresh=False, screen=False) as live:
            while (now := _next(books, interval)) is not None:
                live.update(frame(books, before, now), refresh=True)
                before = now
    console.print(f"{books.ended}.")


def _next(books: Books, interval: float) -> Reading | None:
    """A reading after a while; None when the pool has ended."""
    time.sleep(interval)
    return None if books.ended else take(books.read())
