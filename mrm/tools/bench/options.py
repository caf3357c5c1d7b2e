"""What the commands of the group have in common: options, the bar that shows progress, what is done at the end."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mrm.errors import Error
from mrm.sizes import format_size, parse_size
from mrm.system.pages import FRAME_SIZE

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[str, int, int], None]


def _bytes(value: str) -> int:
    """A size in words as bytes."""
    try:
        return parse_size(value)
    except Error as refusal:
        raise click.BadParameter(str(refusal)) from refusal


def size(least: int, otherwise: str = "") -> Callable[..., int]:
    """What takes a size in words, of ``least`` bytes or more; ``otherwise``: what to do who wants less."""

    def parsed(context: click.Context, parameter: click.Parameter, value: str) -> int:
        nbytes = _bytes(value)
        if nbytes < least:
            raise click.BadParameter(f"{format_size(least).replace(' ', '')} or more{otherwise}")
        return nbytes

    return parsed


def power_of_two(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """A size in words as bytes, a power of two."""
    nbytes = _bytes(value)
    least = 16 * FRAME_SIZE
    if nbytes < least or nbytes & (nbytes - 1):
        raise click.BadParameter(f"a power of two, {format_size(least).replace(' ', '')} or more")
    return nbytes


def threads(least: int, most: int | None = None) -> Callable[..., list[int]]:
    """What takes numbers of threads, written with commas, from ``least`` to ``most``."""

    def parsed(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
        try:
            numbers = sorted({int(word) for word in value.split(",")})
        except ValueError:
            numbers = [least - 1]
        if numbers[0] < least or (most is not None and numbers[-1] > most):
            bounds = f"from {least}" if most is None else f"from {least} to {most}"
            raise click.BadParameter(f"numbers of threads {bounds}, such as {least},{least + 1}")
        return numbers

    return parsed


def frames(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """A size in words as bytes, whole frames."""
    nbytes = _bytes(value)
    if nbytes < FRAME_SIZE or nbytes % FRAME_SIZE:
        raise click.BadParameter(f"a multiple of {format_size(FRAME_SIZE).replace(' ', '')}")
    return nbytes


def json_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --json."""
    return click.option(
        "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
        help="Write the figures here as JSON; - is the standard output.",
    )(command)  # fmt: skip


def outputs(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --json, --report and --check."""
    for option in (
        click.option("--check", is_flag=True, help="Compare with the targets; exit 1 where one is missed."),
        click.option("--report", type=click.Path(path_type=Path, file_okay=False),
                     help="Write report.html, with plots, and report.json into this folder."),
        json_output,
    ):  # fmt: skip
        command = option(command)
    return command


def terminal(json_path: Path | None) -> "Console":
    """Where tables go: the standard output, if the JSON does not."""
    from rich.console import Console

    out = Console(stderr=str(json_path) == "-")
    if not out.is_terminal:
        out.width = 120
    return out


@contextmanager
def progress(beginning: str) -> Iterator[Advance]:
    """A bar on the terminal while something is measured; told what, how many steps are done, and of how many."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn

    with Progress(
        "{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
        # No thread of its own: it would run among the mutators, and be shot at with them.
        auto_refresh=False,
    ) as bar:  # fmt: skip
        task = bar.add_task(beginning, total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{what:<32}", completed=done, total=total, refresh=True)

        yield advance


def finish(
    package: str, result: Any, out: "Console", json_path: Path | None, report: Path | None, check: bool,
    *, stopped: bool = False,
) -> None:  # fmt: skip
    """Show what was measured, write what is to be written, and compare it with the targets.

    Parameters
    ----------
    package : str
        Where ``table``, ``report`` and ``targets`` of this benchmark are.
    result : object
        What was measured.
    out : Console
        Where tables go.
    json_path, report : Path or None
        Where the figures, and the report, are to be written.
    check : bool
        Whether to exit with 1 where a target is missed.
    stopped : bool, optional
        Whether Ctrl-C came before all was measured: the command ends by it when what there is is written.
    """
    import_module(f"{package}.table").show(result, out)
    if json_path is not None:
        write_json(result.to_json(), json_path)
    if report is not None:
        written = import_module(f"{package}.report").write(result, report)  # takes Matplotlib
        out.print(f"Report: {written}", soft_wrap=True)
    if check:
        from mrm.tools.bench.target import reached
        from mrm.tools.bench.verdicts import targets_table

        targets = import_module(f"{package}.targets").TARGETS
        out.print(targets_table(targets, result))
        if not stopped and not reached(targets, result):
            raise click.exceptions.Exit(1)
    if stopped:
        raise KeyboardInterrupt


def write_json(data: dict[str, Any], path: Path) -> None:
    """Write figures to a file, or to the standard output."""
    text = json.dumps(data, indent=1)
    if str(path) == "-":
        click.echo(text)
    else:
        path.write_text(text + "\n")
