"""MRM_LOG: what happens, as lines and as JSON, and that nothing is written unless asked."""

import json
import os
import re
import subprocess
import sys
import threading

import pytest
from helpers import FRAME, ROOT, environment, in_child
from machine import needs_checkout

import mrm
from mrm.system import calls, events

STORY = """
pool = mrm.Pool(4 * FRAME, huge="off", name=name)
taken = pool.take(4)
try:
    pool.take()
except mrm.OutOfFrames:
    pass
pool.on_shortage(lambda account, wanted: pool.give(taken[:2], reuse="after_retire") or pool.retire())
taken = list(taken[2:]) + list(pool.take(2))
view = pool.open_view(); view.retire(); view.close()
pool.on_shortage(None)
pool.give(taken)
pool.close()
"""
NAME = 'a "b"\\\n\tä€'
LINE = re.compile(
    r'(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) mrm\[(\d+)\] (\w+)((?: \w+=(?:"(?:[^"\\]|\\.)*"|\S+))*)'
)


def run(monkeypatch, where, form=None, name=NAME):
    """The story, in a fresh process, which is told where to log, or nothing of it."""
    if where is None:
        monkeypatch.delenv("MRM_LOG", raising=False)
    else:
        monkeypatch.setenv("MRM_LOG", where)
    if form:
        monkeypatch.setenv("MRM_LOG_FORMAT", form)
    ending = in_child(f"name = {name!r}\n{STORY}")
    assert (ending.code, ending.out) == (0, ""), ending
    return ending.err


def parsed(lines):
    """Lines as dicts, in the form that JSON has."""
    found = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match, line
        fields = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)', match[4])
        found.append({"time": match[1], "pid": int(match[2]), "event": match[3]})
        found[-1].update((field, json.loads(value)) for field, value in fields)
    return found


@pytest.mark.parametrize("form", ["line", "json"])
@pytest.mark.parametrize("where", ["stderr", "file"])
def test_a_story_is_told(monkeypatch, tmp_path, form, where):
    path = tmp_path / "log with spaces"
    path.write_text("kept\n")
    err = run(monkeypatch, "stderr" if where == "stderr" else str(path), form)
    text = err if where == "stderr" else path.read_text().removeprefix("kept\n")
    assert where == "stderr" or (err == "" and path.read_text().startswith("kept\n"))
    lines = text.splitlines()
    told = [json.loads(line) for line in lines] if form == "json" else parsed(lines)
    assert [event["event"] for event in told] == [
        "fund", "shortage", "retire", "shortage", "retire", "close",
    ]  # fmt: skip
    assert len({event["pid"] for event in told}) == 1
    assert all(event["pool"] == 1 and event["name"] == NAME for event in told)
    fund, refused, retire, relieved, view, _ = told
    assert (fund["size"], fund["frames"], fund["backing"]) == (4 * FRAME, 4, "small")
    assert 0 <= fund["seconds"] < 60
    assert (refused["account"], refused["wanted"], refused["relieved"]) == ("pool", 1, False)
    assert (retire["retire"], retire["ready"]) == (1, 2)
    assert (relieved["wanted"], relieved["relieved"]) == (2, True)
    assert (view["retire"], view["ready"]) == (2, 0)
    assert [event["time"] for event in told] == sorted(event["time"] for event in told)


