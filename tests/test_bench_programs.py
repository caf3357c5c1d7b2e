"""mrm bench programs: runs what it can, names what it cannot, and leaves the machine's settings as they were."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

import mrm
from mrm.physical.limits import chosen_word
from mrm.tools.bench.programs import always, run
from mrm.tools.bench.programs.always import SETTING, why_not
from mrm.tools.bench.programs.command import command
from mrm.tools.bench.programs.figures import Result, figure
from mrm.tools.bench.programs.lineup import PLAIN, PROGRAMS, SCRIPT, SETUPS, started_with
from mrm.tools.bench.programs.run import huge_share, once
from mrm.tools.bench.programs.targets import TARGETS

TINY = ["--gather", "1MiB", "--lookups", "1000", "--collect", "1000", "--repeats", "1"]
PLAIN_SETUP = SETUPS[0]
LOOKUPS = next(program for program in PROGRAMS if program.name == "lookups")

needs_setting = pytest.mark.skipif(
    why_not() is not None or chosen_word(SETTING) == "always",
    reason="the setting is on already, or may not be written here",
)


def invoke(*arguments: str) -> "click_testing.Result":
    return click_testing.CliRunner().invoke(command, [*TINY, *arguments], catch_exceptions=False)


# ---- programs


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_every_program_says_its_seconds_and_waits(program) -> None:
    if program.needs:
        pytest.importorskip(program.needs)
    seconds, share = once(sys.executable, program, 1 << 20 if program.needs else 1000, PLAIN_SETUP)
    assert seconds > 0
    assert share is None or 0 <= share <= 1


def test_a_program_needs_nothing_of_mrm() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "lookups", "1000"],
        input="\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).keys() == {"pid", "seconds"}


def test_a_program_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(mrm.Error, match="KeyError: 'nothing'"):
        once(sys.executable, replace(LOOKUPS, name="nothing"), 1000, PLAIN_SETUP)


def test_the_share_is_the_kernels() -> None:
    rollup = (
        "55d000-7ffe00 ---p 00000000 00:00 0 [rollup]\n"
        "Rss: 6000 kB\nAnonHugePages: 2048 kB\nShmemPmdMapped: 1024 kB\nFilePmdMapped: 0 kB\n"
        "Shared_Hugetlb: 0 kB\nPrivate_Hugetlb: 2048 kB\n"
    )
    assert huge_share(rollup) == pytest.approx(5120 / 8048)
    assert huge_share("") is None


# ---- setups


def test_programs_are_started_with_their_setups_options_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    assert "PYTHONMALLOC" not in started_with({})
    assert started_with({"GLIBC_TUNABLES": "x"})["GLIBC_TUNABLES"] == "x"
    assert started_with({})["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_what_is_missing_is_said_in_words(setup) -> None:
    why = setup.missing(sys.executable)
    assert why is None or len(why.split()) > 3


def test_an_interpreter_without_mrm_has_no_mrm_run() -> None:
    ours = next(setup for setup in SETUPS if setup.name == "mrm")
    assert ours.missing("/bin/false")


def test_a_setting_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    assert "is missing" in why_not(tmp_path / "enabled")
    setting = tmp_path / "setting"
    setting.write_text("[always] madvise never\n")
    assert why_not(setting) is None
    with always.always(setting):  # it is so already: nothing is written
        assert setting.read_text() == "[always] madvise never\n"


def test_a_setting_that_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mrm.Error, match="cannot be set"), always.always(tmp_path / "nothing"):
        pass


@needs_setting
def test_transparent_huge_pages_come_back_as_they_were() -> None:
    before = chosen_word(SETTING)
    with always.always():
        assert chosen_word(SETTING) == "always"
    assert chosen_word(SETTING) == before


OWNER = """
import time
from mrm.tools.bench.programs.always import always
with always():
    print("on", flush=True)
    time.sleep(60)
