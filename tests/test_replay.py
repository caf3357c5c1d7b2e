"""mrm replay: what a log tells by itself, the same calls on any heap, and the pool that suffices."""

import io
import json
import random

import pytest
from fakeheap import FakeHeap
from heaping import run

import mrm
from mrm.adaptors import Log
from mrm.adaptors.log import COLUMNS
from mrm.tools import cli
from mrm.tools.replay import Leak, Mismatch, examine, replay, sufficient
from mrm.tools.replay.calls import Calls

MIB = 1 << 20
HEADER = ",".join(COLUMNS)


@pytest.fixture
def written(tmp_path):
    """``written(line, ...)`` is a log of these lines: action, address, bytes, was, alignment, where."""

    def write(*lines, end="\n", seconds=0.5, thread=7):
        path = tmp_path / "calls.csv"
        text = "".join(f"{i * seconds},{thread},{line}\n" for i, line in enumerate(lines))
        path.write_text(f"{HEADER}\n{text.removesuffix(chr(10))}{end if lines else ''}")
        return path

    return write


@pytest.fixture
def heap(some_heap):
    return some_heap


# ---- what a log tells ----------------------------------------------------------------


def test_a_sound_log(written):
    found = examine(
        written(
            "malloc,0x1000,100,,,",
            "calloc,0x2000,50,,,",
            "realloc,0x3000,400,0x1000,,",
            "aligned,0x1000,64,,4096,",
            "free,0x2000,64,,,",
            "free,0x1000,64,,,",
            "free,0x3000,400,,,",
        )
    )
    assert found.sound and not found.cut_off
    assert (found.calls, found.blocks, found.threads, found.seconds) == (7, 3, 1, 3.0)
    assert (found.peak_bytes, found.peak_blocks, found.peak_line, found.peak_seconds) == (514, 3, 5, 1.5)
    assert (found.made_bytes, found.largest, found.most_blocks, found.failed) == (514, 400, 3, 0)
    assert found.kinds == {"malloc": 1, "calloc": 1, "aligned": 1, "realloc": 1, "free": 3}
    assert found.leaks == found.mismatched == found.places == []


def test_leaks_by_size_and_place(written):
    path = written(
        "malloc,0x1000,100,,,a.py:1",
        "malloc,0x2000,100,,,a.py:1",
        "malloc,0x3000,300,,,a.py:1",
        'malloc,0x4000,7,,,"odd, ""name"".py:2"',
        "malloc,0x5000,9,,,",
        "free,0x3000,300,,,a.py:9",
        "realloc,0x6000,1000,0x5000,,b.py:3",
    )
    found = examine(path)
    assert found.leaks == [Leak(1000, 1, ""), Leak(100, 2, "a.py:1"), Leak(7, 1, 'odd, "name".py:2')]
    assert (found.leaked_blocks, found.leaked_bytes) == (4, 1207)
    assert found.places == [("a.py:1", 200, 2), ('odd, "name".py:2', 7, 1)]
    assert not found.sound


def test_calls_that_are_about_no_block(written):
    found = examine(
        written(
            "malloc,0x1000,100,,,",
            "free,0x1000,100,,,",
            "free,0x1000,0,,,x.py:1",
            "free,0x9000,0,,,",
            "realloc,0x2000,10,0x1000,,",
            "realloc,0x3000,20,0x7000,,",
            "realloc,0x0,30,0x8000,,",
        )
    )
    assert found.mismatches == {
        "freed twice": 1,
        "freed, but unknown": 1,
        "reallocated after it was freed": 1,
        "reallocated, but unknown": 2,
    }
    assert found.mismatched[:2] == [
        Mismatch(4, "freed twice", 0x1000, 0, "x.py:1"),
        Mismatch(5, "freed, but unknown", 0x9000, 0, ""),
    ]
    assert [mismatch.line for mismatch in found.mismatched] == [4, 5, 6, 7, 8]
    assert found.leaked_blocks == 2  # what those reallocs gave is blocks from then on
    assert len(examine(written("free,0x1000,1,,,", "free,0x1000,1,,,"), most=1).mismatched) == 1


def test_calls_that_got_no_memory_change_nothing(written):
    found = examine(
        written(
            "malloc,0x1000,100,,,", "malloc,0x0,1000,,,", "realloc,0x0,500,0x1000,,", "free,0x1000,100,,,"
        )
    )
    assert found.sound and found.failed == 2 and found.peak_bytes == 100


def test_a_realloc_that_is_written_late(written):
    """Another thread had the place that the block left before the realloc's line was written."""
    found = examine(
        written(
            "malloc,0x1000,100,,,",
            "malloc,0x1000,200,,,",
            "realloc,0x2000,300,0x1000,,",
            "free,0x1000,200,,,",
            "free,0x2000,300,,,",
        )
    )
    assert found.sound and found.peak_bytes == 500
    found = examine(
        written(
            "malloc,0x1000,100,,,",
            "malloc,0x1000,200,,,",
            "free,0x1000,200,,,",
            "realloc,0x2000,300,0x1000,,",
            "free,0x2000,300,,,",
        )
    )
    assert found.sound


