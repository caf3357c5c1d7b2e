"""Autoscaler: memory that is short, that is to be left to others, or that a control group limits.

On a made-up pool and kernel, as in test_autoscale.py.
"""

import pytest
from helpers import FRAME
from madeup import STALL, ScaledPool, actions, in_group, scaler


@pytest.fixture
def pool(kernel):
    return ScaledPool(kernel)


# ---- memory in general ---------------------------------------------------------------


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
    kernel.write("proc/meminfo", f"MemTotal: {64 * FRAME >> 10} kB\nMemAvailable: {50 * FRAME >> 10} kB")
    scale = scaler(pool, now, calm=1)
    assert actions(pool) == []  # huge pages are nothing to it
    scale.turn(STALL)
    assert actions(pool) == [("inflate", 8, "the")]
    pool.held = 50
    now.time += 2
    kernel.write("proc/meminfo", f"MemTotal: {64 * FRAME >> 10} kB\nMemAvailable: {5 * FRAME >> 10} kB")
    scale.turn()
    assert actions(pool) == [("deflate", 3, "the")]  # 2 are left to others


# ---- memory that is left to the rest of the machine ----------------------------------


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


# ---- control groups ------------------------------------------------------------------


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
