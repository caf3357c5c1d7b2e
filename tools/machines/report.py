"""What came of the machines: a table for a terminal, a page for people, JSON for programs.

A cell is ``passed``, with ``failed`` and ``skipped`` behind it where there are any. What
was skipped is said below, with its reason and on which machines: a test that does not
run proves nothing.
"""

import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tools.machines.boot import in_words
from tools.machines.matrix import Counts, Row
from tools.machines.suites import SUITES

_LEGEND = "tests that passed, x failed, - skipped"


def show(rows: list[Row], console: Console) -> None:
    """Print the table, what failed, and why tests were skipped."""
    columns = _columns(rows)
    table = Table(box=box.SIMPLE_HEAD, title=f"machines by suites: {_LEGEND}", title_justify="left")
    for name in ("machine", "kernel", *columns):
        table.add_column(name)
    for row in rows:
        style = "" if row.passed else "red"
        cells = [_cell(row.suites.get(name)) for name in columns]
        table.add_row(row.entry.name, _kernel(row), *cells, style=style)
    console.print(table)
    for row in rows:
        for test, said in row.failures.items():
            console.print(f"[red]{escape(row.entry.name)}: {escape(test)}[/]")
            console.print(said.rstrip()[-1500:], style="dim", markup=False, highlight=False)
    console.print("Skipped:" if _skipped(rows) else "Nothing was skipped.")
    for reason, where in _skipped(rows).items():
        console.print(f"- {reason} ({where})", markup=False, highlight=False)
    failed = sum(not row.passed for row in rows)
    console.print(f"\n{len(rows) - failed} of {len(rows)} machines passed.")


def page(rows: list[Row]) -> str:
    """The same in Markdown, with what each machine was."""
    columns = _columns(rows)
    lines = [
        f"| machine | kernel | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        cells = [_cell(row.suites.get(name)) for name in columns]
        lines.append(f"| {row.entry.name} | {_kernel(row)} | {' | '.join(cells)} |")
    lines += ["", "What each machine is:", "", "| machine | what it is for | made of |", "|---|---|---|"]
    lines += [f"| {r.entry.name} | {r.entry.why} | {in_words(r.entry.machine)} |" for r in rows]
    failures = [
        f"- {row.entry.name}: `{test}`: {said.strip().splitlines()[-1] if said.strip() else 'no word'}"
        for row in rows
        for test, said in row.failures.items()
    ]
    if failures:
        lines += ["", "Failed:", "", *failures]
    lines += ["", "Skipped, and why:", ""]
    lines += [f"- {reason} ({where})" for reason, where in _skipped(rows).items()]
    return "\n".join(lines) + "\n"


def as_json(rows: list[Row]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {"kernel": platform.release(), "python": platform.python_version()},
        "passed": all(row.passed for row in rows),
        "machines": [
            {
                "name": row.entry.name,
                "why": row.entry.why,
                "made_of": asdict(row.entry.machine),
                "kernel": None if row.outcome is None else row.outcome.kernel,
                "boot_seconds": None if row.outcome is None else round(row.outcome.boot_seconds, 1),
                "seconds": None if row.outcome is None else round(row.outcome.seconds, 1),
                "status": None if row.outcome is None else row.outcome.status,
                "passed": row.passed,
                "suites": {name: asdict(counts) for name, counts in row.suites.items()},
                "skipped": row.skipped,
                "failures": row.failures,
            }
            for row in rows
        ],
    }


def _columns(rows: Iterable[Row]) -> list[str]:
    """Suites that any machine ran, in the order of their table."""
    used = {name for row in rows for name in (*row.suites, *row.entry.suites)}
    return [*(name for name in SUITES if name in used), *sorted(used - SUITES.keys())]


def _cell(counts: Counts | None) -> str:
    if counts is None or not counts:
        return ""
    words = [str(counts.passed)]
    if counts.failed:
        words.append(f"x {counts.failed}")
    if counts.skipped:
        words.append(f"- {counts.skipped}")
    return " ".join(words)


def _kernel(row: Row) -> str:
    return row.outcome.kernel.removesuffix("-cloud-amd64") if row.outcome else "did not boot"


def _skipped(rows: list[Row]) -> dict[str, str]:
    """Machines and numbers of tests, by reason."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for reason, count in row.skipped.items():
            found.setdefault(reason, []).append(f"{row.entry.name}: {count}")
    return {reason: ", ".join(where) for reason, where in found.items()}
