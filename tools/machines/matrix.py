"""Runs the suites on the machines, several at a time, and collects what came of each test.

Each machine runs one pytest, which writes every test down as it goes (``record``) into a
file that is seen here at once. A process that a signal ends takes one test with it: that
one has failed, and pytest is started again with those after it.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from tools.machines.boot import FAILED, TIMED_OUT, Outcome, Run, boot
from tools.machines.guest import SHARED
from tools.machines.lineup import Entry
from tools.machines.needs import MachineError
from tools.machines.record import read
from tools.machines.suites import SUITES, files, suite_of

# A test may take its time on an emulated processor; twenty of these are a machine's whole.
_SECONDS_A_TEST = 600
_RESTARTS = 20
# A panic that is ours comes again; one of the emulated machine does not, and proves nothing.
_RUNS = 2

_AGAIN = f"""
for turn in $(seq {_RESTARTS}); do
  "$@"; status=$?
  [ $status -lt 128 ] && break
  echo "pytest was ended by signal $((status - 128)); on with the tests that are left"
done
exit $status
"""


@dataclass
class Counts:
    """Tests of one suite on one machine, and the reasons for which some were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, outcome: str, why: str) -> None:
        """Count one more."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        if outcome == "skipped":
            self.reasons[why] = self.reasons.get(why, 0) + 1


@dataclass
class Row:
    """What came of one machine.

    Attributes
    ----------
    entry : Entry
        The machine.
    outcome : Outcome or None
        How its run ended; None if it could not be booted.
    suites : dict
        Counts by suite.
    failures : dict
        What failed tests said, by test; and what went wrong with the machine itself.
    panics : list of str
        What kernels said that gave up before this run of the tests.
    earlier : dict
        What tests said that failed in a run that such a kernel ended, by test; they are run again.
    """

    entry: Entry
    outcome: Outcome | None = None
    suites: dict[str, Counts] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    panics: list[str] = field(default_factory=list)
    earlier: dict[str, str] = field(default_factory=dict)

    @property
    def tests_passed(self) -> int:
        """How many passed, of all suites."""
        return sum(counts.passed for counts in self.suites.values())

    @property
    def passed(self) -> bool:
        """Whether nothing failed, and something passed."""
        return not self.failures and self.tests_passed > 0


Told = Callable[[Entry, str, int, int], object]


def run_matrix(
    entries: Sequence[Entry],
    *,
    jobs: int,
    seconds: float,
    told: Told,
    log: Path,
    arguments: Sequence[str] = (),
) -> Iterator[Row]:
    """Run the suites of all entries; what came of each, as it ends.

    Parameters
    ----------
    entries : sequence of Entry
        In this order.
    jobs : int
        Machines at a time.
    seconds : float
        What one machine may take; then it is ended and has failed.
    told : callable
        ``told(entry, what, done, of)``, now and then, from several threads.
    log : Path
        The folder for what each machine prints.
    arguments : sequence of str, optional
        More of pytest's.
    """
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_run_one, entry, seconds, told, arguments, log) for entry in entries]
        try:
            for ended in as_completed(running):
                yield ended.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_one(entry: Entry, seconds: float, told: Told, arguments: Sequence[str], log: Path) -> Row:
    """Boot one machine and run its suites; once more if its kernel panics."""
    row = Row(entry)
    while True:
        _try_one(row, seconds, told, arguments, log)
        panic = row.outcome.panic if row.outcome else ""
        if not panic or len(row.panics) + 1 == _RUNS:
            break
        failed = {test: said for test, said in row.failures.items() if "::" in test}
        row = Row(entry, panics=[*row.panics, panic], earlier=row.earlier | failed)
        told(entry, f"{panic}; again", 0, 0)
    told(entry, "passed" if row.passed else "failed", row.tests_passed, 0)
    return row


def _try_one(row: Row, seconds: float, told: Told, arguments: Sequence[str], log: Path) -> None:
    """Boot the machine of a row, run its suites there, and note what came of it."""
    entry = row.entry
    pytest = (
        *(sys.executable, "-m", "pytest", "-q", "-p", "tools.machines.record", "-p", "no:cacheprovider"),
        *("--timeout", str(_SECONDS_A_TEST), *arguments, *files(entry.suites)),
    )
    over = threading.Event()
    told(entry, "booting", 0, 0)
    with tempfile.TemporaryDirectory(prefix="mrm-matrix-") as folder:
        shared = Path(folder)

        def watch(_: Run) -> None:
            """Tell how far it has come, while it runs."""
            while not over.wait(1.0):
                noted = read(shared / "record")
                collected = [int(entry["collected"]) for entry in noted if "collected" in entry]
                told(entry, "running", sum("outcome" in entry for entry in noted), sum(collected[:1]))

        name = entry.name.replace(" ", "-")
        try:
            with (log / f"{name}-{len(row.panics)}.txt").open("wb", buffering=0) as file:
                row.outcome = boot(
                    entry.machine,
                    ["sh", "-c", _AGAIN, "sh", *pytest],
                    environment={"MRM_RECORD": f"{SHARED}/record", "PYTHONDONTWRITEBYTECODE": "1"},
                    shared=shared,
                    output=file,
                    seconds=seconds,
                    started=watch,
                )
            (log / f"{name}-console-{len(row.panics)}.txt").write_text(row.outcome.console)
        except MachineError as error:
            row.failures["the machine"] = str(error)
        over.set()
        collect(row, read(shared / "record"))


def collect(row: Row, entries: list[dict[str, str]]) -> None:
    """Count what a record says into a row, and say what ended badly."""
    outcomes: dict[str, tuple[str, str]] = {}
    for noted in entries:
        if "test" in noted:
            died = ("failed", "it took its process with it, or never came back")
            outcomes[noted["test"]] = (noted["outcome"], noted["why"]) if "outcome" in noted else died
    for test, (outcome, why) in outcomes.items():
        row.suites.setdefault(suite_of(test), Counts()).add(outcome, why)
        if outcome == "failed":
            row.failures[test] = why
    ended = row.outcome
    if ended is None:
        return
    if ended.status == TIMED_OUT:
        row.failures["the machine"] = f"was ended after {ended.seconds:.0f} s"
    elif ended.status == FAILED or not outcomes:
        row.failures["the machine"] = f"ended before the tests did (status {ended.status}): {ended.console}"
    elif ended.status not in (0, 1) and not row.failures:
        row.failures["pytest"] = f"ended with status {ended.status}"


def prepare() -> None:
    """Compile what the tests import, here: on an emulated processor it would take half a minute each time."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    collect = (
        "-m",
        "pytest",
        "-q",
        "--collect-only",
        "-p",
        "no:cacheprovider",
        "-p",
        "tools.machines.record",
    )
    command = [sys.executable, *collect, *files(tuple(SUITES))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"the tests cannot be collected here:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
