"""What came of the wheels: a table, and JSON."""

from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from tools.machines.report import print_whole
from tools.wheels.make import Contents
from tools.wheels.pythons import Python
from tools.wheels.trial import Trial


@dataclass
class Row:
    """One Python's wheel.

    Attributes
    ----------
    python : Python
    contents : Contents or None
        What the wheel is, if it could be made.
    trial : Trial or None
        What came of its tests, if they were run.
    wrong : str
        What kept it from being made or tested.
    """

    python: Python
    contents: Contents | None = None
    trial: Trial | None = None
    wrong: str = ""

    @property
    def passed(self) -> bool:
        """Whether there is a wheel, it is as it should be, and no test failed."""
        made = self.contents is not None and not self.contents.wrong
        return made and not self.wrong and (self.trial is None or self.trial.good)


def show(rows: list[Row], console: Console) -> None:
    """Print the table, and what is wrong below it."""
    table = Table("Python", "C library", "wheel", "KiB", "passed", "failed", "skipped", "without a compiler")
    for row in rows:
        made, trial = row.contents, row.trial
        table.add_row(
            row.python.version + "t" * row.python.tag.endswith("t"),
            row.python.libc,
            made.tag if made else "[red]none[/]",
            str(made.kib) if made else "",
            *((str(trial.passed), str(trial.failed), str(trial.skipped)) if trial else ("", "", "")),
            trial.without_compiler if trial else "",
        )
    print_whole(table, console)
    for row in rows:
        name = f"[bold]{row.python.version} ({row.python.tag}, {row.python.libc})[/]"
        for sentence in [row.wrong, *(row.contents.wrong if row.contents else [])]:
            if sentence:
                console.print(f"{name}: [red]{sentence}[/]", highlight=False)
        if row.trial:
            for why, count in row.trial.reasons.items():
                console.print(f"{name}: {count} skipped: {why}", highlight=False, markup=True)
            if row.trial.missing:
                console.print(
                    f"{name}: no wheel of {', '.join(row.trial.missing)} for this Python", highlight=False
                )
            for test, why in row.trial.failures.items():
                console.print(f"{name}: [red]{test}[/]", highlight=False)
                console.print(why, markup=False, highlight=False)


def as_json(rows: list[Row]) -> dict[str, object]:
    """The same for programs."""
    return {
        "passed": all(row.passed for row in rows),
        "wheels": [asdict(row) | {"passed": row.passed} for row in rows],
    }
