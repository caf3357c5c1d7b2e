"""Autoscaler's thread: what wakes it, and what ends it; on a made-up pool and kernel."""

import gc
import os
import threading
import time

import pytest
from helpers import FRAME, wait_until
from madeup import ScaledPool, actions

from mrm.errors import FundingError
from mrm.physical import autoscale
from mrm.physical.autoscale import Autoscaler


@pytest.fixture
def pool(kernel):
    return ScaledPool(kernel)


def running(pool, **options):
    sizes = {"headroom": 20 * FRAME, "leave_free": 10 * FRAME, "step": 8 * FRAME, "interval": 0.01} | options
    return Autoscaler(pool, 30 * FRAME, 80 * FRAME, root=pool.kernel.root, **sizes)


def version_1(kernel):
    """A group whose events the test can make: the eventfd is known by what is written."""
    kernel.write("proc/self/cgroup", "4:memory:/g")
    kernel.write("proc/self/mountinfo", "29 23 0:26 / /cg rw - cgroup cgroup rw,memory")
    for name in ("memory.pressure_level", "cgroup.event_control"):
        kernel.write(f"cg/g/{name}", "")
    return lambda: int((kernel.root / "cg/g/cgroup.event_control").read_text().split()[0])


def test_the_thread_watches_and_ends(pool):
    with running(pool) as scale:
        assert scale.running
        pool.kernel.free = 0
        wait_until(lambda: pool.calls)
        wait_until(lambda: scale.stats().by_timer >= 3)
        assert scale.stats().wakeups >= scale.stats().by_timer
        assert "free pages and frames every 0.01 s" in scale.log[0]
        assert "no pressure stall information" in scale.log[0]
    assert not scale.running
    assert [each for each in threading.enumerate() if each.name == "mrm autoscale"] == []
    scale.close()
    woken = scale.stats().wakeups
    time.sleep(0.05)
    assert scale.stats().wakeups == woken


def test_memory_that_is_to_be_left_is_looked_at_by_the_timer(kernel):
    pool = ScaledPool(kernel)
    pool.backing = "thp"
    with running(pool, headroom=0, leave_memory=20 * FRAME) as scale:
        assert "free pages, memory and frames every 0.01 s" in scale.log[0]
        wait_until(lambda: scale.stats().by_timer >= 2)
        assert pool.calls == []
        kernel.write("proc/meminfo", f"MemAvailable: {15 * FRAME >> 10} kB")
        wait_until(lambda: pool.calls)
        assert pool.calls[0] == ("inflate", 5, "the")
    (kernel.root / "proc/meminfo").unlink()
    with running(pool, headroom=0, leave_memory=20 * FRAME) as scale:
        assert "memory is hidden here, and none is left to others" in scale.log[0]


def test_what_changes_settings_is_started_before_memory_is_short(kernel, monkeypatch):
    """Starting a process takes memory."""
    pool = ScaledPool(kernel)
    with running(pool, to="system") as scale:
        assert pool.keepers == 1
        assert "may not be written" not in scale.log[0]
    with running(pool):
        assert pool.keepers == 1
    pool.keeper_fails = FundingError("no Python can be started for it")
    with running(pool, to="system") as scale:
        assert "no Python can be started for it" in scale.log[0]
    monkeypatch.setattr(autoscale, "writable", lambda **_: False)
    with running(pool, to="system") as scale:
        assert "nr_hugepages may not be written, and only surplus pages go on" in scale.log[0]


def test_without_what_a_timer_is_for_only_events_wake_it(kernel):
    fd = version_1(kernel)
    pool = ScaledPool(kernel)
    pool.backing = "thp"
    with running(pool, headroom=0) as scale:
        time.sleep(0.1)
        assert scale.stats().wakeups == 0
        os.eventfd_write(fd(), 1)
        wait_until(lambda: pool.calls)
        assert pool.calls == [("inflate", 8, "the")]
        wait_until(lambda: scale.stats().by_timer)  # one more look, as something was given back
        time.sleep(0.1)
        stats = scale.stats()
        assert (stats.wakeups, stats.by_event, stats.by_timer) == (2, 1, 1)
        assert stats.cpu_seconds > 0


