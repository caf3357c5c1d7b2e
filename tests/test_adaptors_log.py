"""Log: every call in a file, in an order that could have been."""

import io
import os
import threading

import pytest
from fakeheap import rows

import mrm
from mrm.adaptors import Log, Statistics
from mrm.adaptors.log import COLUMNS


def test_log(fake_heap):
    file = io.StringIO()
    heap = Log(fake_heap, file)
    a = heap.malloc(100)
    b = heap.calloc(3, 7)
    c = heap.aligned(256, 10)
    d = heap.realloc(a, 2000)
    fake_heap.room = 0
    with pytest.raises(mrm.OutOfFrames):
        heap.malloc(5)
    with pytest.raises(mrm.OutOfFrames):
        heap.realloc(d, 9999)
    heap.free(d)
    heap.free(0)
    heap.flush()
    lines = rows(file.getvalue())
    assert tuple(lines[0]) == COLUMNS
    me = str(threading.get_native_id())
    assert {line["thread"] for line in lines} == {me}
    assert [float(line["seconds"]) for line in lines] == sorted(float(line["seconds"]) for line in lines)
    assert [[line[c] for c in COLUMNS[2:]] for line in lines] == [
        ["malloc", f"{a:#x}", "100", "", "", ""],
        ["calloc", f"{b:#x}", "21", "", "", ""],
        ["aligned", f"{c:#x}", "10", "", "256", ""],
        ["realloc", f"{d:#x}", "2000", f"{a:#x}", "", ""],
        ["malloc", "0x0", "5", "", "", ""],
        ["realloc", "0x0", "9999", f"{d:#x}", "", ""],
        ["free", f"{d:#x}", "2000", "", "", ""],
    ]
    heap.close()
    assert not file.closed


def test_log_to_a_path_says_where(fake_heap, tmp_path):
    path = tmp_path / "calls.csv"
    with Log(Statistics(fake_heap), path, where=True) as heap:
        heap.malloc(1)
        buffer = heap.buffer(2)
        del buffer
    here = {line["where"].rpartition(":")[0] for line in rows(path.read_text())}
    assert here == {__file__}
    assert [line["action"] for line in rows(path.read_text())] == ["malloc", "malloc", "free"]


def test_where_is_quoted_as_csv_wants_it(fake_heap):
    file = io.StringIO()
    heap = Log(fake_heap, file, where=True)
    code = compile("heap.malloc(1)", 'odd, "name".py', "exec")
    exec(code, {"heap": heap})
    heap.flush()
    assert rows(file.getvalue())[0]["where"] == 'odd, "name".py:1'


def test_a_log_that_is_forgotten_is_whole(fake_heap, tmp_path):
    path = tmp_path / "calls.csv"
    heap = Log(fake_heap, path)
    heap.malloc(1)
    del heap
    assert len(path.read_text().splitlines()) == 2


def test_a_child_writes_nothing_and_nothing_twice(fake_heap, tmp_path):
    path = tmp_path / "calls.csv"
    with open(tmp_path / "other.csv", "w") as other:
        heap = Log(Log(fake_heap, path), other)
        heap.malloc(1)
        child = os.fork()
        if not child:
            heap.free(heap.malloc(2))
            heap.flush()
            heap.close()
            other.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        heap.malloc(3)
        heap.close()
    for name in (path, tmp_path / "other.csv"):
        assert [line["bytes"] for line in rows(name.read_text())] == ["1", "3"]