"""


@needs_setting
def test_transparent_huge_pages_come_back_after_kill_9() -> None:
    before = chosen_word(SETTING)
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "on\n"
        owner.send_signal(signal.SIGKILL)
    for _ in range(1000):
        if chosen_word(SETTING) == before:
            return
        time.sleep(0.01)
    pytest.fail(f"it is still {chosen_word(SETTING)}")


# ---- the command


def test_json_is_what_was_promised() -> None:
    done = invoke("--json", "-", "--setups", "plain,mrm", "--programs", "lookups,collect")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    setups = [PLAIN] if "mrm" in data["missing"] else [PLAIN, "mrm"]
    found = [(row["program"], row["setup"]) for row in data["programs"]]
    assert found == [(program, setup) for program in ("lookups", "collect") for setup in setups]
    for row in data["programs"]:
        assert set(row) == {"program", "setup", "seconds", "spread", "huge_share"}
        assert 0 < row["spread"][0] <= row["seconds"] <= row["spread"][1]
    assert data["sizes"] == {"lookups": 1000, "collect": 1000}


def test_table_has_the_interpreter_and_what_is_missing() -> None:
    done = invoke("--setups", "plain,cpython+hugetlb", "--programs", "lookups")
    assert done.exit_code == 0, done.output
    for word in ("lookups", "plain", "Python 3", "on huge pages", "cpython+hugetlb"):
        assert word in done.output


@pytest.mark.parametrize(
    "wrong",
    [["--setups", "nothing"], ["--programs", ""], ["--gather", "1"], ["--collect", "0"], ["--repeats", "0"]],
)
def test_wrong_arguments_are_refused_in_words(wrong: list[str]) -> None:
    done = invoke(*wrong)
    assert done.exit_code == 2
    assert "Invalid value" in done.output


# ---- a run, with programs that are made up


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Setups in the order in which they ran; each takes longer than the one before."""
    ran: list[str] = []

    def made_up(python, program, size, setup):
        if setup.name == "thp":
            raise mrm.Error("nobody may")
        ran.append(setup.name)
        return float(len(ran)), 0.5

    monkeypatch.setattr(run, "once", made_up)
    return ran


def setups(*names: str) -> list:
    @contextmanager
    def nothing() -> Iterator[None]:
        yield

    return [
        replace(setup, missing=lambda python: None, around=nothing) for setup in SETUPS if setup.name in names
    ]


def measured(*names: str, size: int = 1000) -> Result:
    return run.run(sys.executable, {LOOKUPS: size}, setups(*names), 3, lambda *_: None)


def test_every_repetition_begins_with_another_one(order: list[str]) -> None:
    result = measured(PLAIN, "mrm", "glibc+hugetlb")
    turn = [PLAIN, "mrm", "glibc+hugetlb"]
    assert order == [*turn, *turn[1:], turn[0], turn[2], *turn[:2]]
    found = result.figure("lookups", "mrm")
    assert (found.seconds, found.spread, found.huge_share) == (4.0, (2.0, 9.0), 0.5)


def test_a_setup_that_fails_has_no_figure_and_a_note(order: list[str]) -> None:
    result = measured(PLAIN, "thp")
    assert [row.setup for row in result.programs] == [PLAIN]
    assert "lookups has no figure with thp: nobody may." in result.notes


def test_a_program_without_room_is_left_out_in_words(order: list[str]) -> None:
    result = measured(PLAIN, size=1 << 50)
    assert result.programs == []
    assert any("choose a smaller one" in note for note in result.notes)


def test_an_interpreter_that_is_none_is_named() -> None:
    with pytest.raises(mrm.Error, match="/nowhere/python cannot be run"):
        run.run("/nowhere/python", {LOOKUPS: 1000}, [], 1, lambda *_: None)


# ---- what becomes of the figures


@pytest.fixture
def result() -> Result:
    result = Result({**run.machine(), "interpreter": "Python 3.11.7"}, {p.name: 5_000_000 for p in PROGRAMS})
    for program in PROGRAMS:
        for seconds, (setup, share) in enumerate((("mrm", 0.97), ("thp", None), (PLAIN, 0.0)), 1):
            result.programs.append(figure(program.name, setup, [(seconds, share), (seconds + 1, share)]))
    return result


def test_targets_are_over_the_plain_one_and_over_the_best(result: Result) -> None:
    assert [target.measure(result) for target in TARGETS] == [1.5 / 3.5] * 3 + [1.0] * 3
    result.programs = [found for found in result.programs if found.setup != "mrm"]
    assert [target.holds(result) for target in TARGETS] == [None] * len(TARGETS)


def test_report_is_one_page_with_its_picture(result: Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from mrm.tools.bench.programs.report import write

    page = write(result, tmp_path / "report").read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "src=" not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["programs"]
    assert (tmp_path / "report" / "programs.svg").read_text().startswith("<svg")
