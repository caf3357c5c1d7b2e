"""``mrm fund``: has the kernel set huge pages aside, and give them back."""

import dataclasses
import json
from pathlib import Path

import click

from mrm.errors import ArgumentError
from mrm.physical.cgroups import ROOT
from mrm.physical.kernelpool import Outcome, persistent_setting, raise_available, release, why_not_all
from mrm.sizes import format_size, parse_size
from mrm.system.pages import frame_size
from mrm.tools.cli import FINE, FOUND, IMPOSSIBLE


class SizeType(click.ParamType[int]):
    """A size such as 2GiB, as bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse it, or fail with what a size looks like."""
        try:
            return parse_size(value)  # type: ignore[arg-type]
        except ArgumentError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("size", type=SizeType())
@click.option("--node", type=click.IntRange(0), metavar="N", help="On NUMA node N.  [default: wherever]")
@click.option("--persist", is_flag=True, help="Write the setting down, so that it holds after a reboot.")
@click.option("--release", "give_back", is_flag=True, help="Give SIZE back instead, of what is free.")
@click.option("--json", "as_json", is_flag=True, help="Print figures for programs.")
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, hidden=True)
@click.pass_context
def command(
    ctx: click.Context,
    size: int,
    node: int | None,
    persist: bool,
    give_back: bool,
    as_json: bool,
    root: Path,
) -> None:
    """Have the kernel set huge pages aside, so that SIZE of them is free.

    Pages that are free already count: asking twice changes nothing. Nothing is ever
    lowered, except with --release. Needs root. Do it soon after the boot, while memory
    is in one piece.

    \b
    Examples:
      mrm fund 2GiB               1024 pages of 2 MiB are free afterwards
      mrm fund 2GiB --persist     ... and after every boot
      mrm fund 8GiB --node 1      ... on NUMA node 1
      mrm fund --release 2GiB     give 2 GiB back to the system

    \b
    Exit status: 0 done; 1 fewer than asked for; 2 usage; 3 no right to, or no huge pages
    in this kernel.
    """
    if persist and give_back:
        raise click.UsageError("--persist and --release exclude each other")
    outcome = (release if give_back else raise_available)(size, node, root)
    done = -outcome.added >= outcome.wanted if give_back else outcome.enough
    file, line = persistent_setting(outcome, root)
    written = None
    if persist and not outcome.refused:
        written = _persist(root / file, line)
    if as_json:
        click.echo(json.dumps(_figures(outcome, done, file, line, written, root), indent=2))
    elif give_back:
        _tell_release(outcome, done)
    else:
        _tell(outcome, file, line, written, root)
    ctx.exit(FINE if done else IMPOSSIBLE if outcome.refused else FOUND)


def _persist(path: Path, line: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Written by `mrm fund --persist`.\n{line}")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    return str(path)


def _figures(
    outcome: Outcome, done: bool, file: str, line: str, written: str | None, root: Path
) -> dict[str, object]:
    return {
        "done": done,
        "page_size": frame_size(),
        "wanted": outcome.wanted,
        "added": outcome.added,
        "node": outcome.node,
        "before": dataclasses.asdict(outcome.before),
        "after": dataclasses.asdict(outcome.after),
        "reason": None if done else why_not_all(outcome, root),
        "persist": {"file": f"/{file}", "line": line.strip(), "written": written},
    }


def _tell(outcome: Outcome, file: str, line: str, written: str | None, root: Path) -> None:
    """What was got, why not all, and how to keep it."""
    where = "" if outcome.node is None else f" on node {outcome.node}"
    free = f"{format_size(outcome.after.available * frame_size())} of huge pages are free{where}"
    count = f"{outcome.after.available} of {outcome.after.total}"
    if outcome.added:
        click.echo(f"{free} ({count}); {outcome.added} were added.")
    else:
        click.echo(f"{free} ({count}); nothing was changed.")
    if not outcome.enough:
        click.echo(why_not_all(outcome, root), err=True)
    if written:
        click.echo(f"Written to {written}: it holds after every boot.")
    elif not outcome.refused:
        click.echo(f"To have it after every boot, put this into /{file} (--persist does):\n  {line.strip()}")


def _tell_release(outcome: Outcome, done: bool) -> None:
    click.echo(
        f"{format_size(-outcome.added * frame_size())} given back; {outcome.after.total} huge pages are left, "
        f"{outcome.after.available} of them free."
    )
    if not done:
        click.echo(outcome.refused or "The others are in use, or not there.", err=True)
