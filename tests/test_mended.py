"""Things that were wrong once: autoscaling, the lock on settings, and pages set aside for a command."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from helpers import FRAME, wait_until
from madeup import POOL, Kernel, ScaledPool
from test_autoscale import actions, in_group, scaler

from mrm.errors import FundingError
from mrm.physical import keeper, kernelpool
from mrm.physical.autoscale import Autoscaler
from mrm.physical.keeper import NR
from mrm.physical.keeping import Keeper
from mrm.physical.scaling import Marks, Near, Policy, Reading
from mrm.tools.fund import available


@pytest.fixture
def kernel(tmp_path):
    return Kernel(tmp_path)


@pytest.fixture
def now():
    return SimpleNamespace(time=100.0)


# ---- the minimum, without a timer -----------------------------------------------------------


def test_a_pool_below_its_minimum_is_brought_there_in_steps(kernel):
    """Nothing else that there is a timer for: the steps follow each other, and then it lies in poll."""
    kernel.free = 100
    pool = ScaledPool(kernel, funded=4, held=4)
    root = kernel.root
    with Autoscaler(
        pool, 30 * FRAME, 80 * FRAME, headroom=0, leave_free=0, step=8 * FRAME, root=root
    ) as scale:
        wait_until(lambda: len(pool.calls) == 4)
        assert [call[:2] for call in actions(pool)] == [("deflate", n) for n in (8, 8, 8, 2)]
        assert "every" not in scale.log[0]
        time.sleep(0.05)
        assert (scale.stats().wakeups, scale.stats().by_timer) == (0, 0)


def test_a_pool_that_could_not_get_its_minimum_tries_again(kernel):
    kernel.free = 10
    pool = ScaledPool(kernel, funded=4, held=4)
    marks = {"headroom": 0, "leave_free": 0, "step": 8 * FRAME, "calm": 0, "interval": 0.01}
    with Autoscaler(pool, 30 * FRAME, 80 * FRAME, root=kernel.root, **marks) as scale:
        wait_until(lambda: scale.stats().by_timer >= 3)
        assert pool.funded == 14
        kernel.free = 50
        wait_until(lambda: pool.funded == 30)
        time.sleep(0.05)
        woken = scale.stats().wakeups
        time.sleep(0.05)
        assert scale.stats().wakeups == woken  # there is no timer any more


def test_looks_that_follow_at_once_are_no_wakings_by_the_timer(kernel):
    kernel.free = 100
    pool = ScaledPool(kernel, funded=4, held=4)
    with Autoscaler(pool, 30 * FRAME, 80 * FRAME, step=FRAME, root=kernel.root, interval=600) as scale:
        wait_until(lambda: pool.funded == 30)
        assert (scale.stats().by_timer, scale.stats().wakeups) == (0, 0)


def test_broken_frames_are_no_memory(kernel, now):
    """A pool of 30 of which 4 are broken is below a minimum of 30."""
    kernel.free = 60
    pool = ScaledPool(kernel, funded=30, held=20)
    pool.broken = 4
    scaler(pool, now, headroom=0)
    assert actions(pool) == [("deflate", 4, "pool")]


# ---- what is said once -----------------------------------------------------------------------


def test_each_branch_says_once_what_it_cannot_do(kernel, now):
    """Memory is short, which to="pool" cannot help, and the kernel has no page to grow by."""
    in_group(kernel, ",memory_hugetlb_accounting", memory_max=160 * FRAME, memory_current=155 * FRAME)
    kernel.free = 12
    pool = ScaledPool(kernel, held=58)
    scale = scaler(pool, now)
    for _ in range(40):
        now.time += 0.25
        scale.turn()
    assert [entry.action for entry in scale.entries] == ["stay", "stay"]
    assert 'to="pool" nothing' in scale.entries[0].reason
    assert scale.stats().decisions == 2


def test_pressure_that_comes_again_when_it_had_gone_is_told_of_again():
    marks = Marks(FRAME, 8, 40, 0, 0, 6, 0, 10.0, True, "pool")
    policy = Policy(marks)
    near = Near("memory.max", "memory", 1, 5)

    def told(time, *limits):
        return policy.decide(Reading(time, 20, 20, 20, 20, 30, limits=limits)) is not None

    assert told(0.0, near)
    assert not told(0.25, near)
    assert not told(0.5)
    assert not told(0.75, near)
    assert not told(5.0)
    assert told(11.0, near)


# ---- the lock on a setting -------------------------------------------------------------------


@pytest.fixture
def setting(kernel):
    """A setting that somebody else has locked, and keeps so."""
    fd = os.open(kernel.root / POOL / NR, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield kernel.root / POOL / NR
    os.close(fd)


@pytest.mark.usefixtures("short_patience")
def test_whoever_keeps_a_setting_locked_has_nobody_wait_for_ever(kernel, setting):
    assert kernelpool.change(3, root=kernel.root)[0] == 0
    for outcome in (
        kernelpool.raise_available(200 * FRAME, root=kernel.root),
        kernelpool.release(2 * FRAME, root=kernel.root),
    ):
        assert (outcome.added, outcome.before) == (0, outcome.after)
        assert "locked by somebody else" in outcome.refused
    assert setting.read_text() == "100\n"


@pytest.fixture
def short_patience(monkeypatch):
    monkeypatch.setattr(keeper, "PATIENCE_ASKED", 0.01)


def test_a_keeper_says_that_the_setting_is_locked(kernel, setting):
    with Keeper(kernel.root) as held, pytest.raises(FundingError, match="locked by somebody else") as refused:
        held.change(-3)
    assert refused.value.errno == errno.EWOULDBLOCK
    assert (held.sums, setting.read_text()) == ({}, "100\n")


def test_a_lock_that_cannot_be_had_at_all_is_not_no_lock(kernel, monkeypatch):
    def refuse(fd, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    changed, said = kernelpool.change(3, root=kernel.root)
    assert (changed, (kernel.root / POOL / NR).read_text()) == (0, "100\n")
    assert "No locks available" in said


# ---- readings ------------------------------------------------------------------------------


def test_limits_are_found_every_ten_seconds_and_read_each_time(kernel, now):
    pool = ScaledPool(kernel)
    scale = scaler(pool, now)
    in_group(kernel, hugetlb__max=70 * FRAME, hugetlb__current=64 * FRAME)
    scale.turn()
    assert actions(pool) == []
    now.time += 10
    scale.turn()
    assert actions(pool) == [("inflate", 4, "pool")]
    (kernel.root / "proc/self/mountinfo").unlink()  # it is not needed to read them again
    in_files = kernel.root / f"cg/g/hugetlb.{FRAME >> 20}MB.current"
    in_files.write_text(f"{68 * FRAME}\n")
    now.time += 0.25
    scale.turn()
    assert actions(pool) == [("inflate", 8, "pool")]


def test_file_cache_is_looked_at_where_the_limit_is_near(kernel, now):
    """Of 160 frames 10 are to be left: 2 are, and 20 of what is used is cache; 40 are, and nobody asks."""
    in_group(kernel, memory_max=160 * FRAME, memory_current=158 * FRAME)
    kernel.write("cg/g/memory.stat", f"anon 0\ninactive_file {15 * FRAME}\nactive_file {5 * FRAME}")
    pool = ScaledPool(kernel)
    pool.backing = "thp"
    scaler(pool, now)
    assert actions(pool) == []
    kernel.write("cg/g/memory.stat", "inactive_file 0\nactive_file 0")
    scaler(pool, now)
    assert actions(pool) == [("inflate", 8, "the")]
    kernel.write("cg/g/memory.current", f"{120 * FRAME}")
    (kernel.root / "cg/g/memory.stat").unlink()
    scaler(pool, now)
    assert actions(pool) == []


# ---- the end -------------------------------------------------------------------------------


def test_things_end_in_their_order_and_each_whatever_another_raises():
    code = """
