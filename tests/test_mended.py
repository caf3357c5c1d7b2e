"""Things that were wrong once: autoscaling, the lock on settings, and pages set aside for a command."""

import time
from types import SimpleNamespace

import pytest
from test_autoscale import FRAME, FakePool, Kernel, actions, in_group, scaler, wait_until

from mrm.physical.autoscale import Autoscaler
from mrm.physical.scaling import Marks, Near, Policy, Reading

STALL = (("memory", "stalls of 150 ms in 1 s"),)


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
    pool = FakePool(kernel, funded=4, held=4)
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
    pool = FakePool(kernel, funded=4, held=4)
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
    pool = FakePool(kernel, funded=4, held=4)
    with Autoscaler(pool, 30 * FRAME, 80 * FRAME, step=FRAME, root=kernel.root, interval=600) as scale:
        wait_until(lambda: pool.funded == 30)
        assert (scale.stats().by_timer, scale.stats().wakeups) == (0, 0)


def test_broken_frames_are_no_memory(kernel, now):
    """A pool of 30 of which 4 are broken is below a minimum of 30."""
    kernel.free = 60
    pool = FakePool(kernel, funded=30, held=20)
    pool.broken = 4
    scaler(pool, now, headroom=0)
    assert actions(pool) == [("deflate", 4, "pool")]


# ---- what is said once -----------------------------------------------------------------------


def test_each_branch_says_once_what_it_cannot_do(kernel, now):
    """Memory is short, which to="pool" cannot help, and the kernel has no page to grow by."""
    in_group(kernel, ",memory_hugetlb_accounting", memory_max=160 * FRAME, memory_current=155 * FRAME)
    kernel.free = 12
    pool = FakePool(kernel, held=58)
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
