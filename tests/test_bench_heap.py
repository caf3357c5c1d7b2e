"""mrm bench heap: measures what is there, names what is missing, and finds an allocator that errs."""

import ctypes.util
import json
import mmap
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("rich")

import mrm
from mrm.tools.bench.heap import lineup, run
from mrm.tools.bench.heap.allocator import Allocator
from mrm.tools.bench.heap.command import command
from mrm.tools.bench.heap.figures import Figure, Result, figure
from mrm.tools.bench.heap.lineup import ALLOCATORS, environment
from mrm.tools.bench.heap.memory import Memory
from mrm.tools.bench.heap.small import Lifo
from mrm.tools.bench.heap.targets import TARGETS
from mrm.tools.bench.heap.workloads import GROWTH, KINDS, WORKLOADS, Kind

MIB = 1 << 20
LIBC = ctypes.util.find_library("c") or "libc.so.6"
TINY = ["--seconds", "0.02", "--repeats", "1", "--grow-to", "4MiB"]
ROW = {"workload", "threads", "allocator", "ops_per_s", "spread", "peak_mib"}


def invoke(*arguments: str) -> "click_testing.Result":
    return click_testing.CliRunner().invoke(command, [*TINY, *arguments], catch_exceptions=False)


def worked(kind: Kind, allocator: Allocator, threads: int):
    """A workload that has run for a moment, and has ended."""
    work = kind.begun(allocator, threads, 4 * MIB)
    work.begin()
    work.measure()
    work.stop()
    work.wait()
    return work


# ---- workloads


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_workload_ends_without_a_fault(kind: Kind, threads: int) -> None:
    work = worked(kind, Allocator.library(LIBC), threads)
    assert work.ended
    assert (work.refused, work.damaged) == (0, 0)
    if kind.of == GROWTH:
        assert work.ops_per_s > 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_nothing_is_left_of_a_workload(kind: Kind, threads: int) -> None:
    with mrm.Heap() as heap:
        work = worked(kind, Allocator.of_heap(heap), threads)
        assert (work.refused, work.damaged) == (0, 0)
        heap.trim()  # what this thread has freed of other threads' pages goes there
        assert list(heap.blocks()) == []


def test_a_server_has_one_thread_after_another() -> None:
    work = WORKLOADS["larson"].begun(Allocator.library(LIBC), 2, MIB)
    work.begin()
    while work.generations < 6:
        time.sleep(0.001)
    work.measure()
    work.stop()
    work.wait()
    assert (work.refused, work.damaged) == (0, 0)


def test_a_workload_that_is_dropped_ends_first() -> None:
    work = WORKLOADS["xmalloc"].begun(Allocator.library(LIBC), 2, MIB)
    work.begin()
    del work


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"slots": 0}, {"least": 7}, {"least": 32, "most": 16}, {"turn": 0}]
)
def test_a_workload_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    asked = {"threads": 1, "slots": 1, "least": 16, "most": 16, "turn": 1, **wrong}
    with pytest.raises(mrm.Error, match="at least"):
        Lifo(Allocator.library(LIBC), asked.pop("threads"), **asked)


