"""Watching: the end of what is watched, who may look, what cannot be read, and the commands."""

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys

import pytest
from helpers import FRAME, ROOT, environment, in_child, wait_until
from limited import needs_root
from watching import go_on, mrm_command, owner

from mrm._books import UnknownBooks, read_books, read_head
from mrm.tools.watch import find, rates
from mrm.tools.watch.find import NothingToWatch, wanted

# ---- its end ---------------------------------------------------------------------------------------

SMALL = 'pool = mrm.Pool(4 * F, huge="off", name=name)\nready()\n'


def test_a_pool_that_closes_is_told():
    with owner(SMALL + "pool.close()\nready()") as process:
        (books,) = wanted(str(process.pid))
        with books:
            assert books.ended == ""
            assert go_on(process) == "ready\n"
            assert books.ended == f"process {process.pid} has closed the pool"
            assert sum(books.read()["frames"].values()) == 4
        with pytest.raises(NothingToWatch, match="mrm loaded, and no pool"):
            wanted(str(process.pid))


def test_a_process_that_is_killed_is_told():
    with owner(SMALL) as process:
        (books,) = wanted(str(process.pid))
        with books:
            process.kill()
            wait_until(lambda: books.ended)
            assert books.ended == f"process {process.pid} has ended"  # not waited for yet: a zombie
            process.wait()
            assert books.ended == f"process {process.pid} has ended"
            books.read()


@contextlib.contextmanager
def top_of(process):
    """The command, in a process of its own, as a terminal would start it."""
    pytest.importorskip("click")
    pytest.importorskip("rich")
    # Who starts the tests in a shell's background has them ignore Ctrl-C; a terminal does not.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import runpy; runpy.run_module('mrm.tools.cli', run_name='__main__')"
    )
    command = [sys.executable, "-u", "-c", code, "top", str(process.pid), "--interval", "0.1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as top:
        try:
            yield top
        finally:
            top.kill()


def test_top_ends_with_the_pool():
    with owner(SMALL + "pool.close()\nready()") as process, top_of(process) as top:
        assert "pool 1 'owner'" in top.stdout.readline()
        assert go_on(process) == "ready\n"
        out, err = top.communicate(timeout=30)
    assert (top.returncode, err.strip()) == (0, "")
    assert out.rstrip().endswith("has closed the pool.")


def test_top_ends_well_on_ctrl_c():
    with owner(SMALL) as process, top_of(process) as top:
        assert "pool 1 'owner'" in top.stdout.readline()
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=30)
    assert (top.returncode, err.strip()) == (0, "")


# ---- who may, and what cannot be read -----------------------------------------------------------------


@needs_root
def test_another_user_may_not_look():
    pytest.importorskip("click")
    pytest.importorskip("rich")
    with owner(SMALL) as process:
        code = f"""
        import mrm.tools.cli, mrm.tools.watch.stats, mrm.tools.watch.top
        from limited import become_nobody
        become_nobody()
        say(mrm.tools.cli.run(["top", "{process.pid}", "--once"]))
        say(mrm.tools.cli.run(["stats", "owner"]))
        """
        ending = in_child(code)
    assert ending.out == "1\n1\n", ending
    assert f"process {process.pid} may not be looked into: Permission denied" in ending.err
    assert "no pool that this user may see is called 'owner'" in ending.err
    assert "Processes that may not be looked into" in ending.err


@needs_root
def test_the_same_user_may_look():
    code = f"""
    sys.path.insert(0, {str(ROOT / "tests")!r})
    from limited import become_nobody
    pool = mrm.Pool(4 * F, huge="off", name=name)
    become_nobody()
    ready()
    """
    with owner(code) as process:
        ending = in_child(
            f"""
            import mrm.tools.watch.find as find
            from limited import become_nobody
            become_nobody()
            (books,) = find.wanted("{process.pid}")
            say(books.read()["pool"]["frames"])
            """
        )
    assert (ending.code, ending.out) == (0, "4\n"), ending


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [(8, struct.pack("I", 77), "of mrm 0.1.0 (books of layout 77)"),
     (12, b"9.9.9\0", None),
     (12 + 32 + 4 * 5, struct.pack("I", 999), "watch it with the mrm command of that version"),
     (0, b"nonsense", "no books of a pool")],
)  # fmt: skip
def test_books_of_another_layout_are_refused(mine, at, value, words):
    _, books = mine
    copy = os.memfd_create("mrm-books:copy")
    try:
        os.pwrite(copy, os.pread(books.fd, os.fstat(books.fd).st_size, 0), 0)
        os.pwrite(copy, value, at)
        if words is None:
            assert read_head(copy)["version"] == "9.9.9"  # another version, and the same layout
            return
        with pytest.raises(UnknownBooks, match=re.escape(words)):
            read_books(copy)
    finally:
        os.close(copy)


def test_books_that_end_too_early_are_refused(mine):
    _, books = mine
    copy = os.memfd_create("mrm-books:short")
    try:
        os.pwrite(copy, os.pread(books.fd, 8192, 0), 0)
        with pytest.raises(UnknownBooks, match="end before"):
            read_books(copy)
        os.ftruncate(copy, 10)
        with pytest.raises(UnknownBooks, match="no books"):
            read_head(copy)
    finally:
        os.close(copy)


