"""Autoscaler: rules on readings that are made up, and turns on a made-up pool and kernel.

A pool of a hundred frames on a kernel of a hundred huge pages: what the pool gives back, the kernel
has. Nothing here waits for time to pass: the clock is made up, too.
"""

import itertools
from types import SimpleNamespace

import pytest
from helpers import FRAME
from madeup import POOL, STALL, Kernel, ScaledPool

from mrm.errors import ArgumentError, FundingError
from mrm.physical.autoscale import Autoscaler
from mrm.physical.scaling import Marks, Near, Policy, Reading


@pytest.fixture
def kernel(tmp_path):
    return Kernel(tmp_path)


@pytest.fixture
def pool(kernel):
    return ScaledPool(kernel)


@pytest.fixture
def now():
    """A clock that stands until it is set."""
    return SimpleNamespace(time=100.0)


def scaler(pool, now, minimum=30, maximum=80, **options):
    """One that is told when to look."""
    sizes = {"headroom": 20, "leave_free": 10, "step": 8} | options
    sizes = {
        name: value * FRAME if name in ("headroom", "leave_free", "leave_memory", "step") else value
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
    pool = ScaledPool(kernel)
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


# ---- memory that is left to the rest of the machine ----------------------------------------


def available(kernel, frames):
    kernel.write("proc/meminfo", f"MemTotal: {100 * FRAME >> 10} kB\nMemAvailable: {frames * FRAME >> 10} kB")


def test_all_the_memory_that_is_missing_is_sent_on_at_once(pool, now):
    """A host's balloon takes what is free: nothing but that figure tells of it."""
    scale = scaler(pool, now, to="system", leave_memory=20)
    assert actions(pool) == []  # 50 are available
    available(pool.kernel, 20)
    scale.turn()
    assert actions(pool) == []
    available(pool.kernel, 3)
    scale.turn()
    assert actions(pool) == [("inflate", 17, "system")]  # a step is 8
    assert (
        f"{3 * FRAME >> 20} MiB of memory are available, {20 * FRAME >> 20} MiB are to be left"
        in scale.log[-1]
    )
    available(pool.kernel, 3)  # that has gone the same way
    scale.turn()
    assert actions(pool) == [("inflate", 13, "system")]  # down to the minimum
    scale.turn()
    assert actions(pool) == []
    assert "at its minimum" in scale.log[-1]


def test_it_grows_back_when_half_as_much_again_is_available(pool, now):
    scale = scaler(pool, now, to="system", leave_memory=20, calm=10)
    available(pool.kernel, 8)
    scale.turn()
    assert actions(pool) == [("inflate", 12, "system")]
    pool.held = 48  # none is free any more
    available(pool.kernel, 60)
    now.time += 9.75
    scale.turn()
    assert actions(pool) == []  # not calm for long enough
    available(pool.kernel, 30)
    now.time += 0.25
    scale.turn()
    assert actions(pool) == []
    assert (
        f"{30 * FRAME >> 20} MiB of memory are available, {30 * FRAME >> 20} MiB are to be left"
        in scale.log[-1]
    )
    available(pool.kernel, 33)
    scale.turn()
    assert actions(pool) == [("deflate", 3, "system")]
    available(pool.kernel, 60)
    scale.turn()
    assert actions(pool) == [("deflate", 8, "system")]


def test_pages_of_the_kernels_pool_are_no_memory_that_is_available(pool, now):
    """They are none before and after: memory that is low does not keep a pool from fetching them."""
    available(pool.kernel, 21)
    pool.held, pool.kernel.free = 55, 60
    scaler(pool, now, to="system", leave_memory=20)
    assert actions(pool) == [("deflate", 8, "pool")]


def test_pages_that_the_kernel_would_make_are_memory(pool, now):
    available(pool.kernel, 32)
    pool.kernel.set(nr=100, free=20, overcommit=50)
    pool.held = 55
    scaler(pool, now, to="system", leave_memory=20)
    assert actions(pool) == [("deflate", 2, "pool")]


def test_stalls_take_a_step_even_if_less_is_missing(pool, now):
    scale = scaler(pool, now, to="system", leave_memory=20)
    for left, taken in ((18, 8), (5, 15), (40, 7)):  # the last of them to the minimum
        available(pool.kernel, left)
        scale.turn(STALL)
        assert actions(pool) == [("inflate", taken, "system")]


def test_a_pool_on_other_pages_leaves_memory_too(kernel, now):
    pool = ScaledPool(kernel)
    pool.backing = "thp"
    available(kernel, 12)
    scaler(pool, now, leave_memory=20)
    assert actions(pool) == [("inflate", 8, "the")]


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
        pool = ScaledPool(kernel)
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
        ({"leave_memory": 4}, 'takes to="system" on huge pages'),
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


def test_growing_never_takes_memory_that_shrinking_would_give_back():
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 0, 0.0, True, "system", 7)
    grown = 0
    for funded, held, memory in itertools.product((8, 20, 39), (0, 8, 20), range(30)):
        if held > funded:
            continue
        policy = Policy(marks)
        policy._sent = 30
        decision = policy.decide(
            Reading(1.0, funded, funded - held, funded - held, 48 - funded, 0, memory=memory)
        )
        if decision is not None and decision.action == "grow":
            grown += 1
            left = memory - decision.frames
            after = Reading(2.0, funded + decision.frames, 0, funded - held, 48, 0, memory=left)
            again = policy.decide(after)
            assert again is None or again.action != "shrink", (memory, decision, again)
    assert grown


def test_a_limit_that_only_gates_growing_takes_nothing():
    marks = Marks(FRAME, 8, 40, 10, 5, 6, 0, 0.0, False, "system")
    near = Near("MemAvailable", "memory", 1, 5, gives=False)
    assert Policy(marks).decide(Reading(0.0, 20, 20, 20, 20, limits=(near,))) is None
    decision = Policy(marks).decide(Reading(0.0, 20, 2, 2, 20, limits=(near,)))
    assert (decision.action, decision.frames) == ("stay", 0)
    assert "MemAvailable leaves" in decision.reason
