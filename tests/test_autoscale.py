"""Autoscaler: rules on readings that are made up, and turns on a made-up pool and kernel.

A pool of a hundred frames on a kernel of a hundred huge pages: what the pool gives back, the kernel
has. Nothing here waits for time to pass: the clock is made up, too, but where a thread is what
is tested.
"""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from helpers import stamp, stamp_at
from machine import throwaway

import mrm
from mrm.errors import ArgumentError, ClosedError, FundingError
from mrm.physical import kernelpool
from mrm.physical.autoscale import Autoscaler
from mrm.physical.limits import huge_pages
from mrm.physical.scaling import Marks, Near, Policy, Reading
from mrm.system.pages import frame_size, huge_pages_folder

FRAME = frame_size()
POOL = f"sys/kernel/mm/hugepages/{huge_pages_folder()}"


class Kernel:
    """Its files: free pages, and the failures to make one."""

    def __init__(self, root):
        self.root = root
        self.set(nr=100, free=20)
        self.write("proc/vmstat", "htlb_buddy_alloc_fail 7")
        self.write("proc/meminfo", f"MemTotal: {100 * FRAME >> 10} kB\nMemAvailable: {50 * FRAME >> 10} kB")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # At once, as the kernel's figures change: a thread may be reading.
        new = path.with_name(f"new-{threading.get_ident()}")
        new.write_text(f"{text}\n")
        new.replace(path)

    def set(self, nr=None, free=None, surplus=0, overcommit=0):
        names = {"nr_hugepages": nr, "free_hugepages": free}
        names |= {"surplus_hugepages": surplus, "nr_overcommit_hugepages": overcommit, "resv_hugepages": 0}
        for name, number in names.items():
            if number is not None:
                self.write(f"{POOL}/{name}", number)

    @property
    def free(self):
        return int((self.root / POOL / "free_hugepages").read_text())

    @free.setter
    def free(self, number):
        self.set(free=number)