BROKEN = r"""
#include <stddef.h>
static char block[1 << 20];
void *same_malloc(size_t nbytes) { return block; }
void *same_realloc(void *b, size_t nbytes) { return b; }
void same_free(void *b) {}
void *no_malloc(size_t nbytes) { return NULL; }
void *no_realloc(void *b, size_t nbytes) { return NULL; }
void no_free(void *b) {}
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library with an allocator that hands one block out again and again, and one that refuses all."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no compiler")
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken.c").write_text(BROKEN)
    library = folder / "libbroken.so"
    subprocess.run([compiler, "-shared", "-fPIC", folder / "broken.c", "-o", library], check=True)
    return str(library)


def test_a_block_that_is_handed_out_twice_is_found(broken: str) -> None:
    work = WORKLOADS["lifo"].begun(Allocator.library(broken, "same_"), 1, MIB)
    work.begin()
    while not work.damaged:  # or the test's time is over
        time.sleep(0.001)
    work.measure()
    work.stop()
    work.wait()


@pytest.mark.parametrize("name", ["lifo", "churn", "larson", "xmalloc", "sh", "large", "grow"])
def test_blocks_that_are_refused_are_counted(broken: str, name: str) -> None:
    work = WORKLOADS[name].begun(Allocator.library(broken, "no_"), 2, 4 * MIB)
    work.begin()
    while not work.refused:
        time.sleep(0.001)
    work.measure()
    work.stop()
    work.wait()
    assert work.damaged == 0


# ---- allocators


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(mrm.Error, match=r"libnothing\.so cannot be loaded"):
        Allocator.library("libnothing.so")


def test_a_library_without_the_functions_is_named() -> None:
    with pytest.raises(mrm.Error, match=f"{re.escape(LIBC)} has no mi_malloc"):
        Allocator.library(LIBC, "mi_")


def test_a_heap_is_closed_with_its_pool() -> None:
    pool = mrm.Pool("4MiB", huge="off")
    heap = mrm.Heap(pool)
    allocator = Allocator.of_heap(heap, pool)
    assert allocator.trial(100)
    assert allocator.frames > 0
    allocator.close()
    assert heap.closed
    assert pool.closed


def test_processes_differ_in_their_own_options_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_CONF", "thp:never")
    monkeypatch.setenv("MIMALLOC_SHOW_STATS", "1")
    plain, huge = environment(ALLOCATORS["jemalloc"]), environment(ALLOCATORS["jemalloc+huge"])
    assert "MALLOC_CONF" not in plain
    assert "MIMALLOC_SHOW_STATS" not in huge
    assert {name: value for name, value in huge.items() if name != "MALLOC_CONF"} == plain
    tunables = environment(ALLOCATORS["glibc+huge"])["GLIBC_TUNABLES"].split(":")
    assert tunables == [plain["GLIBC_TUNABLES"], "glibc.malloc.hugetlb=1"]


@pytest.mark.parametrize("mount", ["/mnt/huge pages", None])
def test_who_wants_a_mount_is_told_one_if_it_is_there(
    mount: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ALLOCATORS["tcmalloc+huge"]
    monkeypatch.setattr(lineup, "substitute", lambda huge: mount)
    told = environment(entry).get(entry.mount)
    if mount is None:
        assert told is None
        assert "mount -t hugetlbfs" in entry.way_out
    else:
        assert str(Path(told).parent) == mount
        assert "apt-get install" in entry.way_out


# ---- memory


def test_the_peak_is_of_what_has_gone_again() -> None:
    with Memory() as memory:
        memory.look()
        with mmap.mmap(-1, 64 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            for at in range(0, 64 * MIB, 4096):
                block[at] = 1
            memory.look()
        memory.look()
    assert 64 * MIB <= memory.peak < 80 * MIB


def test_frames_of_a_pool_are_counted_as_told() -> None:
    with Memory() as memory:
        memory.look(512 * MIB)
        memory.look(0)
    assert 512 * MIB <= memory.peak < 528 * MIB


# ---- the command


def test_json_is_what_was_promised() -> None:
    done = invoke(
        "--json", "-", "--threads", "1,2", "--allocators", "glibc,mrm", "--workloads", "pairs,sh,grow"
    )
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert {"machine", "workloads"} <= set(data)
    found = [(row["workload"], row["threads"], row["allocator"]) for row in data["workloads"]]
    assert found == [(w, t, a) for w in ("pairs", "sh", "grow") for t in (1, 2) for a in ("mrm", "glibc")]
    for row in data["workloads"]:
        assert set(row) == ROW
        assert 0 < row["spread"][0] <= row["ops_per_s"] <= row["spread"][1]
        assert row["peak_mib"] >= 0
    assert any("mimalloc" in note for note in data["notes"])


def test_a_heap_on_a_pool_has_figures_or_a_reason(needs_huge: None) -> None:
    done = invoke("--json", "-", "--threads", "1", "--allocators", "mrm+huge", "--workloads", "large")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    if data["workloads"]:
        assert 2 <= data["workloads"][0]["peak_mib"] < 200
    else:  # others have taken the pages
        assert any("huge pages" in note for note in data["notes"])


def test_table_has_all_that_was_measured() -> None:
    done = invoke("--threads", "1", "--allocators", "glibc", "--workloads", "larson")
    assert done.exit_code == 0, done.output
    for word in ("larson", "glibc", "ops/s", "peak MiB", "Peak memory"):
        assert word in done.output


@pytest.mark.parametrize(
    "wrong",
    [
        ["--allocators", "nothing"],
        ["--workloads", ""],
        ["--threads", "0"],
        ["--grow-to", "1KiB"],
        ["--grow-to", "much"],
        ["--seconds", "0"],
        ["--repeats", "0"],
    ],
)
def test_wrong_arguments_are_refused_in_words(wrong: list[str]) -> None:
    done = invoke(*wrong)
    assert done.exit_code == 2
    assert "Invalid value" in done.output


# ---- a run, with processes that are made up


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """What was asked of processes, in order; each finds more than the one before."""
    asked: list[tuple[str, str, int]] = []

    def child(what, started_with, patience):
        if what["allocator"] == "jemalloc":
            raise mrm.Error("libjemalloc.so.2 cannot be loaded: no such file")
        if "workload" not in what:
            return {}
        if (what["allocator"], what["workload"]) == ("tcmalloc", "sh"):
            return {"ops_per_s": 1.0, "peak_bytes": 0, "refused": 3, "damaged": 0}
        asked.append((what["workload"], what["allocator"], what["threads"]))
        return {"ops_per_s": 1e6 * len(asked), "peak_bytes": MIB, "refused": 0, "damaged": 0}

    monkeypatch.setattr(run, "child", child)
    return asked


def measured(allocators: list[str], repeats: int = 3) -> Result:
    return run.run(["pairs", "sh"], [1], allocators, repeats, 0.01, 4 * MIB, lambda *_: None)


def test_every_repetition_begins_with_another_one(processes: list[tuple[str, str, int]]) -> None:
    result = measured(["mrm", "glibc", "mimalloc"])
    order = [name for workload, name, _ in processes if workload == "pairs"]
    turn = ["mrm", "glibc", "mimalloc"]
    assert order == [*turn, *turn[1:], turn[0], turn[2], *turn[:2]]
    assert result.figure("pairs", 1, "mrm").ops_per_s == 6e6  # of the 1st, the 6th and the 8th
    assert result.figure("pairs", 1, "mrm").spread == (1e6, 8e6)


def test_a_peer_that_is_missing_is_named_with_its_package(processes: list[tuple[str, str, int]]) -> None:
    result = measured(["glibc", "jemalloc"])
    assert result.names("allocator") == ["glibc"]
    assert "apt-get install libjemalloc2" in result.missing["jemalloc"]
    assert any(note.startswith("jemalloc is left out") for note in result.notes)


def test_a_peer_that_fails_has_no_figure_where_it_does(processes: list[tuple[str, str, int]]) -> None:
    result = measured(["glibc", "tcmalloc"])
    assert result.figure("pairs", 1, "tcmalloc") is not None
    assert result.figure("sh", 1, "tcmalloc") is None
    assert sum("tcmalloc has no figure" in note for note in result.notes) == 1


def test_a_process_that_fails_is_told_with_its_last_words() -> None:
    asked = {"allocator": "mrm+huge", "room": 1 << 50}
    with pytest.raises(mrm.Error, match="huge pages"):
        run.child(asked, environment(ALLOCATORS["mrm+huge"]), 60)


# ---- what becomes of the figures


@pytest.fixture
def result() -> Result:
    result = Result({**run.machine(), "processors_taken_by_others": 0.0})
    for kind in KINDS:
        for threads in (1, 2):
            for faster, name in enumerate(("mimalloc", "mrm", "glibc"), 1):
                found = [
                    {"ops_per_s": faster * 1e6 * part, "peak_bytes": faster * 64 * MIB}
                    for part in (0.9, 1, 1.2)
                ]
                result.workloads.append(figure(kind.name, threads, name, found))
    return result


def test_unmeasured_targets_do_not_hold() -> None:
    assert [target.holds(Result({})) for target in TARGETS] == [None] * len(TARGETS)


def test_targets_are_of_the_worst_number_of_threads(result: Result) -> None:
    verdicts = {target.text.split(",")[0]: target.measure(result) for target in TARGETS}
    assert verdicts["churn: ops over mimalloc's"] == 2
    assert verdicts["churn: peak over mimalloc's"] == 2
    assert verdicts["large: ops over the best of the others"] == pytest.approx(2 / 3)
    result.workloads.append(Figure("churn", 4, "mrm", 1.0, (1.0, 1.0), 1.0))
    result.workloads.append(Figure("churn", 4, "mimalloc", 2.0, (2.0, 2.0), 0.1))
    verdicts = {target.text.split(",")[0]: target.measure(result) for target in TARGETS}
    assert verdicts["churn: ops over mimalloc's"] == 0.5
    assert verdicts["churn: peak over mimalloc's"] == 2  # 1 MiB is less than pages come in


def test_report_is_one_page_with_its_pictures(result: Result, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from mrm.tools.bench.heap.report import write

    page = write(result, tmp_path / "report").read_text()
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert "src=" not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())["workloads"]
    assert (tmp_path / "report" / "rates.svg").read_text().startswith("<svg")


def test_without_the_base_there_is_no_picture(result: Result) -> None:
    pytest.importorskip("matplotlib")
    from mrm.tools.bench.heap.plots import plots

    result.workloads = [found for found in result.workloads if found.allocator != "mimalloc"]
    assert plots(result) == {}
