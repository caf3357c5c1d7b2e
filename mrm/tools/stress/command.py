"""``mrm stress``: the command line of ``race.run``."""

import dataclasses
import faulthandler
import json
import time

import click
from rich.console import Console

from mrm.errors import ArgumentError
from mrm.sizes import parse_size
from mrm.tools.cli import FINE, FOUND


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        return parse_size(value)
    except ArgumentError as refusal:
        raise click.BadParameter(str(refusal)) from refusal


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1), default=10.0, show_default=True, help="How long.")
@click.option("--steps", type=click.IntRange(1), help="So many steps of each thread, instead of a time.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="What the threads do follows from it.  [default: another each time]",
)
@click.option("--threads", type=click.IntRange(1, 64), default=8, show_default=True,
              help="Half of them map, half of them race for frames.")  # fmt: skip
@click.option("--size", default="128MiB", show_default=True, callback=_size, help="Of the pool.")
@click.option("--huge", type=click.Choice(["prefer", "require", "off"]), default="prefer", show_default=True,
              help="Huge pages: if there are any, or nothing else, or none.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for programs.")
@click.pass_context
def command(
    ctx: click.Context,
    seconds: float,
    steps: int | None,
    seed: int | None,
    threads: int,
    size: int,
    huge: str,
    as_json: bool,
) -> None:
    """Race threads on a pool for as long as you like, and check it all.

    Threads take and give frames, map, move, alias, swap, protect and unmap them, on
    reservations of their own and on a shared one, open and retire views, and check what
    every address shows by stamps in the frames. At the end the reservations are compared
    with /proc/self/maps, and the pool is audited.

    \b
    Examples:
      mrm stress                        ten seconds
      mrm stress --seconds 3600
      mrm stress --seed 7 --steps 500   the same again

    \b
    Exit status: 0 all is well; 1 something broke, and it says what; 2 usage; 3 the pool
    could not be had.
    """
    from mrm.tools.stress.race import run

    faulthandler.enable()
    seed = time.time_ns() % 1_000_000 if seed is None else seed
    out = Console(stderr=as_json)
    out.print(f"seed {seed}, {threads} threads")
    with out.status("starting") as status:

        def progress(done: int, gone: float) -> None:
            status.update(f"{gone:.0f} s, {done:,} steps")

        outcome = run(
            None if steps else seconds,
            steps,
            seed=seed,
            threads=threads,
            size=size,
            huge=huge,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(outcome), indent=2))
    for broken in outcome.broken:
        out.print(f"BROKEN: {broken}", style="bold red", soft_wrap=True, markup=False)
    out.print(
        f"{outcome.steps:,} steps, and {outcome.frame_operations:,} takes and gives without the GIL, "
        f"in {outcome.seconds:.1f} s on {outcome.backing} pages"
        f"{' (interrupted)' if outcome.interrupted else ''}"
        f"{'' if outcome.broken else ': every stamp, every slot, the kernel mappings and the books agree'}",
        soft_wrap=True,
    )
    ctx.exit(FOUND if outcome.broken else FINE)
