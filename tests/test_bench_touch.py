"""mrm bench touch: measures what it can anywhere, says what it cannot, and leaves the machine as it was."""

import json
import os
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

from helpers import FRAME

from mrm.errors import Error
from mrm.physical import kernelpool
from mrm.physical.keeping import Keeper
from mrm.tools.bench.touch import lanes, run
from mrm.tools.bench.touch.command import command
from mrm.tools.bench.touch.figures import Round, lane
from mrm.tools.bench.touch.lanes import KINDS, Ground

TINY = ["--size", "16MiB", "--rounds", "2", "--wait", "0.01"]
NAMES = [kind.name for kind in KINDS]


def invoke(*arguments: str) -> "click_testing.Result":
    return click_testing.CliRunner().invoke(command, [*TINY, *arguments], catch_exceptions=False)


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What keepers had left to put back when they were closed by whoever made them."""
    left: list[int] = []
    close = Keeper.close

    def closed(keeper: Keeper) -> object:
        left.extend(keeper.sums.values())
        return close(keeper)

    monkeypatch.setattr(run.Keeper, "close", closed)
    return left


@pytest.mark.skipif(not kernelpool.writable(), reason="nr_hugepages may not be written here: run as root")
def test_json_has_every_lane_and_the_hypervisor(needs_huge: None, sums: list[int]) -> None:
    done = invoke("--json", "-")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [row["name"] for row in data["lanes"]] == NAMES
    assert (data["nbytes"], data["rounds"], data["wait_seconds"]) == (16 << 20, 2, 0.01)
    assert {"hypervisor"} <= data["hypervisor"].keys()
    for row in data["lanes"]:
        assert row["us_per_page_spread"][0] <= row["us_per_page"] <= row["us_per_page_spread"][1]
        assert 0 < row["us_tail"] <= row["us_worst"]
        assert row["relative_spread"][0] <= row["relative"] <= row["relative_spread"][1]
        assert row["name"] != "pool" or row["relative"] == 1
        assert (row["pages"], row["rounds"]) == (8, 2)
        assert (row["setting_us_per_page"] is None) == (not row["name"].startswith("system"))
        if os.geteuid() == 0:
            assert 0 <= row["same_pages"] <= 8
    assert data["lanes"][0]["same_pages"] == 8
    # What this run borrowed, if anything; what the lanes did to the setting adds up to nothing.
    assert all(change >= 0 for change in sums)
    assert any("cannot be seen from inside" in note for note in data["notes"])


def test_without_the_right_it_measures_what_it_can(needs_huge: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.kernelpool, "writable", lambda: False)
    data = json.loads(invoke("--json", "-").stdout)
    rows = {row["name"]: row for row in data["lanes"]}
    for name in NAMES:
        missing = name.startswith("system")
        assert (rows[name]["us_per_page"] is None) == missing
        assert not missing or "takes root" in rows[name]["note"]


def without(pages: int) -> object:
    """An ``available`` that finds so many pages free, and adds none."""

    @contextmanager
    def found(size: int) -> object:
        yield SimpleNamespace(after=SimpleNamespace(available=pages), refused="the setting is locked")

    return found


def test_with_fewer_pages_it_measures_those(needs_huge: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "available", without(3))
    monkeypatch.setattr(run.kernelpool, "writable", lambda: False)
    data = json.loads(invoke("--json", "-").stdout)
    assert data["nbytes"] == 3 * FRAME
    assert any("Only 3 huge pages are free" in note for note in data["notes"])


def test_with_none_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "available", without(0))
    done = invoke("--json", "-")
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert [row["note"] for row in data["lanes"]] == ["no huge pages are free: the setting is locked"] * len(
        KINDS
    )
    assert "not here" in done.stderr


def test_pages_that_somebody_else_took_end_it_in_words(
    needs_huge: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured by then is there."""
    measure, begun = Ground.measure, []

    def fail(ground: Ground, kind: lanes.Kind) -> Round:
        begun.append(kind.name)
        if len(begun) == 3:
            raise Error("somebody else took the others")
        return measure(ground, kind)

    monkeypatch.setattr(Ground, "measure", fail)
    monkeypatch.setattr(run.kernelpool, "writable", lambda: False)
    data = json.loads(invoke("--json", "-").stdout)
    assert [row["us_per_page"] is not None for row in data["lanes"]] == [True, True, False, False, False]
    assert any(note.startswith("It ended after 2 rounds of lanes") for note in data["notes"])


def test_the_table_says_what_lanes_are(needs_huge: None) -> None:
    text = invoke().output
    for name in NAMES:
        assert name in text
    assert "no page is fetched" in text


@pytest.mark.parametrize("wrong", [["--size", "3MiB"], ["--rounds", "0"], ["--wait", "-1"], ["--size", "x"]])
def test_wrong_arguments_are_refused_in_words(wrong: list[str]) -> None:
    done = invoke(*wrong)
    assert done.exit_code == 2
    assert "Invalid value" in done.output


# ---- figures -----------------------------------------------------------------------------


def test_figures_of_a_lane() -> None:
    rounds = [
        Round([0.001, 0.003], 0.004, 2, 100),
        Round([0.002, 0.002], 0.002, 0, 50),
        Round([0.004, 0.006], 0.006, 1, None),
    ]
    found = lane("a", "b", rounds)
    assert found.us_per_page == pytest.approx(2000)
    assert found.us_per_page_spread == (pytest.approx(2000), pytest.approx(5000))
    assert found.gb_per_s == pytest.approx(FRAME / 0.002 / 1e9)
    assert (found.us_tail, found.us_worst) == (pytest.approx(4000), pytest.approx(6000))
    assert found.setting_us_per_page == pytest.approx(2000)
    assert (found.relative, found.relative_spread) == (None, None)
    assert (found.pages, found.same_pages, found.reported_bytes, found.rounds) == (2, 1, 150, 3)


def test_a_lane_is_compared_round_by_round_as_far_as_both_came() -> None:
    rounds, base = [Round([0.002]), Round([0.008]), Round([0.009])], [Round([0.001]), Round([0.002])]
    found = lane("a", "b", rounds, base)
    assert found.relative == pytest.approx(3)
    assert found.relative_spread == (pytest.approx(2), pytest.approx(4))


def test_what_is_not_counted_is_none() -> None:
    found = lane("a", "b", [Round([0.001])])
    assert (found.same_pages, found.reported_bytes, found.setting_us_per_page) == (None, None, None)


def test_what_the_host_was_told_is_counted_where_the_kernel_does(needs_huge: None, tmp_path: Path) -> None:
    with Ground(2 * FRAME, 0.0, None) as ground:
        kind = next(kind for kind in KINDS if kind.name == "pool")
        assert ground.measure(kind, tmp_path).reported_bytes is None
        counter = tmp_path / lanes._REPORTED
        counter.parent.mkdir(parents=True)
        counter.write_text("100\n")
        assert ground.measure(kind, tmp_path).reported_bytes == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel tells root alone where a page lies")
def test_pages_are_known_by_their_numbers(needs_huge: None) -> None:
    with Ground(4 * FRAME, 0.0, None) as one, Ground(4 * FRAME, 0.0, None) as other:
        mine, others = one.numbers(), other.numbers()
        assert mine is not None and others is not None
        assert len(mine) == len(others) == 4
        assert not mine & others


def test_a_setting_that_does_not_move_is_said(needs_huge: None) -> None:
    class Stuck:
        def change(self, delta: int) -> int:
            return 0

    with Ground(FRAME, 0.0, Stuck()) as ground, pytest.raises(Error, match="1 of that could not be had"):  # type: ignore[arg-type]
        ground._shift(1)
