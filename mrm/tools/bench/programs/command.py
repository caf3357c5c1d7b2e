"""The command ``mrm bench programs``."""

import sys
from pathlib import Path

import click

from mrm.tools.bench.options import finish, outputs, progress, size, terminal
from mrm.tools.bench.programs.lineup import PROGRAMS, SETUPS, Setup

LEAST_GATHERED = 1 << 20


def _chosen(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str]:
    """Names by semicolons or commas, of those that there are; all of them when none is given."""
    known = [each.name for each in (SETUPS if parameter.name == "setups" else PROGRAMS)]
    if value is None:
        return known
    asked = {name.strip() for name in value.split(";" if ";" in value else ",") if name.strip()}
    if not asked or asked - set(known):
        raise click.BadParameter(
            f"names of {'; '.join(known)}, not {'; '.join(sorted(asked - set(known))) or 'none'}"
        )
    return [name for name in known if name in asked]


@click.command("programs")
@click.option("--programs", callback=_chosen, help="Only these programs, by commas; all when not given.")
@click.option("--setups", callback=_chosen, help="Only these setups, by commas; all when not given.")
@click.option("--gather", default="4GiB", show_default=True,
              callback=size(LEAST_GATHERED, "; --programs leaves one out"),
              help="Size of the array that elements are gathered from.")  # fmt: skip
@click.option("--lookups", type=click.IntRange(1000), default=5_000_000, show_default=True,
              help="Keys of the dict that is looked up in.")  # fmt: skip
@click.option("--collect", type=click.IntRange(1000), default=20_000_000, show_default=True,
              help="Objects that the garbage collector looks at.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True,
              help="Processes for each figure; medians are reported.")  # fmt: skip
@click.option("--python", default=sys.executable, metavar="PATH",
              help="The interpreter to measure; this one when not given.")  # fmt: skip
@outputs
def command(
    programs: list[str],
    setups: list[str],
    gather: int,
    lookups: int,
    collect: int,
    repeats: int,
    python: str,
    json_path: Path | None,
    report: Path | None,
    check: bool,
) -> None:
    """Python programs as they are, and with their memory on huge pages, one way and another.

    Three programs that wait for the TLB: a random gather from a NumPy array, lookups in a dict in no order,
    and gc.collect() over many objects. Each runs in the plain interpreter; under `mrm run`; with
    transparent huge pages for every process; on glibc's malloc with huge pages; on mimalloc's; and with
    CPython's own huge page arenas, where the interpreter has them. Beside the seconds stands
    which share of the memory really lay on huge pages, as the kernel tells.

    \b
    Examples:
      mrm bench programs --report programs       all of it, with a plot: an hour
      mrm bench programs --programs lookups --setups plain,mrm,thp
      mrm bench programs --gather 64MiB --lookups 100000 --collect 200000 --repeats 1

    It takes 6 GiB of memory. Root is needed for huge pages to be lent to the setups that take them, and for
    the setting of transparent huge pages; both come back as they were, after kill -9, too. What
    cannot be had is named and left out.

    JSON: {"programs": [{"program", "setup", "seconds", "spread", "huge_share"}], "machine", "sizes",
    "missing", "notes", "stopped"}.

    Ctrl-C ends it early, with the figures of the rounds that were complete.
    """
    from mrm.tools.bench.programs.run import run

    sizes = {"gather": gather, "lookups": lookups, "collect": collect}
    chosen: list[Setup] = [setup for setup in SETUPS if setup.name in setups]
    out = terminal(json_path)
    with progress("looking for setups") as advance:
        result = run(
            python, {p: sizes[p.name] for p in PROGRAMS if p.name in programs}, chosen, repeats, advance
        )
    finish("mrm.tools.bench.programs", result, out, json_path, report, check, stopped=result.stopped)