import os
from mrm.system.atend import AtEnd
class Thing:
    def __init__(self, name): self.name = name
    def end(self):
        print(self.name, flush=True)
        if self.name == "first":
            raise ValueError("no")
late = AtEnd(1, lambda thing: print("forgot", thing.name, flush=True), Thing.end)
early = AtEnd(0, lambda thing: 1 / 0, Thing.end)
things = [Thing("last"), Thing("first")]
late.add(things[0])
early.add(things[1])
if (child := os.fork()) == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["forgot last", "first", "last"]
    assert "ValueError: no" in done.stderr
    assert "ZeroDivisionError" in done.stderr


# ---- pages set aside for a command ---------------------------------------------------------


def test_kill_9_of_fund_with_leaves_no_pages_behind(kernel):
    kernel.set(nr=20, free=20)
    file = kernel.root / POOL / NR
    code = "import pathlib, sys; from mrm.tools.fund import run_with; "
    code += "run_with(int(sys.argv[1]), ['sleep', '1'], pathlib.Path(sys.argv[2]))"
    process = subprocess.Popen([sys.executable, "-c", code, str(26 * FRAME), str(kernel.root)])
    wait_until(lambda: file.read_text() == "26\n")
    process.kill()
    process.wait()
    wait_until(lambda: file.read_text() == "20\n")


def test_without_the_right_to_it_says_so_and_goes_on(tmp_path):
    with available(2 * FRAME, tmp_path) as outcome:
        assert (outcome.added, outcome.enough) == (0, False)
        assert "/sys is hidden" in outcome.refused


# ---- importing -----------------------------------------------------------------------------


def test_what_is_seldom_used_is_imported_when_it_is():
    code = """
import sys, mrm
late = {"mrm._balloon", "mrm.physical.autoscale"}
assert not late & sys.modules.keys()
assert {"Autoscaler", "Deflation", "Pool"} <= set(dir(mrm))
assert [mrm.Autoscaler.__name__, mrm.Deflation.__name__] == ["Autoscaler", "Deflation"]
assert late <= sys.modules.keys()
try:
    mrm.Autoscalar
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "module 'mrm' has no attribute 'Autoscalar'\n"


# ---- machines ------------------------------------------------------------------------------


def test_what_failed_before_a_panic_is_said_and_both_outputs_are_there(monkeypatch, tmp_path):
    pytest.importorskip("tools.machines", reason="a checkout's tools are not here")
    from tools.machines import matrix
    from tools.machines.boot import FAILED, Outcome
    from tools.machines.lineup import LINEUP

    panicked = Outcome(FAILED, "7.3", 5.0, console="Kernel panic - x")
    outcomes = [panicked, Outcome(0, "7.3", 5.0)]
    noted = [{"test": "tests/test_pool.py::test_x", "outcome": "failed", "why": "it was 3"}]
    records = [noted, [noted[0] | {"outcome": "passed", "why": ""}]]

    def boot(*_, output, **__):
        output.write(b"%d" % len(outcomes))
        return outcomes.pop(0)

    monkeypatch.setattr(matrix, "boot", boot)
    monkeypatch.setattr(matrix, "read", lambda _: records[1 - len(outcomes)])
    [row] = matrix.run_matrix([LINEUP[0]], jobs=1, seconds=1, told=lambda *_: None, log=tmp_path)
    assert (row.passed, row.earlier) == (True, {"tests/test_pool.py::test_x": "it was 3"})
    assert sorted(path.read_text() for path in tmp_path.glob("*-[01].txt") if "console" not in path.name) == [
        "1",
        "2",
    ]