def test_events_about_memory_that_no_limit_counts_are_not_watched(kernel):
    """Huge pages are not in the group's memory: giving them back would not help it."""
    version_1(kernel)
    with running(ScaledPool(kernel)) as scale:
        assert "memory.pressure_level" not in scale.log[0]


def test_dropped_it_ends(pool):
    scalers = [running(pool)]
    wait_until(lambda: scalers[0].stats().wakeups)
    scalers.clear()
    gc.collect()
    wait_until(lambda: not [each for each in threading.enumerate() if each.name == "mrm autoscale"])


def test_when_the_pool_is_closed_it_ends_by_itself(pool):
    scale = running(pool)
    pool.closed = True
    wait_until(lambda: not scale.running)
    assert "the pool is closed" in scale.log[-1]
    scale.close()


def test_whoever_is_told_may_raise(pool):
    told = []

    def tell(entry):
        told.append(entry)
        if entry.action == "shrink":
            raise ValueError("no")

    with running(pool, tell=tell) as scale:
        pool.kernel.free = 0
        wait_until(lambda: pool.calls)
        wait_until(lambda: "tell raised ValueError('no')" in scale.log[-1])
        pool.kernel.free = 0
        wait_until(lambda: len(pool.calls) > 1)
    assert [entry.action for entry in told] == ["watch", "shrink"]


def test_a_child_after_fork_has_no_thread_and_no_descriptor_of_it(kernel):
    fd = version_1(kernel)
    pool = ScaledPool(kernel)
    pool.backing = "small"
    with running(pool) as scale:
        watched = fd()
        child = os.fork()
        if child == 0:
            try:
                try:
                    os.fstat(watched)
                except OSError:
                    scale.close()
                    os._exit(0 if not scale.running else 2)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert scale.running


# ---- the minimum, without a timer -----------------------------------------------------------


def sleeps(scale, seconds=0.2):
    """Whether nothing has woken it for so long."""
    woken = scale.stats().wakeups
    time.sleep(seconds)
    return scale.stats().wakeups == woken


def test_a_pool_below_its_minimum_is_brought_there_in_steps(kernel):
    """Nothing else that there is a timer for: the steps follow each other, and after one more look it lies in poll."""
    kernel.free = 100
    pool = ScaledPool(kernel, funded=4, held=4)
    marks = {"headroom": 0, "leave_free": 0, "step": 8 * FRAME, "interval": 0.05}
    with Autoscaler(pool, 30 * FRAME, 80 * FRAME, root=kernel.root, **marks) as scale:
        wait_until(lambda: len(pool.calls) == 4)
        assert [call[:2] for call in actions(pool)] == [("deflate", n) for n in (8, 8, 8, 2)]
        assert "every" not in scale.log[0]
        wait_until(lambda: scale.stats().by_timer)  # before the last step it was below, still
        time.sleep(0.3)
        assert (scale.stats().wakeups, scale.stats().by_timer) == (1, 1)


def test_a_pool_that_could_not_get_its_minimum_tries_again(kernel):
    kernel.free = 10
    pool = ScaledPool(kernel, funded=4, held=4)
    marks = {"headroom": 0, "leave_free": 0, "step": 8 * FRAME, "calm": 0, "interval": 0.01}
    with Autoscaler(pool, 30 * FRAME, 80 * FRAME, root=kernel.root, **marks) as scale:
        wait_until(lambda: scale.stats().by_timer >= 3)
        assert pool.funded == 14
        kernel.free = 50
        wait_until(lambda: pool.funded == 30)
        wait_until(lambda: sleeps(scale))  # there is no timer any more


def test_looks_that_follow_at_once_are_no_wakings_by_the_timer(kernel):
    kernel.free = 100
    pool = ScaledPool(kernel, funded=4, held=4)
    with Autoscaler(pool, 30 * FRAME, 80 * FRAME, step=FRAME, root=kernel.root, interval=600) as scale:
        wait_until(lambda: pool.funded == 30)
        assert (scale.stats().by_timer, scale.stats().wakeups) == (0, 0)