class FakePool:
    """A pool that does what it is told, from and to the made-up kernel."""

    frame_size = FRAME
    backing = "hugetlb"

    def __init__(self, kernel, frames=100, funded=60, held=20):
        self.kernel, self.frames, self.funded, self.held = kernel, frames, funded, held
        self.shown = self.promised = self.broken = 0
        self.calls = []
        self.fail = None
        self.system = 0  # pages that went on to the system
        self.closed = False

    def stats(self):
        if self.closed:
            raise ClosedError("the pool is closed")
        free = self.funded - self.held
        memory = {"nbytes": (self.funded - self.broken) * FRAME, "frame_size": FRAME}
        return SimpleNamespace(
            frames=self.frames,
            inflated=self.frames - self.funded,
            free=free,
            ready=free - self.shown,
            **memory,
        )

    def inflate(self, size, *, retire, to="pool"):
        assert not retire
        return self._move(
            "inflate", -min(size // FRAME, self.funded - self.held - self.promised), self.way(to)
        )

    def deflate(self, size, *, source="pool"):
        room = self.kernel.free if source == "pool" else self.system
        if self.backing != "hugetlb":
            room = 100
        return self._move("deflate", min(size // FRAME, self.frames - self.funded, room), self.way(source))

    def way(self, where):
        """Memory that is no huge pages has one way only."""
        assert self.backing == "hugetlb" or where == "system"
        return where if self.backing == "hugetlb" else "the"

    def _move(self, name, frames, where):
        if self.fail:
            raise self.fail
        self.funded += frames
        if self.backing != "hugetlb":
            pass
        elif where == "pool":
            self.kernel.free -= frames
        else:
            self.system -= frames
        assert self.held <= self.funded <= self.frames
        frames = abs(frames)
        self.calls.append((name, frames, where))  # when all is done: another thread may look
        return SimpleNamespace(frames=frames, nbytes=frames * FRAME, seconds=0.001, error=None)


@pytest.fixture
def kernel(tmp_path):
    return Kernel(tmp_path)


@pytest.fixture
def pool(kernel):
    return FakePool(kernel)


@pytest.fixture
def now():
    """A clock that stands until it is set."""
    return SimpleNamespace(time=100.0)


def scaler(pool, now, minimum=30, maximum=80, **options):
    """One that is told when to look."""
    sizes = {"headroom": 20, "leave_free": 10, "step": 8} | options
    sizes = {
        name: value * FRAME if name in ("headroom", "leave_free", "step") else value
        for name, value in sizes.items()
    }
    made = Autoscaler(
        pool,
        minimum * FRAME,
        maximum * FRAME,
        root=pool.kernel.root,
        clock=lambda: now.time,
        start=False,
        **sizes,
    )
    made.turn()
    return made


def actions(pool):
    done, pool.calls = pool.calls, []
    return done


# ---- growing ---------------------------------------------------------------------------


def test_it_grows_ahead_of_demand_and_stops_at_its_headroom(pool, now):
    scale = scaler(pool, now)
    assert actions(pool) == []  # 40 are free
    pool.held = 50  # 10 are free: that is half of the headroom, and enough
    scale.turn()
    assert actions(pool) == []
    pool.held = 51
    pool.kernel.free = 60
    assert scale.turn()  # there is more to be done than a step
    assert not scale.turn()
    assert not scale.turn()
    assert actions(pool) == [("deflate", 8, "pool"), ("deflate", 3, "pool")]
    pool.held = 61  # 10 again: it does not follow every frame
    scale.turn()
    assert actions(pool) == []


def test_never_more_than_the_maximum_never_less_than_the_minimum(pool, now):
    pool.funded, pool.held, pool.kernel.free = 20, 20, 90
    scale = scaler(pool, now)
    for _ in range(20):
        scale.turn()
        pool.held = pool.funded
    assert pool.funded == 80
    assert "has all" in scale.entries[-1].reason
    pool.held = 0
    pool.kernel.free = 0
    for _ in range(20):
        scale.turn()
        pool.kernel.free = 0
    assert pool.funded == 30
    assert "at its minimum" in scale.entries[-1].reason


def test_a_pool_above_its_maximum_shrinks(pool, now):
    pool.funded = 95
    scaler(pool, now)
    assert actions(pool) == [("inflate", 15, "pool")]


def test_growing_leaves_the_cushion_and_half_of_it_more(pool, now):
    """Else growing would itself be the pressure that it shrinks under."""
    pool.held, pool.kernel.free = 60, 18
    scale = scaler(pool, now)
    assert actions(pool) == [("deflate", 3, "pool")]
    scale.turn()
    assert actions(pool) == []
    assert "too few would be left" in scale.log[-1]


# ---- shrinking -------------------------------------------------------------------------


def test_the_cushion_is_filled_up_and_doubled_while_somebody_takes_from_it(pool, now):
    pool.funded = 80
    scale = scaler(pool, now)
    taken = 0
    for _ in range(4):
        taken += pool.kernel.free  # a neighbour takes all that there is
        pool.kernel.free = 0
        now.time += 0.25
        scale.turn()
    assert [frames for _, frames, _ in actions(pool)] == [10, 20, 20]  # 50 to the minimum
    assert taken == 20 + 10 + 20 + 20
    assert "0 huge pages are to be had, 10 are to be left" in scale.entries[0].reason


def test_the_cushion_is_its_old_size_when_nobody_takes_any_more(pool, now):
    scale = scaler(pool, now)
    for seconds, free, given in [(0, 4, 6), (0.25, 4, 16), (0.25, 10, 0), (0.75, 10, 0), (0.25, 4, 6)]:
        now.time += seconds
        pool.kernel.free = free
        scale.turn()
        assert sum(frames for _, frames, _ in actions(pool)) == given


def test_held_frames_stay(pool, now):
    pool.held, pool.kernel.free = 58, 0
    scale = scaler(pool, now)
    assert actions(pool) == [("inflate", 2, "pool")]
    pool.kernel.free = 0
    scale.turn()
    scale.turn()
    assert actions(pool) == []
    assert [entry.reason.rpartition("; ")[2] for entry in scale.entries[1:]] == [
        "every frame is held, or shown by an old address"
    ]


def test_what_old_addresses_show_stays_too(pool, now):
    """To retire them is the runtime's to decide: it may still read through them."""
    pool.shown, pool.kernel.free = 38, 0
    scaler(pool, now)
    assert actions(pool) == [("inflate", 2, "pool")]


def test_frames_that_are_all_promised_are_asked_for_once_a_second(pool, now):
    pool.promised, pool.kernel.free = 40, 0
    scale = scaler(pool, now)
    for _ in range(8):
        now.time += 0.25
        scale.turn()
    assert actions(pool) == [("inflate", 0, "pool")] * 3
    pool.promised = 0
    now.time += 1
    scale.turn()
    assert actions(pool)[0][1] > 0


def test_it_grows_back_when_pressure_has_been_gone_for_long_enough(pool, now):
    scale = scaler(pool, now, calm=10)
    pool.held, pool.kernel.free = 50, 0
    scale.turn()
    assert actions(pool) == [("inflate", 10, "pool")]
    pool.kernel.free = 60  # the neighbour has ended
    for _ in range(39):
        now.time += 0.25
        scale.turn()
    assert actions(pool) == []
    assert [entry.action for entry in scale.entries] == ["shrink", "stay"]  # and said so once
    now.time += 0.25
    scale.turn()
    assert actions(pool) == [("deflate", 8, "pool")]


def test_pages_that_the_kernel_could_not_make_are_pressure(pool, now):
    """Where surplus pages are allowed it tries, and counts: somebody was refused although some are free."""
    pool.kernel.set(nr=100, free=40, overcommit=10)
    scale = scaler(pool, now)
    assert actions(pool) == []
    pool.kernel.write("proc/vmstat", "nr_free_pages 3\nhtlb_buddy_alloc_fail 9")
    scale.turn()
    scale.turn()
    assert actions(pool) == [("inflate", 10, "pool")]
    assert "could not make 2 for somebody" in scale.entries[0].reason


def test_pages_that_may_be_made_are_to_be_had(pool, now):
    pool.kernel.set(nr=60, free=0, overcommit=12)
    scaler(pool, now)
    assert actions(pool) == []


def test_where_sys_is_hidden_proc_tells(pool, now):
    """Of the default size; and where nothing does, there is nobody to be considerate of."""
    for file in (pool.kernel.root / POOL).iterdir():
        file.unlink()
    (pool.kernel.root / POOL).rmdir()
    scaler(pool, now)
    assert actions(pool) == []
    pool.kernel.write(
        "proc/meminfo", f"HugePages_Total: 9\nHugePages_Free: 3\nHugepagesize: {FRAME >> 10} kB"
    )
    pool._move = lambda *call: SimpleNamespace(frames=-call[1], nbytes=0, seconds=0, error=None)
    scale = scaler(pool, now)
    assert "3 huge pages are to be had" in scale.log[0]


# ---- memory in general ---------------------------------------------------------------------

STALL = (("memory", "stalls of 150 ms in 1 s"),)


def test_memory_that_is_short_takes_a_step_to_the_system(pool, now):
    scale = scaler(pool, now, to="system")
    scale.turn(STALL)
    assert actions(pool) == [("inflate", 8, "system")]
    assert "stalls of 150 ms" in scale.entries[-1].reason


def test_without_being_asked_for_nothing_goes_on_to_the_system_and_growing_goes_on(pool, now):
    scale = scaler(pool, now)
    scale.turn(STALL)
    assert actions(pool) == []
    assert 'to="pool" nothing is sent on' in scale.entries[-1].reason
    pool.held, pool.kernel.free = 55, 60
    scale.turn(STALL)
    assert actions(pool) == [("deflate", 8, "pool")]


def test_surplus_pages_go_on_to_the_system_by_themselves(pool, now):
    scale = scaler(pool, now)
    pool.kernel.set(nr=100, free=20, surplus=5)
    scale.turn(STALL)
    assert actions(pool) == [("inflate", 5, "pool")]


def test_what_went_to_the_system_comes_from_there(pool, now):
    scale = scaler(pool, now, to="system", calm=1)
    scale.turn(STALL)
    now.time += 2
    pool.held, pool.kernel.free = 50, 15  # nothing beyond the cushion
    scale.turn()
    scale.turn()
    assert actions(pool) == [("inflate", 8, "system"), ("deflate", 8, "system")]
    pool.held = 60
    scale.turn()
    assert actions(pool) == []  # no more than was sent


def test_if_the_system_has_it_no_more_the_kernels_pool_may(pool, now):
    scale = scaler(pool, now, to="system", calm=1)
    scale.turn(STALL)
    now.time += 2
    pool.held, pool.kernel.free, pool.system = 50, 60, 3
    scale.turn()
    scale.turn()
    assert actions(pool) == [("inflate", 8, "system"), ("deflate", 3, "system"), ("deflate", 8, "pool")]


def test_a_pool_on_other_pages_has_only_the_system(kernel, now):
    pool = FakePool(kernel)
    pool.backing = "thp"
    kernel.free = 0
    scale = scaler(pool, now, calm=1)
    assert actions(pool) == []  # huge pages are nothing to it
    scale.turn(STALL)
    assert actions(pool) == [("inflate", 8, "the")]
    pool.held = 50
    now.time += 2
    kernel.write("proc/meminfo", f"MemTotal: {64 * FRAME >> 10} kB\nMemAvailable: {5 * FRAME >> 10} kB")
    scale.turn()
    assert actions(pool) == [("deflate", 3, "the")]  # 2 are left to others


# ---- control groups ------------------------------------------------------------------------


def in_group(kernel, options="", **files):
    kernel.write("proc/self/cgroup", "0::/g")
    kernel.write("proc/self/mountinfo", f"29 23 0:26 / /cg rw - cgroup2 cgroup2 rw{options}")
    for name, text in files.items():
        kernel.write(f"cg/g/{name.replace('__', f'.{FRAME >> 20}MB.').replace('_', '.')}", text)


def test_a_group_near_its_limit_of_huge_pages(pool, now):
    in_group(pool.kernel, hugetlb__max=70 * FRAME, hugetlb__current=64 * FRAME)
    scale = scaler(pool, now)
    assert actions(pool) == [("inflate", 4, "pool")]
    assert f"hugetlb.{FRAME >> 20}MB.max leaves" in scale.entries[0].reason


def test_a_group_near_its_limit_of_memory_matters_where_frames_count(kernel, now):
    limits = {"memory_max": 160 * FRAME, "memory_current": 155 * FRAME}
    for options, counts in (("", False), (",memory_hugetlb_accounting", True)):
        in_group(kernel, options, **limits)
        pool = FakePool(kernel)
        scaler(pool, now, to="system")
        assert bool(actions(pool)) == counts


def test_a_refusal_in_the_group_is_pressure(pool, now):
    scale = scaler(pool, now)
    scale.turn((("huge pages", "hugetlb.2MB.events: max 1"),))
    assert actions(pool) == [("inflate", 8, "pool")]


# ---- what goes wrong ---------------------------------------------------------------------


def test_growing_that_fails_is_not_tried_again_at_once(pool, now):
    scale = scaler(pool, now, calm=10)
    pool.held, pool.kernel.free = 55, 60
    pool.fail = FundingError("a neighbour was faster")
    for _ in range(8):
        now.time += 0.25
        assert not scale.turn()
    assert [str(entry.result) for entry in scale.entries] == ["FundingError: a neighbour was faster"]
    assert scale.stats().refused == 1
    pool.fail = None
    now.time += 10
    scale.turn()
    assert actions(pool) == [("deflate", 8, "pool")]


def test_less_than_wanted_is_said_exactly(pool, now):
    scale = scaler(pool, now)
    move = pool._move
    pool._move = lambda name, frames, where: move(name, 3 if frames > 0 else -3, where)
    pool.held, pool.kernel.free = 55, 60
    scale.turn()
    (entry,) = scale.entries
    assert (entry.frames, entry.done) == (8, 3)
    assert "deflate" in actions(pool)[0]
    stats = scale.stats()
    assert (stats.grown, stats.shrunk, stats.refused, stats.decisions) == (3, 0, 1, 1)


def test_a_line_says_it_all(pool, now):
    pool.kernel.free = 3
    scale = scaler(pool, now)
    line = scale.log[0]
    assert " shrink 7 frames to the pool: 3 huge pages are to be had, 10 are to be left -> 7 frames" in line
    assert line.startswith("20")


def test_the_log_is_bounded(pool, now):
    scale = scaler(pool, now)
    for number in range(1500):
        scale._enter("stay", 0, 0, "", f"reason {number}")
    assert (len(scale.log), scale.log[0][-10:], scale.stats().decisions) == (1000, "reason 500", 1500)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"minimum": 50, "maximum": 40}, "not above maximum"),
        ({"maximum": 101}, "has frames for"),
        ({"minimum": 0, "maximum": 0}, "at least a frame"),
        ({"to": "moon"}, "pool"),
        ({"calm": -1}, "calm"),
        ({"calm": float("nan")}, "calm"),
        ({"interval": 0}, "interval"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(pool, now, options, said):
    pool.kernel.free = 0
    with pytest.raises(ArgumentError, match=said):
        scaler(pool, now, **options)
    assert actions(pool) == []


# ---- rules, whatever comes -------------------------------------------------------------


def test_bounds_hold_on_every_reading_and_the_two_never_chase_each_other():
    """All combinations of a few figures; and no shrinking right after growing on what that has made of them."""
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 8, 0.0, True, "system")
    figures = itertools.product((0, 4, 8, 20, 40), (0, 2, 5, 12), (None, 0, 7, 8, 12, 13, 30), (0, 9), (0, 3))
    seen = set()
    for funded, held, available, streak, refused in figures:
        if held > funded:
            continue
        policy = Policy(marks)
        policy._streak = streak
        reading = Reading(1.0, funded, funded - held, funded - held, 48 - funded, available, refused=refused)
        decision = policy.decide(reading)
        if decision is None:
            continue
        seen.add(decision.action)
        if decision.action == "shrink":
            assert 0 < decision.frames <= min(funded - marks.minimum, funded - held)
        elif decision.action == "grow":
            assert 0 < decision.frames <= min(marks.maximum - funded, marks.step)
            left = None if available is None else available - decision.frames
            after = Reading(2.0, funded + decision.frames, funded - held, funded - held, 48, left)
            again = Policy(marks).decide(after)
            assert again is None or again.action != "shrink", (reading, again)
    assert seen == {"shrink", "grow", "stay"}


def test_a_limit_that_only_gates_growing_takes_nothing():
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 0, 0.0, False, "system")
    near = Near("MemAvailable", "memory", 1, 5, gives=False)
    assert Policy(marks).decide(Reading(0.0, 20, 20, 20, 20, limits=(near,))) is None
    decision = Policy(marks).decide(Reading(0.0, 20, 2, 2, 20, limits=(near,)))
    assert (decision.action, decision.frames) == ("stay", 0)
    assert "MemAvailable leaves" in decision.reason


