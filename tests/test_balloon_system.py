"""The balloon and the system: huge pages that go on to it and come from it, and a machine that has no more.

What is changed of nr_hugepages is a few pages, and what the pool's keeper says of it is compared: others
may change it, too. What uses up the machine's huge pages runs on machines that are thrown away.
"""

import contextlib
import errno
import time
import types

import pytest
from ballooning import audit
from helpers import FRAME, alive, other_process, wait_until
from machine import THROWAWAY, throwaway

import mrm
from mrm import _balloon
from mrm.physical.keeping import Keeper
from mrm.physical.kernelpool import writable
from mrm.physical.limits import huge_pages


def setting():
    """Persistent huge pages of the kernel's pool."""
    found = huge_pages()
    return found.total - found.surplus


@pytest.fixture
def needs_setting(needs_huge):
    """For tests that change nr_hugepages, by a few pages, and put it back."""
    if not writable():
        pytest.skip("nr_hugepages may not be written here: run as root, outside of a container")


def test_other_memory_is_the_systems_anyhow():
    with mrm.Pool(4 * FRAME, huge="off") as pool:
        done = pool.inflate(2 * FRAME, to="pool")
        assert (done.frames, done.where) == (2, "system")
        assert pool.deflate(2 * FRAME, source="system").frames == 2
        for call in (
            lambda: pool.inflate(FRAME, to="host"),
            lambda: pool.deflate(FRAME, source="host"),
            lambda: pool.resize(FRAME, place="host"),
        ):
            with pytest.raises(mrm.ArgumentError, match='"pool" or "system"'):
                call()
        assert pool.size == 4 * FRAME


def changed(pool):
    """What the pool's keeper has changed the setting by."""
    return pool._keeper().sums.get(None, 0)


def test_huge_pages_go_on_to_the_system_and_come_from_it(needs_setting, monkeypatch):
    before = setting()
    # Surplus pages of others would go to the system first.
    monkeypatch.setattr(_balloon, "pages", lambda _: types.SimpleNamespace(surplus=0))
    with mrm.Pool(8 * FRAME, maximum=12 * FRAME, huge="require", name="balloon") as pool:
        assert pool.inflate(2 * FRAME).where == "pool"
        assert changed(pool) == 0
        done = pool.inflate(5 * FRAME, to="system")
        assert (done.frames, done.where, done.error) == (5, "system", None)
        assert changed(pool) == -5
        assert setting() == before - 5 or not THROWAWAY
        assert pool.deflate(8 * FRAME, source="system", threads=2).frames == 8
        assert changed(pool) == 3
        assert pool.resize(7 * FRAME, place="system").frames == 2
        assert changed(pool) == 1
        audit(pool)
        keeper = pool._keeper()
    assert keeper.sums == {}
    assert setting() == before or not THROWAWAY


def test_a_setting_that_may_not_be_written_is_said_before_anything_is_done(needs_huge, monkeypatch):
    monkeypatch.setattr("mrm.physical.kernelpool.writable", lambda *_, **__: False)
    monkeypatch.setattr("mrm.physical.keeping._why_not_writable", lambda _: errno.EACCES)
    with mrm.Pool(4 * FRAME, maximum=6 * FRAME, huge="require", name="balloon") as pool:
        for call in (lambda: pool.inflate(FRAME, to="system"), lambda: pool.deflate(FRAME, source="system")):
            done = call()
            assert done.frames == 0
            with pytest.raises(mrm.FundingError, match="nr_hugepages"):
                done.or_raise()
        assert audit(pool).inflated == 2


@throwaway
def test_surplus_pages_go_to_the_system_by_themselves(needs_setting):
    """As a user without rights has them: nothing is changed for it."""
    before, count = setting(), 6
    with Keeper() as keeper, mrm.Pool(count * FRAME, huge="require", name="balloon") as pool:
        keeper.change(-(huge_pages().available + count))  # those that the pool has are surplus now
        assert huge_pages().surplus == count
        assert pool.inflate(count * FRAME, to="system").frames == count
        assert changed(pool) == huge_pages().surplus == 0
    assert setting() == before


_BREATHING = """
import mrm
with mrm.Pool(8 * mrm.FRAME_SIZE, maximum=16 * mrm.FRAME_SIZE, huge="require") as pool:
    pool._keeper().start()
    print(pool._keeper().pid, flush=True)
    while True:
        pool.inflate(8 * mrm.FRAME_SIZE, to="system").or_raise()
        pool.deflate(16 * mrm.FRAME_SIZE, source="system").or_raise()
        pool.inflate(8 * mrm.FRAME_SIZE, to="pool").or_raise()
"""


@pytest.mark.parametrize("after", [0.0, 0.003, 0.01, 0.1])
def test_kill_9_in_the_middle_leaves_the_systems_huge_pages_as_they_were(needs_setting, after):
    """Others may change the setting meanwhile, so it may take a few attempts."""
    for _ in range(5):
        before = setting()
        with other_process(_BREATHING) as process:
            keeper = int(process.stdout.readline())
            time.sleep(after)
        wait_until(lambda pid=keeper: not alive(pid))
        left = setting()
        if left == before:
            return
    pytest.fail(f"nr_hugepages was {before}, and is {left}")


# ---- a machine that has no more ------------------------------------------------------------


@throwaway
def test_a_kernel_that_has_no_more_in_the_middle_gives_what_it_has(needs_huge):
    """By the frame: what came of a share that was cut short is kept."""
    with mrm.Pool(FRAME, maximum=64 * FRAME, name="balloon") as pool:
        for enough in range(1, 40, 6):
            with _only(enough):
                done = pool.deflate(40 * FRAME, threads=2)
            assert done.frames == enough
            assert done.error.errno == errno.ENOSPC
            audit(pool)
            assert pool.inflate(enough * FRAME)


@contextlib.contextmanager
def _only(free):
    """Leave so many huge pages free, by taking all others."""
    count = huge_pages().available - free
    assert count > 0, "this machine has too few huge pages free"
    with mrm.Pool(count * FRAME, huge="require"):
        yield


@throwaway
def test_by_hand_a_kernel_that_has_no_more_is_an_error(needs_huge):
    """What `mrm bench balloon` fetches beside mrm."""
    from mrm.tools.bench.balloon.byhand import FALLOCATE, KernelFile

    found = huge_pages()
    many = found.total + 64
    file = KernelFile(many * FRAME, FRAME.bit_length() - 1)
    with file, pytest.raises(OSError, match="fallocate by hand"):
        file.fill(many * FRAME, 1, FALLOCATE)
    assert huge_pages().free == found.free
