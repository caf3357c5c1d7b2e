"""Rounds of mrm bench heap and mrm bench programs: Ctrl-C loses no round that was complete, and is told."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")

import mrm
from mrm.tools.bench.rounds import Rounds


@dataclass(frozen=True)
class One:
    name: str


EVERYONE = [One("a"), One("b"), One("c")]


def rounds(notes: list[str] | None = None) -> Rounds[str, int]:
    notes = [] if notes is None else notes
    return Rounds(3, 18, "{step}: {name} has no figure", notes, lambda *_: None)


def stops_after(count: int, ran: list[str], fails: tuple[str, int] = ("", 0)) -> Callable[[One], int]:
    """Measures so many, then Ctrl-C comes; one of them fails from a measurement on."""

    def once(one: One) -> int:
        if len(ran) == count:
            raise KeyboardInterrupt
        ran.append(one.name)
        if one.name == fails[0] and len(ran) >= fails[1]:
            raise mrm.Error("it is broken.")
        return len(ran)

    return once


def test_every_round_begins_with_another_one() -> None:
    ran: list[str] = []
    with rounds() as made:
        made.measure("first", "first", EVERYONE, stops_after(99, ran))
    assert "".join(ran) == "abcbcacab"
    assert made.kept() == [("first", "a", [1, 6, 8]), ("first", "b", [2, 4, 9]), ("first", "c", [3, 5, 7])]
    assert made.stopped == ""


@pytest.mark.parametrize(("count", "complete"), [(3, 1), (4, 1), (5, 1), (6, 2), (8, 2)])
def test_complete_rounds_are_kept_and_no_others(count: int, complete: int) -> None:
    with rounds() as made:
        made.measure("first", "the first", EVERYONE, stops_after(count, []))
    assert [len(measured) for _, _, measured in made.kept()] == [complete] * 3
    assert made.stopped == (
        f"It was stopped after {count} of 18 measurements: the first has {complete} of 3 rounds, and what comes "
        "after it has none."
    )


def test_steps_before_are_kept_when_the_next_has_no_complete_round() -> None:
    ran: list[str] = []
    notes = ["another"]
    with rounds() as made:
        made.measure("first", "the first", EVERYONE, stops_after(99, ran))
        made.measure("second", "the second", EVERYONE, stops_after(10, ran))
    assert {step for step, _, _ in made.kept()} == {"first"}
    assert made.tell(notes)
    assert notes[0].startswith("It was stopped after 10 of 18 measurements: the second has 0 of 3 rounds")


def test_without_a_complete_round_ctrl_c_comes_through() -> None:
    with pytest.raises(KeyboardInterrupt), rounds() as made:
        made.measure("first", "first", EVERYONE, stops_after(2, []))


def test_another_error_comes_through() -> None:
    with pytest.raises(ZeroDivisionError), rounds() as made:
        made.measure("first", "first", EVERYONE, stops_after(99, []))
        made.measure("second", "second", EVERYONE, lambda one: 1 // 0)


def test_who_fails_has_a_note_and_no_figure_though_a_round_was_complete() -> None:
    notes: list[str] = []
    with rounds(notes) as made:
        made.measure("first", "first", EVERYONE, stops_after(5, [], fails=("b", 4)))
    assert [(name, len(measured)) for _, name, measured in made.kept()] == [("a", 1), ("c", 1)]
    assert notes == ["first: b has no figure: it is broken."]


# ---- the commands, stopped as a terminal does it

# It says a word when a measurement is done; with one to be measured, that is a round.
STOPPED = """
import importlib, signal, sys
from mrm.tools import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
module, name, arguments = sys.argv[1], sys.argv[2], sys.argv[3:]
run = importlib.import_module(module)
once = getattr(run, name)
def told(*asked):
    found = once(*asked)
    print("done", flush=True)
    return found
setattr(run, name, told)
sys.exit(cli.run(arguments))
"""
HEAP = (
    "mrm.tools.bench.heap.run", "_once", "bench", "heap", "--workloads", "pairs,lifo", "--threads", "1",
    "--allocators", "mrm", "--seconds", "0.02",
)  # fmt: skip
PROGRAMS = (
    "mrm.tools.bench.programs.run", "once", "bench", "programs", "--programs", "lookups,collect", "--setups", "plain",
    "--lookups", "1000", "--collect", "1000",
)  # fmt: skip


def stopped(command: tuple[str, ...], after: int, *options: str) -> "subprocess.CompletedProcess[str]":
    """Start a command, and send Ctrl-C to it and all of its processes after so many measurements."""
    arguments = [sys.executable, "-c", STOPPED, *command, "--repeats", "1000000", *options]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for _ in range(after):
            assert process.stdout.readline() == "done\n", process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


@pytest.mark.parametrize(
    ("command", "key"), [(HEAP, "workloads"), (PROGRAMS, "programs")], ids=["heap", "programs"]
)
def test_a_command_that_is_stopped_writes_what_it_has(
    command: tuple[str, ...], key: str, tmp_path: Path
) -> None:
    written = tmp_path / "figures.json"
    done = stopped(command, 3, "--json", str(written), "--check")
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "mrm: stopped"
    data = json.loads(written.read_text())
    assert data["stopped"] is True
    assert len(data[key]) == 1
    assert "It was stopped after" in data["notes"][0]
    assert "It was stopped after" in done.stdout
    assert any("; up to 1000000 each, interleaved" in note for note in data["notes"])
    assert not any("has no figure" in note for note in data["notes"])