# ---- the thread ------------------------------------------------------------------------


def running(pool, **options):
    sizes = {"headroom": 20 * FRAME, "leave_free": 10 * FRAME, "step": 8 * FRAME, "interval": 0.01} | options
    return Autoscaler(pool, 30 * FRAME, 80 * FRAME, root=pool.kernel.root, **sizes)


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


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


def test_without_what_a_timer_is_for_only_events_wake_it(kernel):
    fd = version_1(kernel)
    pool = FakePool(kernel)
    pool.backing = "thp"
    with running(pool, headroom=0) as scale:
        time.sleep(0.1)
        assert scale.stats().wakeups == 0
        os.eventfd_write(fd(), 1)
        wait_until(lambda: pool.calls)
        assert actions(pool) == [("inflate", 8, "the")]
        stats = scale.stats()
        assert (stats.wakeups, stats.by_event, stats.by_timer) == (1, 1, 0)
        assert stats.cpu_seconds > 0


def test_events_about_memory_that_no_limit_counts_are_not_watched(kernel):
    """Huge pages are not in the group's memory: giving them back would not help it."""
    version_1(kernel)
    with running(FakePool(kernel)) as scale:
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
    pool = FakePool(kernel)
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


# ---- a real pool -----------------------------------------------------------------------


def test_a_pool_that_grows_before_it_is_empty(huge):
    """Whatever else is going on here: bounds hold, and a taker that takes slowly is never refused."""
    with mrm.Pool(4 * FRAME, maximum=16 * FRAME, huge=huge, name="scaled") as pool:
        scale = pool.autoscale(2 * FRAME, 12 * FRAME, headroom=4 * FRAME, leave_free=0, calm=0, interval=0.01)
        assert scale.running
        frames = []
        for _ in range(10):
            frames.append(pool.take())
            wait_until(lambda: pool.size // FRAME >= min(12, len(frames) + 2))
        assert pool.size == 12 * FRAME
        assert "shrink" not in [entry.action for entry in scale.entries]
        wait_until(lambda: scale.stats().grown == 8)  # a moment after the frames are there
        pool.give(frames)
        pool.audit()
    assert not scale.running


def test_deferred_aliases_are_left_to_the_runtime(huge):
    """Shrinking takes nothing away that an old address shows, and retires nothing."""
    with mrm.Pool(8 * FRAME, huge=huge) as pool, pool.reserve(8) as slots:
        frames = pool.take(8)
        for frame in frames:
            stamp(pool.address(frame), frame)
        with slots.batch() as batch:
            batch.map(range(8), frames)
        with slots.batch() as batch:
            batch.unmap(range(6), deferred=True)
        pool.give(frames[:6])
        assert pool.inflate(8 * FRAME, retire=False).frames == 0
        assert pool.epoch == 0
        assert [stamp_at(slots.address(slot)) for slot in range(8)] == list(frames)
        assert pool.inflate(8 * FRAME).frames == 6
        with slots.batch() as batch:
            batch.unmap(range(6, 8))
        pool.give(frames[6:])


@pytest.mark.skipif(not kernelpool.writable(), reason="needs the right to change nr_hugepages")
def test_pages_that_are_sent_on_to_the_system_come_back_from_there(needs_huge):
    with mrm.Pool(8 * FRAME, huge="require") as pool:
        scale = Autoscaler(
            pool,
            FRAME,
            8 * FRAME,
            headroom=16 * FRAME,
            leave_free=0,
            step=2 * FRAME,
            calm=0,
            to="system",
            start=False,
        )
        keeper = pool._keeper()
        scale.turn(STALL)
        assert (pool.size, scale.entries[-1].where) == (6 * FRAME, "system")
        surplus = -2 - sum(keeper.sums.values())  # what was surplus goes by itself
        assert surplus in (0, -1, -2)
        scale.turn()
        assert pool.size == 8 * FRAME
        assert (scale.entries[-1].action, scale.entries[-1].where) == ("grow", "system")
        pool.audit()
    assert keeper.sums == {}


def test_the_next_scaler_takes_the_place_of_the_last(huge):
    with mrm.Pool(4 * FRAME, huge=huge) as pool:
        first = pool.autoscale(4 * FRAME, 4 * FRAME)
        with pytest.raises(ArgumentError):
            pool.autoscale(4 * FRAME, 5 * FRAME)
        assert first.running
        second = pool.autoscale(4 * FRAME, 4 * FRAME)
        assert (first.running, second.running) == (False, True)


NEIGHBOUR = """
import ctypes, errno, os, sys, time
from mrm.system.pages import frame_size, memfd_flag
fd = os.memfd_create("neighbour", 4 | memfd_flag())
frame, wanted, refused, began = frame_size(), int(sys.argv[1]), 0, time.monotonic()
os.ftruncate(fd, wanted * frame)
had = 0
while had < wanted and time.monotonic() < began + 100:
    try:
        os.posix_fallocate(fd, had * frame, frame)
        had += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC
        refused += 1
        time.sleep(0.005)
print(had, refused, f"{time.monotonic() - began:.3f}", flush=True)
sys.stdin.read()
"""


@throwaway
def test_a_neighbour_gets_what_it_needs_and_the_pool_grows_back(needs_huge, capsys):
    """All the machine's huge pages are ours but for a cushion; a neighbour wants two thirds of them."""
    there = huge_pages().available
    if there < 160:
        pytest.skip(f"needs 160 free huge pages, and there are {there}")
    held, cushion = 32, 16
    most = there - 2 * cushion
    wanted = there * 2 // 3
    ended, lost, rounds = threading.Event(), [], [0, 0]
    with mrm.Pool(most * FRAME, huge="require", name="ours") as pool:

        def mutate(which):
            """Frames of its own, looked at and changed all the time, and others taken and given."""
            mine = pool.take(held // 2)
            for frame in mine:
                stamp(pool.address(frame), frame)
            while not ended.is_set():
                for frame in mine:
                    if stamp_at(pool.address(frame)) != frame + rounds[which] * 4096:
                        lost.append(frame)
                    stamp(pool.address(frame), frame + (rounds[which] + 1) * 4096)
                rounds[which] += 1
                other = pool.take()
                stamp(pool.address(other), 1 << 40 | other)
                if stamp_at(pool.address(other)) != 1 << 40 | other:
                    lost.append(other)
                pool.give(other)
            pool.give(mine)

        mutators = [threading.Thread(target=mutate, args=(which,)) for which in (0, 1)]
        for each in mutators:
            each.start()
        wait_until(lambda: all(rounds))
        scale = pool.autoscale(
            (held + 8) * FRAME,
            most * FRAME,
            headroom=(most - held) * FRAME,
            leave_free=cushion * FRAME,
            step=32 * FRAME,
            calm=5.0,
        )
        neighbour = subprocess.Popen(
            [sys.executable, "-c", NEIGHBOUR, str(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            had, refused, seconds = neighbour.stdout.readline().split()
            shrunk = [entry.done for entry in scale.entries if entry.action == "shrink"]
            before = list(rounds)
            assert int(had) == wanted
            assert sum(shrunk) >= wanted - 2 * cushion
            # A quarter of a second each, and the first when the cushion is gone: within a second or so.
            assert len(shrunk) <= 6
            wait_until(lambda: all(now > then + 2 for now, then in zip(rounds, before, strict=True)))
        finally:
            neighbour.stdin.close()
            neighbour.wait()
            neighbour.stdout.close()
        # The neighbour has ended: what it had comes back to us, with a cushion and a half left.
        wait_until(lambda: pool.size >= (there - 2 * cushion) * FRAME)
        ended.set()
        for each in mutators:
            each.join()
        scale.close()
        assert lost == []
        pool.audit()
        with capsys.disabled():
            print(f"\n{wanted} pages, after {refused} refusals and {seconds} s")
            print(*scale.log, scale.stats(), sep="\n")
