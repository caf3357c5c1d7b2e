"""A pytest plugin that writes down each test as it begins and as it ends.

    MRM_RECORD=FILE python -m pytest -p tools.machines.record ...

A line of JSON each, at once: whoever reads the file sees how far the tests have come,
and a test that takes its process with it is the one that began and did not end. Started
again with the same file, pytest goes on with the tests that have not begun.
"""

import json
import os
from pathlib import Path

import pytest

_MOST_TEXT = 4000


class Recorder:
    """Writes the file.

    Parameters
    ----------
    path : Path
        The file; what is in it already has been tried before.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tried = {entry["test"] for entry in read(path) if "test" in entry}
        self._parts: dict[str, tuple[str, str]] = {}  # outcomes so far of the test that runs

    def _write(self, **entry: object) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out what was tried before the process was started again."""
        left_out = [item for item in items if item.nodeid in self._tried]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item.nodeid not in self._tried]
        else:
            self._write(collected=len(items))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be read, or that is skipped as a whole."""
        if report.outcome != "passed":
            self._write(test=report.nodeid, outcome=report.outcome, why=_why(report))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """It begins."""
        self._parts.clear()
        self._write(test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One of its parts is over: what comes before it, itself, what comes after it."""
        if report.outcome != "passed" and self._parts.get("outcome", ("passed",))[0] != "failed":
            self._parts["outcome"] = (report.outcome, _why(report))

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It is over."""
        outcome, why = self._parts.get("outcome", ("passed", ""))
        self._write(test=nodeid, outcome=outcome, why=why)


def read(path: Path) -> list[dict[str, str]]:
    """The entries of a file; none if it is not there. A line that is being written is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _why(report: pytest.CollectReport | pytest.TestReport) -> str:
    """The reason of a skip, or the end of what a failure says."""
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext[-_MOST_TEXT:]


def pytest_configure(config: pytest.Config) -> None:
    """Begin to write, if a file is named."""
    path = os.environ.get("MRM_RECORD")
    if path:
        config.pluginmanager.register(Recorder(Path(path)), "mrm-record")
