"""mrm bench balloon: runs anywhere, says what is not there, and leaves the machine as it was."""

import errno
import json
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

from helpers import FRAME

import mrm
from mrm.physical import keeper
from mrm.physical.keeping import Keeper
from mrm.physical.kernelpool import writable
from mrm.tools.bench.balloon import run as running
from mrm.tools.bench.balloon.byhand import FALLOCATE, POPULATE, KernelFile
from mrm.tools.bench.balloon.command import command
from mrm.tools.bench.balloon.figures import Deflate, Inflate, Neighbour, Result, beside_kernel
from mrm.tools.bench.balloon.neighbour import Committer, Stream
from mrm.tools.bench.balloon.targets import TARGETS
from mrm.tools.bench.target import reached

TINY = ["--size", "32MiB", "--cycles", "2"]
SHIFT = FRAME.bit_length() - 1


def invoke(*arguments: str) -> "click_testing.Result":
    return click_testing.CliRunner().invoke(command, [*TINY, *arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run: figures.json and what was printed; and what it did to nr_hugepages."""
    folder = tmp_path_factory.mktemp("balloon")
    by_hand, left = [], []
    shift, close = keeper.shift, Keeper.close

    def counted(folder: str, change: int) -> tuple[int, int]:
        by_hand.append((done := shift(folder, change))[0])
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keeper, "shift", counted)
        patch.setattr(Keeper, "close", lambda keeper: left.append(close(keeper)))
        done = invoke("--json", str(folder / "figures.json"))
    assert done.exit_code == 0, done.output
    (folder / "output.txt").write_text(done.output)
    (folder / "settings.json").write_text(
        json.dumps({"by hand": by_hand, "keepers": len(left), "left": [list(each.values()) for each in left]})
    )
    return folder


def test_json_is_what_was_promised(files: Path, needs_huge: None) -> None:
    data = json.loads((files / "figures.json").read_text())
    assert set(data) >= {"machine", "inflate", "deflate", "neighbour", "cycles"}
    assert data["cycles"] == 2
    assert [row["to"] for row in data["inflate"]] == ["pool", "system"]
    assert [row["threads"] for row in data["deflate"]] == [1, 2]
    for row in data["inflate"] + data["deflate"]:
        if row["gb_per_s"] is None:
            assert row["note"], f"{row} is missing without a word"
            continue
        for name in ("gb_per_s", "kernel_gb_per_s", "ratio"):
            low, high = row[f"{name}_spread"]
            assert 0 < low <= row[name] <= high
        assert row["kernel_way"]
    assert data["inflate"][0]["cycles"] == 4, "with each number of threads, in each cycle"
    assert {row["cycles"] for row in data["deflate"]} == {2}


def test_on_to_the_system_is_measured_where_it_may_be(files: Path, needs_huge: None) -> None:
    row = json.loads((files / "figures.json").read_text())["inflate"][1]
    assert (row["gb_per_s"] is not None) == writable(), row["note"]


def test_the_neighbour_is_there_or_a_note_says_why(files: Path, needs_huge: None) -> None:
    data = json.loads((files / "figures.json").read_text())
    found = data["neighbour"]
    if found is None:
        assert any("Nobody was measured" in note for note in data["notes"])
        return
    for name in (
        "mean_relative",
        "tail_relative",
        "mean_relative_by_processor",
        "fetching_processor_seconds",
    ):
        assert found[name] > 0
    assert len(found["undisturbed"]) == len(found["beside"]) == 101
    assert found["undisturbed"] == sorted(found["undisturbed"])


@pytest.mark.skipif(not writable(), reason="nr_hugepages may not be written here: run as root")
def test_settings_come_back(files: Path, needs_huge: None) -> None:
    """By what it says that it did: others may change them meanwhile."""
    did = json.loads((files / "settings.json").read_text())
    assert any(did["by hand"])
    assert sum(did["by hand"]) == 0
    assert did["keepers"] > 0
    assert not any(did["left"])


def test_table_names_machine_and_literature(files: Path) -> None:
    text = (files / "output.txt").read_text()
    assert "processors" in text
    assert "HyperAlloc" in text
    assert "small pages" in text


def test_report_is_one_page_with_its_plots(tmp_path: Path, needs_huge: None) -> None:
    pytest.importorskip("matplotlib")
    done = invoke("--report", str(tmp_path / "report"), "--cycles", "1", "--threads", "1")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<svg") >= 1
    assert "<script" not in page and "src=" not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["inflate"]


def test_without_huge_pages_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "free_huge_pages", lambda: 0)
    done = invoke("--json", "-", "--cycles", "1")
    data = json.loads(done.stdout)
    assert done.exit_code == 0
    assert all(row["gb_per_s"] is None and "mrm fund" in row["note"] for row in data["inflate"])
    assert data["neighbour"] is None
    assert all(row["gb_per_s"] for row in data["inflate_other_backings"])


def test_with_fewer_it_measures_those(monkeypatch: pytest.MonkeyPatch, needs_huge: None) -> None:
    monkeypatch.setattr(running, "free_huge_pages", lambda: running.SPARE + 4)
    data = json.loads(invoke("--json", "-", "--cycles", "1").stdout)
    assert data["nbytes"] == 4 * FRAME
    assert any("8 huge pages are free" in note for note in data["notes"])


@pytest.mark.parametrize(
    "wrong",
    [["--threads", "a"], ["--threads", "0"], ["--threads", "65"], ["--size", "3MiB"], ["--cycles", "0"]],
)
def test_wrong_arguments_are_refused_in_words(wrong: list[str]) -> None:
    done = invoke(*wrong)
    assert done.exit_code == 2
    assert "Invalid value" in done.output


# ---- targets -------------------------------------------------------------------------


def test_unmeasured_targets_do_not_hold() -> None:
    assert [target.holds(Result({})) for target in TARGETS] == [None] * len(TARGETS)
    assert not reached(TARGETS, Result({}))


def test_two_threads_are_excused_only_by_the_kernels_own() -> None:
    [target] = [target for target in TARGETS if target.text.endswith("over one")]

    def result(two: float, kernel: float) -> Result:
        one = Deflate("hugetlb", 4.0, 4.0)
        return Result({}, deflate=[one, Deflate("hugetlb", two, kernel, threads=2)])

    assert target.verdict(result(7.6, 5.0)) == "reached"
    assert target.verdict(result(5.0, 5.0)) == "not here"
    assert target.verdict(result(5.0, 7.6)) == "missed"


def test_what_a_neighbour_loses_is_not_excused_and_has_a_line_beside_the_kernels_own() -> None:
    beyond, to_us = TARGETS[-2:]

    def result(ours: float, kernel: float) -> Result:
        found = Neighbour(1, 1, ours, 1, 1, 1, kernel, 0, 0, 0, 0, (1, 1), 0, 1, 10, 1, 1)
        return Result({}, neighbour=found)

    assert [t.verdict(result(0.97, 0.97)) for t in (beyond, to_us)] == ["reached", "reached"]
    assert [t.verdict(result(0.85, 0.97)) for t in (beyond, to_us)] == ["missed", "missed"]
    assert [t.verdict(result(0.85, 0.84)) for t in (beyond, to_us)] == ["missed", "reached"]
    assert [t.verdict(result(0.60, 0.84)) for t in (beyond, to_us)] == ["missed", "missed"]


def test_figures_are_medians_and_ratios_of_each_cycle() -> None:
    found = beside_kernel(10**9, [1.0, 2.0, 4.0], [2.0, 2.0, 1.0])
    assert found["gb_per_s"] == 0.5
    assert found["gb_per_s_spread"] == (0.25, 1.0)
    assert found["ratio"] == 1.0
    assert found["ratio_spread"] == (0.25, 2.0)


def test_a_result_finds_its_rows() -> None:
    result = Result({}, inflate=[Inflate("hugetlb", 9.0), Inflate("hugetlb", to="system", note="no")])
    assert result.inflated("pool") is result.inflate[0]
    assert result.inflated("system") is None


# ---- by hand, and beside it ----------------------------------------------------------


@pytest.mark.parametrize("way", [POPULATE, FALLOCATE])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("part", [FRAME, 3 * FRAME, 64 * FRAME])
def test_by_hand_all_pages_come_and_go(needs_huge: None, way: int, threads: int, part: int) -> None:
    with KernelFile(8 * FRAME, SHIFT) as file:
        assert file.filled == 0
        assert file.fill(part, threads, way) > 0
        assert file.filled == file.nbytes
        assert file.punch(part) > 0
        assert file.filled == 0


def test_by_hand_a_closed_file_is_refused() -> None:
    with KernelFile(FRAME) as file:
        pass
    with pytest.raises(ValueError, match="closed"):
        file.punch(FRAME)


@pytest.mark.parametrize(("part", "threads"), [(0, 1), (FRAME, 0), (FRAME, 65)])
def test_by_hand_refuses_what_is_no_job(part: int, threads: int) -> None:
    with KernelFile(FRAME) as file, pytest.raises(ValueError, match="parts of a byte"):
        file.fill(part, threads)


def test_a_stream_notes_its_windows() -> None:
    processors = os.sched_getaffinity(0)
    with Stream(1 << 20, 0.001) as stream:
        begin = time.monotonic_ns()
        time.sleep(0.1)
        end = time.monotonic_ns()
        found = stream.between(begin, end)
        while not found:
            end = time.monotonic_ns()
            found = stream.between(begin, end)
        assert stream.between(end + 10**12, end + 2 * 10**12) == []
    assert os.sched_getaffinity(0) == processors
    assert all(wall >= 10**6 and processor > 0 and nbytes > 0 for wall, processor, nbytes in found)
    assert sum(wall for wall, _, _ in found) <= end - begin


def test_a_committer_leaves_nothing_behind(huge: str) -> None:
    with mrm.Pool(4 * FRAME, huge=huge) as pool:
        with Committer(pool, 0.0001) as committer:
            begin = time.monotonic_ns()
            while not (took := committer.between(begin, time.monotonic_ns())):
                time.sleep(0.001)
        assert all(nanoseconds > 0 for nanoseconds in took)
        stats = pool.audit()
        assert (stats.ready, stats.reservations, stats.held) == (4, 0, 0)
        assert stats.batches >= len(took)


def test_a_stream_whose_thread_ends_at_once_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody waits for its first window for ever, nor on fewer processors afterwards."""
    real, processors = os.sched_setaffinity, os.sched_getaffinity(0)

    def refuse(pid: int, allowed: Iterable[int]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(pid, allowed)

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pytest.raises(mrm.Error, match="not permitted"), Stream(1 << 20, 0.001):
        pytest.fail("it began")
    assert os.sched_getaffinity(0) == processors
