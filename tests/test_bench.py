"""mrm bench remap: runs anywhere, says what is not there, and writes what it promised."""

import json
from pathlib import Path

import pytest

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

from mrm.tools.bench.figures import Result
from mrm.tools.bench.lineup import TITLES, TWINS
from mrm.tools.bench.remap import command
from mrm.tools.bench.table import FRAMES
from mrm.tools.bench.targets import TARGETS

TINY = ["--threads", "0,1", "--rounds", "1", "--seconds", "0.01", "--size", "128MiB", "--flip-up-to", "64MiB"]


def invoke(*arguments: str) -> "click_testing.Result":
    return click_testing.CliRunner().invoke(command, [*TINY, *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run: figures.json, and report/ where there is matplotlib."""
    folder = tmp_path_factory.mktemp("bench")
    done = invoke("--json", str(folder / "figures.json"))
    assert done.exit_code == 0, done.output
    (folder / "output.txt").write_text(done.output)
    return folder


def test_json_has_every_lane_and_figure(files: Path) -> None:
    data = json.loads((files / "figures.json").read_text())
    assert set(data) >= {"machine", "lanes", "flip", "frames"}
    assert {(row["lane"], row["threads"]) for row in data["lanes"]} == {
        (n, t) for n in TITLES for t in (0, 1)
    }
    for row in data["lanes"]:
        assert set(row) >= {"gb_per_s", "gb_per_s_spread", "shootdowns_per_page", "mutator_relative"}
        if row["gb_per_s"] is None:
            assert row["note"], f"{row['lane']} is missing without a word"
            continue
        low, high = row["gb_per_s_spread"]
        assert 0 < low <= row["gb_per_s"] <= high
        # A window is so short here that a busy machine may give the mutator no time in it.
        assert row["mutator_relative"] is None or (row["threads"] == 1 and row["mutator_relative"] >= 0)
        assert (row["over_by_hand"] is not None) == (row["lane"] in TWINS)
    for row in data["flip"] + data["flip_by_hand"]:
        assert row["open_us"] > 0 and row["retire_us"] > 0 and row["tb_per_s"] > 0
    for name in ("take_give_ns", "take_give_python_ns", "take_give_array_ns"):
        assert data["frames"][name] > 0
    assert set(data["frames"]) == set(FRAMES)


def test_every_lane_of_ours_ran(files: Path) -> None:
    data = json.loads((files / "figures.json").read_text())
    missing = {
        row["lane"]: row["note"] for row in data["lanes"] if row["lane"] in TWINS and row["gb_per_s"] is None
    }
    assert not missing


def test_table_names_the_machine_and_its_blind_spots(files: Path) -> None:
    text = (files / "output.txt").read_text()
    assert "processors" in text
    assert "Shootdowns are" in text
    for lane in TITLES:
        assert lane in text


def test_report_is_one_page_with_its_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = invoke("--report", str(tmp_path / "report"))
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") >= 2
    assert "http-equiv" not in page and "<script" not in page and "src=" not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["lanes"]


def test_json_on_standard_output_is_nothing_but_json() -> None:
    done = invoke("--json", "-")
    assert json.loads(done.stdout)["lanes"]


@pytest.mark.parametrize(
    "wrong", [["--threads", "a"], ["--threads", "-1"], ["--size", "3MiB"], ["--rounds", "0"]]
)
def test_wrong_arguments_are_refused_in_words(wrong: list[str]) -> None:
    done = invoke(*wrong)
    assert done.exit_code == 2
    assert "Invalid value" in done.output


def test_unmeasured_targets_do_not_hold() -> None:
    assert [target.holds(Result({})) for target in TARGETS] == [None] * len(TARGETS)
