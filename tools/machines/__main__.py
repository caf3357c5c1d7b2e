"""The command line: ``python -m tools.machines``, from a checkout's top folder."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tools.machines.boot import Machine, boot
from tools.machines.cache import cache
from tools.machines.kernels import at_hand, fetch
from tools.machines.lineup import LINEUP, Entry
from tools.machines.matrix import Row, prepare, run_matrix
from tools.machines.needs import MachineError, install
from tools.machines.report import as_json, merged, page, show
from tools.machines.suites import SUITES

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_IMPOSSIBLE = 3


@click.group(context_settings=_CONTEXT)
def main() -> None:
    """Boot machines with other kernels, more processors, several nodes, and limits.

    QEMU emulates them in software, over this machine's own files: a boot takes seconds,
    Python runs some seventeen times slower inside, and nothing that happens there
    changes anything here. Takes root, and Debian's packages qemu-system-x86 (with
    virtiofsd) and busybox-static, which are installed if they are missing. Kernels are
    kept in $MRM_CACHE, or ~/.cache/mrm.
    """


@main.command(context_settings={"ignore_unknown_options": True})
@click.option("--kernel", default="6.18", show_default=True, help="The beginning of its version, or newest.")
@click.option("--processors", default=2, show_default=True)
@click.option("--nodes", default=1, show_default=True, help="NUMA nodes.")
@click.option("--memory", default="3GiB", show_default=True, help="Of all nodes together.")
@click.option("--hugepages", default="320", show_default=True, help="A number, or 0:80,1:20 by node.")
@click.option("--word", "words", multiple=True, help="One more word of the kernel's command line.")
@click.option("--setup", multiple=True, help="A shell line that is run inside first.")
@click.option("--balloon", is_flag=True, help="A virtio balloon; $MRM_BALLOON inside is where to ask for it.")
@click.option("--seconds", default=600.0, show_default=True, help="After which it is ended.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, command: tuple[str, ...], seconds: float, **made_of: Any) -> None:
    """Run COMMAND as root on one machine, here; its exit status is this one's.

    \b
    Example:
      python -m tools.machines run --kernel 5.10 -- .venv/bin/mrm doctor
    """
    try:
        install()
        outcome = boot(Machine(**made_of), command, seconds=seconds)
    except MachineError as error:
        raise click.ClickException(str(error)) from error
    if not outcome.boot_seconds:
        click.echo(outcome.console, err=True)
    ctx.exit(outcome.status)


@main.command()
def kernels() -> None:
    """Say which kernels are at hand."""
    for found in at_hand():
        click.echo(found.version)


@main.command("fetch")
@click.argument("wanted", nargs=-1, required=True)
def fetch_command(wanted: tuple[str, ...]) -> None:
    """Fetch kernels by the beginning of their version: 6.1 is not 6.12."""
    try:
        for name in wanted:
            click.echo(fetch(name))
    except MachineError as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option("--only", multiple=True, metavar="NAME", help="Machines by name; may be given again.")
@click.option("--suite", "suites", multiple=True, type=click.Choice(list(SUITES)), help="Only these suites.")
@click.option("--quick", is_flag=True, help="Only the machines that CI has the time for.")
@click.option("--if-possible", is_flag=True, help="Succeed, and say why, where no machine can be booted.")
@click.option("--jobs", default=2, show_default=True, help="Machines at a time.")
@click.option("--seconds", default=3000.0, show_default=True, help="For one machine; then it is ended.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write what came of it there.")
@click.option(
    "--page",
    "page_file",
    type=click.Path(path_type=Path),
    help="Put it on this page, beside what is known of the machines that were not tried now.",
)
@click.option("--list", "only_list", is_flag=True, help="Say which machines there are, and why.")
@click.option("-k", "expression", default="", help="Only the tests that pytest's -k chooses.")
@click.pass_context
def matrix(
    ctx: click.Context,
    only: tuple[str, ...],
    suites: tuple[str, ...],
    quick: bool,
    if_possible: bool,
    jobs: int,
    seconds: float,
    json_file: Path | None,
    page_file: Path | None,
    only_list: bool,
    expression: str,
) -> None:
    """Run the test suite on every machine of the line-up.

    \b
    Examples:
      python -m tools.machines matrix --list
      python -m tools.machines matrix --only 5.10 --suite space
      python -m tools.machines matrix --json machines.json

    \b
    Exit status: 0 all passed; 1 something failed; 3 no machine can be booted here.
    """
    console = Console()
    entries = _chosen(only, suites, quick)
    if only_list:
        for entry in entries:
            console.print(f"[bold]{entry.name:16}[/] {entry.why}", highlight=False)
        return
    try:
        install()
        prepare()
    except MachineError as error:
        console.print(f"[bold red]The matrix was not run.[/] {error}", highlight=False)
        ctx.exit(0 if if_possible else _IMPOSSIBLE)
    commit = _commit()
    log = cache() / "output"
    log.mkdir(exist_ok=True)
    arguments = ["-k", expression] if expression else []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {entry.name: progress.add_task(f"{entry.name}: waits", total=None) for entry in entries}

        def told(entry: Entry, what: str, done: int, of: int) -> None:
            task = tasks[entry.name]
            progress.update(task, description=f"{entry.name}: {what}", completed=done, total=of or None)
            if what != "running" and not console.is_terminal:
                click.echo(f"{entry.name}: {what}" + (f", {done} tests" if done else ""))

        rows: list[Row] = []
        for row in run_matrix(entries, jobs=jobs, seconds=seconds, told=told, log=log, arguments=arguments):
            # At once: a run that is ended half way has said what it knows.
            rows = sorted([*rows, row], key=lambda row: entries.index(row.entry))
            _keep(as_json(rows, commit), json_file, page_file)
    show(rows, console)
    console.print(f"What each machine printed lies in {log}", style="dim", highlight=False)
    ctx.exit(0 if all(row.passed for row in rows) else 1)


def _chosen(only: tuple[str, ...], suites: tuple[str, ...], quick: bool) -> list[Entry]:
    """The entries that were asked for, with the suites that were asked for."""
    names = {entry.name for entry in LINEUP}
    if set(only) - names:
        raise click.BadParameter(f"no machine {', '.join(set(only) - names)}: there are {', '.join(names)}")
    chosen = [e for e in LINEUP if (not only or e.name in only) and (e.quick or not quick)]
    if suites:
        kept = [(e, tuple(name for name in e.suites if name in suites)) for e in chosen]
        chosen = [Entry(e.name, e.why, e.machine, s, e.quick) for e, s in kept if s]
    return chosen


def _keep(found: dict[str, Any], json_file: Path | None, page_file: Path | None) -> None:
    """Write what was found to where it was asked for; a page keeps what it has of other machines."""
    if json_file:
        json_file.write_text(json.dumps(found, indent=2) + "\n")
    if page_file:
        data = page_file.with_suffix(".json")
        if data.exists():
            found = merged(json.loads(data.read_text()), found)
        _write_page(page_file, page(found))
        data.write_text(json.dumps(found, indent=2) + "\n")


def _commit() -> str:
    """What is tried: the checkout's commit, with a + if it has changes; empty where there is no git."""
    asked = ["git", "describe", "--always", "--dirty=+", "--abbrev=9"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


_BEGIN, _END = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"


def _write_page(path: Path, text: str) -> None:
    """Put the table where the page has room for it."""
    before, begin, rest = path.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise click.ClickException(f"{path} has no lines {_BEGIN.strip()} and {_END.strip()}")
    path.write_text(before + begin + text + end + after)


if __name__ == "__main__":
    # Ended from outside, it tidies up as after an exception: folders go, machines with them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
