"""Autoscaler: when it grows and when it shrinks, on a made-up pool and kernel.

A pool of a hundred frames on a kernel of a hundred huge pages: what the pool gives back, the kernel
has. Nothing here waits for time to pass: the clock is made up, too. Memory in general, and the
limits of control groups, are test_autoscale_limits.py's.
"""

from types import SimpleNamespace

import pytest
from helpers import FRAME
from madeup import POOL, ScaledPool, actions, in_group, scaler

from mrm.errors import ArgumentError, FundingError


@pytest.fixture
def pool(kernel):
    return ScaledPool(kernel)


# ---- growing -------------------------------------------------------------------------


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


def test_broken_frames_are_no_memory(kernel, now):
    """A pool of 30 of which 4 are broken is below a minimum of 30."""
    kernel.free = 60
    pool = ScaledPool(kernel, funded=30, held=20)
    pool.broken = 4
    scaler(pool, now, headroom=0)
    assert actions(pool) == [("deflate", 4, "pool")]


# ---- shrinking -----------------------------------------------------------------------


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


# ---- what goes wrong -----------------------------------------------------------------


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
