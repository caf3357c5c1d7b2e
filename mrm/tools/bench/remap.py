"""The command ``mrm bench remap``."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrm.errors import Error
from mrm.sizes import format_size, parse_size
from mrm.system.pages import FRAME_SIZE

if TYPE_CHECKING:
    from mrm.tools.bench.figures import Result


def _threads(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        threads = sorted({int(word) for word in value.split(",")})
    except ValueError:
        threads = [-1]
    if threads[0] < 0:
        raise click.BadParameter("numbers of threads, such as 0,1,2")
    return threads


def _size(context: click.Context, parameter: click.Parameter, value: str) -> int:
    try:
        nbytes = parse_size(value)
    except Error as refusal:
        raise click.BadParameter(str(refusal)) from refusal
    least = 16 * FRAME_SIZE
    if nbytes < least or nbytes & (nbytes - 1):
        raise click.BadParameter(f"a power of two, {format_size(least).replace(' ', '')} or more")
    return nbytes


@click.command("remap")
@click.option("--threads", default="0,1,2", show_default=True, callback=_threads,
              help="Numbers of mutator threads to measure beside, by commas.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True,
              help="How often each lane gets a window; medians are reported.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), default=0.2, show_default=True,
              help="How long a window lasts at least.")  # fmt: skip
@click.option("--size", default="1GiB", show_default=True, callback=_size,
              help="Frames that are relocated, and as much again for the mutators' heap.")  # fmt: skip
@click.option("--flip-up-to", default="8GiB", show_default=True, callback=_size,
              help="Largest pool to flip; from 1 GiB up, doubling, while huge pages last.")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
              help="Write the figures here as JSON; - is the standard output.")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path, file_okay=False),
              help="Write report.html, with plots, and report.json into this folder.")  # fmt: skip
@click.option("--check", is_flag=True, help="Compare with the targets; exit 1 where one is missed.")
def command(
    threads: list[int],
    rounds: int,
    seconds: float,
    size: int,
    flip_up_to: int,
    json_path: Path | None,
    report: Path | None,
    check: bool,
) -> None:
    """What it costs to relocate a huge page, lane by lane, on this machine.

    Every way that there is, side by side in one run: the kernel's calls as anybody has
    them, mrm's batches and views, and the system calls of the latter made by hand.
    Mutator threads read at random meanwhile; the table says what is left of them, and
    how many TLB shootdowns a page costs. The lanes take turns, round after round, and
    what you see is the median.

    It wants two times --size in huge pages, and the largest flip besides: as root,
    `mrm fund 9GiB`. With fewer it measures what it can, and says so.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn

    from mrm.tools.bench import table
    from mrm.tools.bench.run import run
    from mrm.tools.bench.targets import TARGETS

    out = Console(stderr=str(json_path) == "-")
    if not out.is_terminal:
        out.width = 120
    with Progress(
        "{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
        # No thread of its own: it would run among the mutators, and be shot at with them.
        auto_refresh=False,
    ) as bar:  # fmt: skip
        task = bar.add_task("funding the frames", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{what:<32}", completed=done, total=total, refresh=True)

        result = run(threads, rounds, seconds, size, flip_up_to, advance)
    table.show(result, out)
    if json_path is not None:
        _write_json(result, json_path)
    if report is not None:
        from mrm.tools.bench.report import write

        out.print(f"Report: {write(result, report)}", soft_wrap=True)
    if check:
        out.print(table.targets_table(result))
        if not all(target.holds(result) for target in TARGETS):
            raise click.exceptions.Exit(1)


def _write_json(result: "Result", path: Path) -> None:
    text = json.dumps(result.to_json(), indent=1)
    if str(path) == "-":
        click.echo(text)
    else:
        path.write_text(text + "\n")
