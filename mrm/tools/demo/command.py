"""``mrm demo``: the command line of ``run``."""

import json
import warnings
from pathlib import Path

import click
from rich.console import Console

from mrm.errors import ArgumentError, BackingWarning
from mrm.sizes import format_size, parse_size
from mrm.tools.cli import FINE, FOUND
from mrm.tools.demo.results import Outcome

SMALLEST = 128 << 20


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        nbytes = parse_size(value)
    except ArgumentError as refusal:
        raise click.BadParameter(str(refusal)) from refusal
    if nbytes < SMALLEST:
        raise click.BadParameter(f"{format_size(SMALLEST)} or more")
    return nbytes


@click.command()
@click.option("--size", default="1GiB", show_default=True, callback=_size, help="Of the pool.")
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=5.0, show_default=True, help="How long mutators work."
)
@click.option(
    "--mutators", type=click.IntRange(1, 8), default=2, show_default=True, help="Threads that read and write."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the mutators' operations."
)
@click.option("--live", type=click.FloatRange(0.1, 0.8), default=0.65, show_default=True,
              help="Share of the pool that live objects fill.")  # fmt: skip
@click.option("--jitter", type=click.IntRange(0), default=0, show_default=True, metavar="N",
              help="One operation in N yields the processor half way, to provoke races.")  # fmt: skip
@click.option("--huge", type=click.Choice(["prefer", "require", "off"]), default="prefer", show_default=True,
              help="Huge pages: if there are any, or nothing else, or none.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"),
              show_default=True, metavar="DIR", help="Where the report goes.")  # fmt: skip
@click.option("--no-report", is_flag=True, help="Write none.")
@click.option("--prove/--no-prove", default=True, show_default=True,
              help="Let a process of its own die of a stale access, to prove that it traps.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the figures for programs, and nothing else.")
@click.pass_context
def command(
    ctx: click.Context,
    size: int,
    seconds: float,
    mutators: int,
    seed: int,
    live: float,
    jitter: int,
    huge: str,
    report: Path,
    no_report: bool,
    prove: bool,
    as_json: bool,
) -> None:
    """Move pages under working threads, and prove that nothing is lost.

    Mutator threads read, write and replace stamped objects, while a relocator works as a
    pauseless collector does: cycle after cycle it moves the whole pool to a new view,
    retires the old one, so that stale addresses trap, and empties the sparsest frames,
    which are used again at once. Objects are copied by whoever needs them first, and no
    mutator ever waits. Afterwards every object and every write is checked.

    Ctrl-C ends it early; the checks are made all the same.

    \b
    Examples:
      mrm demo                          five seconds on 1 GiB
      mrm demo --size 4GiB --seconds 60
      mrm demo --jitter 50              provoke races
      mrm demo --json --no-report       figures for a script

    \b
    Exit status: 0 all checks held; 1 one did not; 2 usage; 3 the pool could not be had.
    """
    outcome = _demo(size, seconds, mutators, seed, live, jitter, huge, prove, Console(stderr=as_json))
    page = None
    if not no_report:
        from mrm.tools.demo.report import write

        page = write(outcome, report)
    if as_json:
        click.echo(json.dumps(outcome.figures() | {"report": str(page) if page else None}, indent=2))
    elif page:
        click.echo(f"Report: {page}")
    ctx.exit(FINE if outcome.held else FOUND)


def _demo(
    size: int,
    seconds: float,
    mutators: int,
    seed: int,
    live: float,
    jitter: int,
    huge: str,
    prove: bool,
    out: Console,
) -> Outcome:
    """Run it, watched on a terminal; told in words unless they were not asked for."""
    from mrm import Pool
    from mrm.tools.demo.display import Watching, summary
    from mrm.tools.demo.run import run
    from mrm.tools.demo.stale import prove as prove_stale
    from mrm.tools.demo.words import setting, stale_access, verdict

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", BackingWarning)
        pool = Pool(size, huge=huge, name="mrm demo")
    with pool, Watching(out, len(pool), seconds) as watching:
        outcome = run(
            pool, seconds=seconds, mutators=mutators, seed=seed, live=live, jitter=jitter, watch=watching
        )
    outcome.notes += [str(warning.message) for warning in caught]
    if prove:
        outcome.stale = prove_stale(huge)
    if not out.stderr:
        out.print(setting(outcome), soft_wrap=True)
        for note in outcome.notes:
            out.print(f"Note: {note}", style="yellow", soft_wrap=True)
        summary(outcome, out)
        if outcome.stale is not None:
            out.print(stale_access(outcome.stale), soft_wrap=True)
        out.print(verdict(outcome), style="bold green" if outcome.held else "bold red", soft_wrap=True)
    return outcome
