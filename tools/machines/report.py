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

from tools.machines.boot import Machine, in_words
from tools.machines.lineup import LINEUP
from tools.machines.matrix import Row
from tools.machines.suites import SUITES, suite_of

_LEGEND = "tests that passed, x failed, - skipped"


def show(rows: list[Row], console: Console) -> None:
    """Print the table, what failed, and why tests were skipped."""
    columns = _in_order(name for row in rows for name in (*row.suites, *row.entry.suites))
    table = Table(box=box.SIMPLE_HEAD, title=f"machines by suites: {_LEGEND}", title_justify="left")
    for name in ("machine", "kernel", *columns):
        table.add_column(name)
    for row in rows:
        style = "" if row.passed else "red"
        cells = [_cell(asdict(row.suites[name]) if name in row.suites else None) for name in columns]
        table.add_row(row.entry.name, _kernel(row), *cells, style=style)
    print_whole(table, console)
    for row in rows:
        for panic in row.panics:
            console.print(
                f"{row.entry.name}: run again, since at first: {panic}", markup=False, highlight=False
            )
        for test, said in row.earlier.items():
            console.print(f"{row.entry.name}: {test} had failed before that", markup=False, highlight=False)
            console.print(said.rstrip()[-1500:], style="dim", markup=False, highlight=False)
        if row.outcome and row.outcome.boots > 1:
            console.print(f"{row.entry.name}: came up at boot {row.outcome.boots}", markup=False)
        for test, said in row.failures.items():
            console.print(f"[red]{escape(row.entry.name)}: {escape(test)}[/]")
            console.print(said.rstrip()[-1500:], style="dim", markup=False, highlight=False)
    skipped = _by_reason((row.entry.name, c.reasons) for row in rows for c in row.suites.values())
    console.print("Skipped:" if skipped else "Nothing was skipped.")
    for reason, where in skipped.items():
        console.print(f"- {reason} ({where})", markup=False, highlight=False)
    failed = sum(not row.passed for row in rows)
    console.print(f"\n{len(rows) - failed} of {len(rows)} machines passed.")


def print_whole(table: Table, console: Console) -> None:
    """Print a table as wide as it is: a log has 80 columns to rich, which would leave three letters of each."""
    width = console.width
    console.width = max(width, console.measure(table, options=console.options.update(max_width=1000)).maximum)
    console.print(table)
    console.width = width


def page(found: dict[str, Any]) -> str:
    """What ``as_json`` or ``merged`` made, in Markdown, with what each machine was."""
    machines = found["machines"]
    columns = _in_order(name for machine in machines for name in machine["suites"])
    lines = [
        f"| machine | kernel | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for machine in machines:
        cells = [_cell(machine["suites"].get(name)) for name in columns]
        lines.append(f"| {machine['name']} | {machine['kernel']} | {' | '.join(cells)} |")
    lines += ["", "What each machine is, and when it was tried:", ""]
    lines += ["| machine | what it is for | made of | tried | at |", "|---|---|---|---|---|"]
    for m in machines:
        tried = f"{m['when'][:10]} | {', '.join(dict.fromkeys(s['commit'] for s in m['suites'].values()))}"
        lines.append(f"| {m['name']} | {m['why']} | {in_words(_machine(m))} | {tried} |")
    failures = [
        f"- {machine['name']}: `{test}`: {said.strip().splitlines()[-1] if said.strip() else 'no word'}"
        for machine in machines
        for test, said in machine["failures"].items()
    ]
    if failures:
        lines += ["", "Failed:", "", *failures]
    skipped = _by_reason((m["name"], suite["reasons"]) for m in machines for suite in m["suites"].values())
    lines += ["", "Skipped, and why:", ""]
    lines += [f"- {reason} ({where})" for reason, where in skipped.items()]
    return "\n".join(lines) + "\n"


def as_json(rows: list[Row], commit: str = "") -> dict[str, Any]:
    """The same for programs.

    Parameters
    ----------
    rows : list of Row
        What came of the machines.
    commit : str, optional
        What was tried.
    """
    when = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "passed": all(row.passed for row in rows),
        "machines": [
            {
                "name": row.entry.name,
                "why": row.entry.why,
                "made_of": asdict(row.entry.machine),
                "kernel": _kernel(row),
                "when": when,
                "host_kernel": platform.release(),
                "python": platform.python_version(),
                "boot_seconds": None if row.outcome is None else round(row.outcome.boot_seconds, 1),
                "seconds": None if row.outcome is None else round(row.outcome.seconds, 1),
                "boots": None if row.outcome is None else row.outcome.boots,
                "panics": row.panics,
                "failed_before_panics": row.earlier,
                "status": None if row.outcome is None else row.outcome.status,
                "passed": row.passed,
                "suites": {name: asdict(counts) | {"commit": commit} for name, counts in row.suites.items()},
                "failures": row.failures,
            }
            for row in rows
        ],
    }


def merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What is known of every suite on every machine of the line-up: from now, or else from before."""
    known = {machine["name"]: machine for machine in before["machines"]}
    for machine in now["machines"]:
        old = known.get(machine["name"], machine)
        suites = old["suites"] | machine["suites"]
        kept = {
            test: said for test, said in old["failures"].items() if suite_of(test) not in machine["suites"]
        }
        failures = {test: said for test, said in kept.items() if "::" in test} | machine["failures"]
        passed = not failures and any(suite["passed"] for suite in suites.values())
        known[machine["name"]] = machine | {"suites": suites, "failures": failures, "passed": passed}
    machines = [known[entry.name] for entry in LINEUP if entry.name in known]
    return {"passed": all(machine["passed"] for machine in machines), "machines": machines}


def _in_order(names: Iterable[str]) -> list[str]:
    """Suites, each once, in the order of their table."""
    used = set(names)
    return [*(name for name in SUITES if name in used), *sorted(used - SUITES.keys())]


def _cell(counts: dict[str, int] | None) -> str:
    if counts is None:
        return ""
    words = [str(counts["passed"])]
    if counts["failed"]:
        words.append(f"x {counts['failed']}")
    if counts["skipped"]:
        words.append(f"- {counts['skipped']}")
    return " ".join(words)


def _machine(found: dict[str, Any]) -> Machine:
    """A machine as JSON has it: its tuples are lists there."""
    made_of: dict[str, Any] = found["made_of"]
    for name, value in made_of.items():
        if isinstance(value, list):
            made_of = made_of | {name: tuple(value)}
    return Machine(**made_of)


def _kernel(row: Row) -> str:
    return row.outcome.kernel.removesuffix("-cloud-amd64") if row.outcome else "did not boot"


def _by_reason(skipped: Iterable[tuple[str, dict[str, int]]]) -> dict[str, str]:
    """Machines and numbers of tests, by the reason for which they were skipped."""
    found: dict[str, dict[str, int]] = {}
    for name, reasons in skipped:
        for reason, count in reasons.items():
            where = found.setdefault(reason, {})
            where[name] = where.get(name, 0) + count
    return {reason: ", ".join(f"{n}: {c}" for n, c in where.items()) for reason, where in found.items()}