def test_blocks_that_ended_unseen(written):
    found = examine(written("malloc,0x1000,100,,,", "malloc,0x1000,200,,,", "free,0x1000,200,,,"))
    assert found.unseen == 0 and found.leaked_bytes == 100
    found = examine(written("malloc,0x1000,100,,,", "malloc,0x1000,200,,,"))
    assert (found.unseen, found.unseen_bytes, found.leaked_bytes) == (1, 100, 200)
    assert not found.sound


def test_an_empty_log(written):
    found = examine(written())
    assert found.sound and found.calls == found.blocks == found.peak_bytes == found.peak_line == 0
    assert replay(written()).calls == 0


def test_a_last_line_without_an_end_is_left_out_and_said(written):
    found = examine(written("malloc,0x1000,100,,,", "free,0x1000,1", end=""))
    assert found.cut_off and found.calls == 1
    found = examine(written("malloc,0x1000,100,,,", 'malloc,0x2000,1,,,"a', end="\n"))
    assert found.cut_off and found.calls == 1


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("mallok,0x1000,100,,,", "action"),
        ("malloc,0x10g0,100,,,", "address"),
        ("malloc,0x1000,-1,,,", "bytes"),
        ("malloc,0x1000,99999999999999999999,,,", "bytes"),
        ("realloc,0x1000,1,z,,", "was"),
        ("aligned,0x1000,1,,?,", "alignment"),
        ("malloc,0x1000", "address"),
    ],
)
def test_what_is_no_log_is_said_with_the_line(written, line, column):
    with pytest.raises(mrm.ArgumentError, match=rf"calls.csv:3: .* in its column '{column}'"):
        examine(written("malloc,0x1000,100,,,", line))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other"
    path.write_text("a,b,c\n")
    with pytest.raises(mrm.ArgumentError, match="is no log of calls: it does not begin"):
        Calls(path)
    with pytest.raises(FileNotFoundError):
        Calls(tmp_path / "none")


# ---- again -----------------------------------------------------------------------------