def test_unknown_books_of_a_process_are_told_and_left_out_of_lists():
    code = """
    fd = os.memfd_create("mrm-books:strange")
    os.write(fd, b"mrmbooks" + bytes([9]) + bytes(3) + b"0.9" + bytes(4096))
    ready()
    """
    with owner(code) as process:
        with pytest.raises(UnknownBooks, match=r"mrm 0\.9 \(books of layout 9\)"):
            wanted(str(process.pid))
        census = find.listed()
        assert process.pid not in [books.pid for books in census.books]
        assert census.unknown >= 1
        census.close()
        assert "another version, or still opening): " in mrm_command("top").output
        assert "another version, or still opening): " in mrm_command("stats").stderr
        with pytest.raises(NothingToWatch, match=r"cannot read .*: [1-9]"):
            wanted("nobody's")


@pytest.mark.parametrize(
    ("who", "words"),
    [("99999999", "there is no process 99999999"), ("nobody's", "is called \"nobody's\"")
    ],
)  # fmt: skip
def test_what_is_not_there_is_told(who, words):
    with pytest.raises(NothingToWatch, match=re.escape(words)):
        wanted(who)


def test_a_process_without_mrm_is_told():
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with pytest.raises(NothingToWatch, match="has no pool: mrm is not loaded in it"):
                wanted(str(process.pid))
        finally:
            process.kill()


# ---- the commands ------------------------------------------------------------------------------------

TWO = 'pools = [mrm.Pool(n * F, huge="off", name=name) for n in (2, 3)]\nready()\n'


def test_top_lists_and_chooses():
    with owner(TWO, 'a [bold]"name"') as process:
        listed = mrm_command("top")
        assert listed.exit_code == 0
        rows = [line for line in listed.output.splitlines() if str(process.pid) in line]
        assert len(rows) == 2
        assert all('a [bold]"name"' in row for row in rows)
        several = mrm_command("top", str(process.pid))
        assert several.exit_code == 2
        assert "several are meant" in several.output
        assert "4 MiB" in several.output
        assert "6 MiB" in several.output
        one = mrm_command("top", 'a [bold]"name"', "--pool", "2", "--once", "--interval", "0.05")
        assert one.exit_code == 0, one.output
        assert "3 frames, 6 MiB, small" in one.output
        none = mrm_command("top", str(process.pid), "--pool", "9")
        assert none.exit_code == 2
        assert "none of these" in none.output


def test_a_picture_shows_whatever_the_books_have(mine):
    pytest.importorskip("rich")
    from rich.console import Console

    from mrm.tools.watch.display import frame as picture

    _, books = mine
    told = books.read()
    told["frames"]["inflated"] = 3
    told["frames"]["ready"] -= 3
    told["accounts"].append({**told["accounts"][0], "name": "balloon", "number": 2, "allocated": 3})
    told["changes"][2] = (0,) * len(told["changes"][1])
    told["counted"] = 8
    reading = rates.Reading(told, 1.0, 5)
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(picture(books, reading, reading))
    console.file.close()
    said = console.export_text()
    assert "inflated 3 (6 MiB)" in said
    assert re.search(r"balloon +0 +3 ", said)
    assert "estimated from 8 of 16" in said
    for words in ("committed", "pause_prevention", "takes and gives", "system calls", "whole machine"):
        assert words in said


def test_stats_as_json():
    with owner(TWO) as process:
        said = json.loads(mrm_command("stats", str(process.pid)).output)
        everybody = json.loads(mrm_command("stats").stdout)
    assert [pool["pool"]["frames"] for pool in said["pools"]] == [2, 3]
    assert said["pools"][0]["frames"]["ready"] == 2
    assert said["pools"][0]["accounts"][0]["stack_changes"] == 0
    assert process.pid in [pool["owner"]["pid"] for pool in everybody["pools"]]


def test_stats_for_prometheus_line_by_line():
    name = 'quo"te\\d'
    with owner(TWO, name) as process:
        said = mrm_command("stats", str(process.pid), "--prometheus")
    assert said.exit_code == 0
    assert said.output.endswith("\n")
    kinds, helped, samples = {}, set(), []
    sample = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\} (\d+)')
    for line in said.output.splitlines():
        if line.startswith("# HELP "):
            metric = line.split()[2]
            assert metric not in helped
            helped.add(metric)
            assert line.endswith(".")
        elif line.startswith("# TYPE "):
            _, _, metric, kind = line.split()
            assert metric in helped
            assert metric not in kinds
            kinds[metric] = kind
            assert (kind == "counter") == metric.endswith("_total")
        else:
            found = sample.fullmatch(line)
            assert found, line
            assert list(kinds)[-1] == found[1], "not below its TYPE"
            labels = dict(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', found[2]))
            assert labels["pid"] == str(process.pid)
            assert labels["name"] == 'quo\\"te\\\\d'
            samples.append((found[1], labels, int(found[3])))
    assert set(kinds) == helped == {metric for metric, _, _ in samples}

    def values(metric, **labels):
        return [v for m, has, v in samples if m == metric and labels.items() <= has.items()]

    assert values("mrm_pool_frames", state="ready") == [2, 3]
    assert values("mrm_pool_size_bytes", pool="2") == [3 * FRAME]
    assert values("mrm_account_limit_frames", account="pool") == [2, 3]
    assert values("mrm_fund_size_frames", fund="committed") == [2, 3]
    assert values("mrm_pool_info", backing="small") == [1, 1]