@pytest.mark.parametrize("where", [None, ""])
def test_nothing_is_written_unless_asked(monkeypatch, where):
    assert run(monkeypatch, where) == ""
    assert not events.is_on()
    with calls.Script(kinds=["write"]) as script, mrm.Pool(FRAME, huge="off") as pool:
        pool.retire()
        events.event("inflate", size=1)
    assert script.counted == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"MRM_LOG": "/nowhere/at/all"}, "/nowhere/at/all cannot be written: No such file"),
     ({"MRM_LOG": "stderr", "MRM_LOG_FORMAT": "xml"}, "MRM_LOG_FORMAT is line or json, not 'xml'")],
)  # fmt: skip
def test_a_log_that_cannot_be_had_is_warned_of_and_stops_nothing(asked, words):
    done = subprocess.run(
        [sys.executable, "-c", "import mrm; print(mrm.system.events.is_on())"],
        env={**environment(), **asked},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
    assert words in done.stderr
    assert "events are not logged" in done.stderr


@pytest.fixture
def log(tmp_path):
    """This process's events, as JSON in a file; a function that reads them."""
    path = tmp_path / "log"
    events.configure(str(path), "json")
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    events.configure(None)


def test_python_says_events_too(log):
    events.event("inflate", size=2**40, seconds=0.25, done=True, to="pool", why=None, name='x"\0\n')
    (told,) = log()
    del told["time"], told["pid"]
    assert told == {
        "event": "inflate", "size": 2**40, "seconds": 0.25, "done": True, "to": "pool", "name": 'x"?\n',
    }  # fmt: skip


def test_the_balloon_says_what_it_did(log):
    with mrm.Pool(4 * FRAME, huge="off", name="b") as pool:
        held = pool.take(2)
        pool.inflate(3 * FRAME)
        pool.resize(3 * FRAME)
        pool.give(held)
    told = {event["event"]: event for event in log()}
    assert list(told) == ["fund", "retire", "inflate", "deflate", "close"]
    assert (told["inflate"]["wanted"], told["inflate"]["frames"], told["inflate"]["size"]) == (
        3,
        2,
        2 * FRAME,
    )
    assert (told["inflate"]["place"], told["inflate"]["name"]) == ("system", "b")
    assert "2 did" in told["inflate"]["error"]
    assert (told["deflate"]["wanted"], told["deflate"]["frames"]) == (1, 1)
    assert "error" not in told["deflate"]


def test_a_long_text_is_cut_between_characters(log):
    events.event("x", text="€" * 2000, after=5)
    (told,) = log()
    assert set(told["text"]) == {"€"}
    assert 100 < len(told["text"]) < 400
    assert told["after"] == 5


def test_many_fields_are_never_half_a_line(log):
    events.event("x", **{f"field_{i}": i for i in range(200)})
    for n in range(60):  # wherever the line ends
        events.event("y" * n, **{f"f{i}": "text" if i % 3 else i for i in range(120)})
    told = log()
    assert len(told) == 61
    assert all(event[f"field_{i}"] == i for event in told[:1] for i in range(20))
    assert all(event["f1"] == "text" for event in told[1:])


def test_lines_that_could_not_be_written_are_counted(log):
    with calls.Script(fail=1, times=3, kinds=["write"]):
        for i in range(3):
            events.event("gone", number=i)
    events.event("there")
    events.event("again")
    first, second = log()
    assert (first["event"], first["lost"]) == ("there", 3)
    assert "lost" not in second


def test_lines_of_threads_do_not_mix(log):
    threads = [
        threading.Thread(target=lambda i=i: [events.event("t", thread=i, n=n) for n in range(200)])
        for i in range(4)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = log()
    assert sorted((e["thread"], e["n"]) for e in told) == [(i, n) for i in range(4) for n in range(200)]


def test_a_pool_that_cannot_be_watched_says_so_in_the_log(log):
    with calls.Script(fail=2, kinds=["memfd_create"], error=1):
        mrm.Pool(FRAME, huge="off").close()
    fund, close = log()
    assert "memfd_create" in fund["cannot_be_watched"]
    assert close["event"] == "close"


def test_a_pool_that_never_opened_does_not_close(log):
    with calls.Script(fail=1, kinds=["mprotect", "mmap"], times=None), pytest.raises(mrm.Error):
        mrm.Pool(FRAME, huge="off")
    assert log() == []


def test_a_child_logs_under_its_own_number(log):
    child = os.fork()
    if child == 0:
        events.event("child")
        os._exit(0)
    os.waitpid(child, 0)
    events.event("parent")
    told = log()
    assert [(e["event"], e["pid"]) for e in told] == [("child", child), ("parent", os.getpid())]


@needs_checkout
def test_the_documentation_names_both_variables():
    text = (ROOT / "docs/watching.md").read_text()
    assert "MRM_LOG" in text
    assert "MRM_LOG_FORMAT" in text