def program(heap, calls, seed=1, most=5000, threads=1):
    """Some calls of any kind; what it leaves it forgets."""

    def work(number):
        chosen = random.Random(f"{seed} {number}")
        live = []
        for _ in range(calls // threads):
            what = chosen.random()
            nbytes = int(chosen.random() ** 3 * most)
            if what < 0.4 or not live:
                live.append(heap.malloc(nbytes))
            elif what < 0.5:
                live.append(heap.calloc(3, nbytes))
            elif what < 0.55:
                live.append(heap.aligned(1 << chosen.randrange(4, 13), nbytes))
            elif what < 0.65:
                i = chosen.randrange(len(live))
                live[i] = heap.realloc(live[i], nbytes)
            else:
                heap.free(live.pop(chosen.randrange(len(live))))

    run(*(lambda number=number: work(number) for number in range(threads)))


def logged(path, calls, below=None, **keywords):
    with mrm.Heap() as own, Log(below or own, path, where=True) as log:
        program(log, calls, **keywords)
    return path


def test_a_program_of_several_threads_again(tmp_path, heap):
    path = logged(tmp_path / "calls.csv", 4000, threads=4)
    found = examine(path)
    assert found.threads == 4 and found.calls == 4000
    assert not any(found.mismatches.values()) and not found.unseen
    again = [replay(path, heap), replay(path), replay(path, Log(heap, io.StringIO()))]
    assert {(r.calls, r.failed, r.skipped) for r in again} == {(4000, 0, 0)}
    assert not list(heap.blocks())
    assert all(r.rate > 0 for r in again)


def test_again_by_methods_is_the_same_log(tmp_path):
    first = logged(tmp_path / "first.csv", 2000)
    fake = FakeHeap()
    with Log(fake, tmp_path / "second.csv") as log:
        replayed = replay(first, log)
        assert replayed.calls == 2000 and not fake.live
    one, two = examine(first), examine(tmp_path / "second.csv")
    assert two.sound and two.calls == 2000 + one.leaked_blocks
    for name in ("blocks", "made_bytes", "peak_bytes", "peak_blocks", "peak_line", "largest", "most_blocks"):
        assert getattr(one, name) == getattr(two, name), name


def test_a_heap_that_is_too_small(written):
    lines = [
        "malloc,0x1000,3000000,,,",
        "malloc,0x2000,6000000,,,",
        "free,0x2000,1,,,",
        "malloc,0x2000,100,,,",
    ]
    with mrm.Heap(limit=6 * MIB) as heap:
        again = replay(written(*lines), heap)
    assert (again.calls, again.failed, again.failed_line, again.failed_bytes) == (3, 1, 3, 6000000)
    assert again.skipped == 1
    again = replay(written(*lines), FakeHeap(room=6 * MIB))
    assert (again.calls, again.failed, again.failed_line, again.skipped) == (3, 1, 3, 1)


def test_what_the_program_went_without_is_not_tried_again(written, heap):
    again = replay(written("malloc,0x0,99999999999999,,,", "malloc,0x10,5,,,", "free,0x99,1,,,"), heap)
    assert (again.calls, again.failed, again.skipped) == (1, 0, 2)


def test_the_pool_that_suffices_does_and_one_frame_less_does_not(tmp_path):
    path = logged(tmp_path / "calls.csv", 3000, most=400_000)
    nbytes = sufficient(path)
    assert nbytes % mrm.FRAME_SIZE == 0
    assert nbytes >= examine(path).peak_bytes
    with mrm.Pool(nbytes, huge="off", name="test") as pool, mrm.Heap(pool) as heap:
        assert not replay(path, heap).failed
    fewer = nbytes - max(nbytes // 50 // mrm.FRAME_SIZE, 1) * mrm.FRAME_SIZE
    with mrm.Pool(fewer, huge="off", name="test") as pool, mrm.Heap(pool) as heap:
        assert replay(path, heap).failed


def test_a_million_calls(tmp_path):
    path = tmp_path / "calls.csv"
    n, alive = 1_000_000, 50_000
    with open(path, "w") as file:
        file.write(HEADER + "\n")
        for i in range(n // 2):
            file.write(
                f"{i / 1e6:.7f},1,malloc,{0x7F0000000000 + i * 64:#x},{(i * 37) % 900 + 1},,,p.py:{i % 9}\n"
            )
            if i >= alive:
                gone = i - alive
                file.write(f"{i / 1e6:.7f},1,free,{0x7F0000000000 + gone * 64:#x},1,,,\n")
    found = examine(path)
    assert found.leaked_blocks == alive and found.blocks == n // 2 and len(found.places) == 9
    with mrm.Heap() as heap:
        again = replay(path, heap)
    assert again.calls == found.calls == n - alive


# ---- the command ------------------------------------------------------------------------


@pytest.fixture
def command(capsys):
    pytest.importorskip("click")

    def called(*arguments):
        status = cli.run(["replay", *map(str, arguments)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return called


def test_command_says_what_was_found(command, written):
    path = written(
        "malloc,0x1000,3000000,,,a.py:1",
        "malloc,0x0,100,,,",
        "malloc,0x2000,100,,,",
        "free,0x3000,1,,,a.py:2",
        "free,0x2000,1,,",
        end="",
    )
    status, out, _ = command(path)
    assert status == 1
    for sentence in (
        "4 calls in 1.5 s by 1 thread: 3 malloc, 1 free",
        "peak      2.861 MiB in 2 blocks, at 1 s (line 4)",
        "pool      6 MiB suffice",
        "failed    1 call got no memory in the program",
        "cut off   the last line has no end",
        "LEAKED    2.861 MiB in 2 blocks:\n  2.861 MiB in 1 block from a.py:1\n  1 block of 100 B\n",
        "MISMATCH  1 block freed, but unknown\n  line 5: 0x3000 freed, but unknown  a.py:2",
    ):
        assert sentence in out, out


def test_command_for_programs(command, written):
    status, out, _ = command(written("malloc,0x1000,100,,,", "free,0x1000,100,,,"), "--json")
    said = json.loads(out)
    assert status == 0
    assert said["log"]["peak_bytes"] == 100 and said["log"]["leaks"] == [] == said["log"]["places"]
    assert said["heap"]["kind"] == "private" and said["pool_bytes"] == said["heap"]["memory_peak"] == 2 * MIB
    assert said["replay"]["calls"] == 2 and said["replay"]["calls_per_s"] > 0


@pytest.mark.parametrize("kind", ["private", "pool", "glibc"])
@pytest.mark.filterwarnings("ignore::mrm.BackingWarning")
def test_command_on_any_heap(command, written, kind):
    path = written("malloc,0x1000,5000000,,,", "free,0x1000,1,,,")
    status, out, _ = command(path, "--heap", kind)
    assert status == 0
    assert "sound     every block was freed, once" in out
    assert f"\n{kind:9} 2 calls again in " in out
    if kind != "glibc":
        status, out, _ = command(path, "--heap", kind, "--size", "4MiB")
        assert status == 1
        assert "SHORT     1 call got no memory, the first (line 2) for 4.768 MiB" in out


def test_command_usage(command, written, tmp_path):
    path = written()
    assert command(path, "--heap", "glibc", "--size", "1MiB")[0] == 2
    assert command(path, "--heap", "tcmalloc")[0] == 2
    assert command(tmp_path / "none.csv")[0] == 2
    (tmp_path / "calls.csv").write_text("nonsense")
    status, _, err = command(path)
    assert status == 1 and "is no log of calls" in err
    status, out, _ = command("--help")
    assert status == 0 and "Examples:" in out and "Exit status:" in out
