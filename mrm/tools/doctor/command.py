"""``mrm doctor``: shows the findings, for people or as JSON."""

import dataclasses
import itertools
import json

import click

from mrm.tools.cli import FINE, FOUND
from mrm.tools.doctor.finding import PROBLEM, STATUSES, WARNING, Finding
from mrm.tools.doctor.findings import findings

_MARKS = {
    "ok": "[green]ok[/]",
    "note": "[dim]--[/]",
    "warning": "[yellow]!![/]",
    "problem": "[bold red]XX[/]",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print all findings for programs.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine offers, and what stands in the way.

    Looks at huge pages, limits, control groups, rights, the hypervisor, and tries the features of the
    kernel that mrm is made of, in a process of its own. Changes nothing; takes one or
    two free huge pages for a moment.

    \b
    Marks:
      ok  as it should be
      --  good to know
      !!  works, but less well than it could
      XX  mrm does not do its job like this

    \b
    Examples:
      mrm doctor
      mrm doctor --json | jq '.findings[] | select(.status == "problem")'

    \b
    Exit status: 0 no problem; 1 at least one XX.
    """
    found = findings()
    if as_json:
        counts = {status: sum(f.status == status for f in found) for status in STATUSES}
        click.echo(
            json.dumps({"counts": counts, "findings": [dataclasses.asdict(f) for f in found]}, indent=2)
        )
    else:
        show(found)
    ctx.exit(FOUND if any(f.status == PROBLEM for f in found) else FINE)


def show(found: list[Finding]) -> None:
    """Print findings as tables, one a topic, and a line that sums up."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    width = min(40, max(len(finding.name) for finding in found))
    for topic, lines in itertools.groupby(found, key=lambda f: f.topic):
        console.print(f"\n[bold]{topic}[/]")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(width=2)
        table.add_column(width=width, overflow="fold")
        table.add_column(overflow="fold")
        for finding in lines:
            said = escape(_words(finding.value))
            if finding.advice:
                said += f"\n[dim]{escape(finding.advice)}[/]"
            table.add_row(_MARKS[finding.status], escape(finding.name), said)
        console.print(table)
    problems = sum(f.status == PROBLEM for f in found)
    warnings = sum(f.status == WARNING for f in found)
    console.print(f"\n{_count(problems, 'problem')}, {_count(warnings, 'warning')}.")


def _words(value: str | int | bool | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _count(n: int, what: str) -> str:
    return f"{n or 'no'} {what}{'' if n == 1 else 's'}"
