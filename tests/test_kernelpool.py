"""kernelpool: the kernel's settings, on made-up kernels; the real one is changed in test_keeper."""

import errno
import fcntl
import os
import threading

import pytest
from helpers import FRAME
from madeup import NODE, POOL, write

from mrm.errors import ArgumentError, FundingError
from mrm.physical import keeper, kernelpool
from mrm.physical.keeper import NR
from mrm.physical.keeping import Keeper


@pytest.fixture
def kernel(tmp_path):
    """A machine of two nodes with 12 huge pages, 2 of them surplus; 5 and no surplus on node 1."""
    files = {
        f"{POOL}/nr_hugepages": 12,
        f"{POOL}/free_hugepages": 4,
        f"{POOL}/surplus_hugepages": 2,
        f"{POOL}/nr_overcommit_hugepages": 3,
        f"{NODE}/nr_hugepages": 5,
        f"{NODE}/surplus_hugepages": 0,
        "sys/devices/system/node/online": "0-1",
        "proc/meminfo": "MemFree: 204800 kB",
    }
    return write(tmp_path, files)


def number(root, name):
    return int((root / name).read_text())


def test_what_is_added_is_added_to_the_persistent_pages(kernel):
    """Writing the setting sets those alone; the file shows them and the surplus pages together."""
    # The made-up kernel shows what was written: 10 persistent pages, of which 2 would be surplus.
    assert kernelpool.change(3, root=kernel) == (13 - 2 - 10, None)
    assert number(kernel, f"{POOL}/nr_hugepages") == 13


def test_nothing_goes_below_zero(kernel):
    kernelpool.change(-100, root=kernel)
    assert number(kernel, f"{POOL}/nr_hugepages") == 0


def test_a_nodes_own_setting(kernel):
    assert kernelpool.change(4, 1, kernel) == (4, None)
    assert number(kernel, f"{NODE}/nr_hugepages") == 9


def test_a_node_that_is_none_is_refused_before_anything_is_written(kernel):
    before = {path: path.read_text() for path in kernel.rglob("*_hugepages")}
    with pytest.raises(ArgumentError, match="no NUMA node 7"):
        kernelpool.change(1, 7, kernel)
    assert before == {path: path.read_text() for path in kernel.rglob("*_hugepages")}


def test_fewer_pages_than_asked_for_are_counted(kernel, monkeypatch):
    def write(file, value):
        with open(file, "w") as setting:
            setting.write(str(min(value, 14)))

    monkeypatch.setattr(keeper, "write", write)
    (kernel / f"{POOL}/surplus_hugepages").write_text("0")
    assert kernelpool.change(10, root=kernel) == (2, None)


def test_figures_that_move_are_read_until_they_stand(monkeypatch):
    """Five surplus pages go between the reading of the sum and of the surplus."""
    moving = iter([100, 5, 95, 5, 95, 5])
    monkeypatch.setattr(keeper, "_number", lambda file: next(moving))
    assert keeper.value("/sys/somewhere") == 90


def test_a_refused_write_is_a_sentence(kernel, monkeypatch):
    def refuse(file, value):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(keeper, "write", refuse)
    changed, said = kernelpool.change(4, root=kernel)
    assert changed == 0
    assert "cannot be written (Permission denied): ask the administrator to set vm.nr_hugepages=14" in said
    assert f"write 9 to {kernel}/{NODE}/nr_hugepages" in kernelpool.change(4, 1, kernel)[1]


def test_where_there_is_no_setting_it_says_why(tmp_path):
    assert "/sys is hidden" in kernelpool.change(1, root=tmp_path)[1]
    (tmp_path / "sys/kernel/mm").mkdir(parents=True)
    assert "no huge pages" in kernelpool.change(1, root=tmp_path)[1]
    assert not kernelpool.writable(root=tmp_path)


def test_pages_are_figures_of_one_moment(kernel, monkeypatch):
    seen = iter([1, 2, 3, 3])
    monkeypatch.setattr(kernelpool, "huge_pages", lambda *_: next(seen))
    assert kernelpool.pages(root=kernel) == 3


# ---- the lock --------------------------------------------------------------------------


def test_two_that_add_at_once_both_add(kernel, monkeypatch):
    """Without the lock one would overwrite what the other has added."""
    (kernel / f"{POOL}/surplus_hugepages").write_text("0")

    def add():
        for _ in range(50):
            kernelpool.change(1, root=kernel)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number(kernel, f"{POOL}/nr_hugepages") == 212


def test_the_lock_is_on_the_setting_itself(kernel):
    fd = os.open(kernel / POOL / NR, os.O_RDONLY)
    try:
        with keeper.alone(str(kernel / POOL)), pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)


@pytest.fixture
def setting(kernel):
    """A setting that somebody else has locked, and keeps so."""
    fd = os.open(kernel / POOL / NR, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield kernel / POOL / NR
    os.close(fd)


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(keeper, "PATIENCE_ASKED", 0.01)


@pytest.mark.usefixtures("short_patience")
def test_whoever_keeps_a_setting_locked_has_nobody_wait_for_ever(kernel, setting):
    assert kernelpool.change(3, root=kernel)[0] == 0
    for outcome in (
        kernelpool.raise_available(200 * FRAME, root=kernel),
        kernelpool.release(2 * FRAME, root=kernel),
    ):
        assert (outcome.added, outcome.before) == (0, outcome.after)
        assert "locked by somebody else" in outcome.refused
    assert setting.read_text() == "12\n"


def test_a_keeper_says_that_the_setting_is_locked(kernel, setting):
    with Keeper(kernel) as held, pytest.raises(FundingError, match="locked by somebody else") as refused:
        held.change(-3)
    assert refused.value.errno == errno.EWOULDBLOCK
    assert (held.sums, setting.read_text()) == ({}, "12\n")


def test_a_lock_that_cannot_be_had_at_all_is_not_no_lock(kernel, monkeypatch):
    def refuse(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    changed, said = kernelpool.change(3, root=kernel)
    assert (changed, (kernel / POOL / NR).read_text()) == (0, "12\n")
    assert "No locks available" in said
