"""Retiring: what deferred aliases show meanwhile, and when frames become ready."""

import os

import facts
import pytest
from helpers import check_contents, commit, fill, in_child, running_on, stamp, stamp_all, stamp_at, steps_of

import mrm


def test_a_deferred_alias_still_shows_its_frame(pool, reservation):
    frames = fill(reservation, range(3))
    stamp_all(pool)
    report = commit(reservation, "unmap", range(3), deferred=True)
    assert (report.system_calls, report.shootdowns) == (0, 0)
    assert [stamp_at(reservation.address(s)) for s in range(3)] == [stamp_at(pool.address(f)) for f in frames]
    check_contents(reservation)


def test_a_deferred_alias_traps_after_the_retire(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        r = pool.reserve(8)
        fill(r, [3])
        commit(r, "move", 3, 4, deferred=True)
        poke(r.address(3), 9)
        say(peek(r.address(4)))
        r.retire()
        say(peek(r.address(4)))
        peek(r.address(3))
        """,
        huge,
    )
    assert (ending.out, ending.signal) == ("9\n9\n", 11), ending


def test_a_frame_is_released_while_an_old_address_shows_it(pool, reservation):
    # On one processor: each has a stack of its own, and what was given last comes back from that.
    with running_on(min(os.sched_getaffinity(0))):
        (frame,) = fill(reservation, [0])
        commit(reservation, "unmap", 0, deferred=True)
        assert pool.state_of(frame) == "held"
        pool.give(frame)
        assert pool.state_of(frame) == "released"
        assert pool.stats().released == 1
        assert pool.take() == frame, "it may be taken at once"
        pool.give(frame)
    reservation.retire()
    assert pool.state_of(frame) == "ready"


def test_a_frame_that_is_shown_cannot_be_given(pool, reservation):
    (frame,) = fill(reservation, [0])
    commit(reservation, "alias", 0, 1)
    commit(reservation, "unmap", 0, deferred=True)
    with pytest.raises(mrm.FrameError, match="unmap"):
        pool.give(frame)
    commit(reservation, "unmap", 1)
    pool.give(frame)
    with pytest.raises(mrm.FrameError):
        commit(reservation, "map", 2, frame)


def test_a_strict_frame_waits_for_its_own_aliases(pool, reservation):
    (frame,) = fill(reservation, [0])
    commit(reservation, "unmap", 0, deferred=True)
    pool.give(frame, reuse="after_retire")
    pool.open_view().close()  # a retire, but not of its alias
    assert pool.state_of(frame) == "strict"
    with pool.reserve(1) as other:
        other.retire()
    assert pool.state_of(frame) == "strict"
    reservation.retire()
    assert pool.state_of(frame) == "ready"


@pytest.mark.parametrize("retire", ["pool", "reservation", "view", "close"])
def test_any_retire_makes_a_strict_frame_ready(pool, retire):
    frame = pool.take()
    r = pool.reserve(1)
    with pool.open_view() as view:
        pool.give(frame, reuse="after_retire")
        assert pool.state_of(frame) == "strict"
        {"pool": pool.retire, "reservation": r.retire, "view": view.retire, "close": r.close}[retire]()
        assert pool.state_of(frame) == "ready"
    r.close()


def test_a_frame_given_after_the_retire_waits_for_the_next(pool, reservation):
    first, second = pool.take(2)
    pool.give(first, reuse="after_retire")
    reservation.retire()
    pool.give(second, reuse="after_retire")
    assert (pool.state_of(first), pool.state_of(second)) == ("ready", "strict")
    reservation.retire()
    assert pool.state_of(second) == "ready"


def test_pool_retire_retires_every_reservation(pool, reservation):
    with pool.reserve(8) as other:
        frames = fill(reservation, [1, 2]) + fill(other, [5])
        commit(reservation, "unmap", [1, 2], deferred=True)
        commit(other, "unmap", 5, deferred=True)
        pool.give(frames, reuse="after_retire")
        before = pool.epoch
        report = pool.retire()
        assert (report.pages, report.runs, pool.epoch) == (3, 2, before + 1)
        assert pool.stats().ready == 16
        check_contents(reservation)
        check_contents(other)
        assert (reservation.deferred, other.deferred) == (0, 0)


def test_retiring_nothing_costs_no_call(reservation):
    report = reservation.retire()
    assert (report.pages, report.system_calls, report.shootdowns) == (0, 0, 0)


def test_a_span_is_retired_by_one_call(pool, reservation):
    fill(reservation, range(8, 24))
    commit(reservation, "unmap", range(8, 24), deferred=True)
    report = reservation.retire()
    assert (report.pages, report.system_calls, report.shootdowns) == (16, 1, 1)
    check_contents(reservation)


def test_scattered_aliases_in_one_mapping_cost_one_shootdown(pool, reservation, huge):
    commit(reservation, "map", range(16), pool.take_run(16))
    stamp_all(pool)
    commit(reservation, "unmap", range(1, 16, 2), deferred=True)
    report = reservation.retire()
    assert report.shootdowns == facts.scattered_ends(huge, 8)[1]
    check_contents(reservation)
    assert [reservation[s] is None for s in range(16)] == [False, True] * 8


def test_a_deferred_slot_is_filled_after_the_retire_only(pool, reservation):
    frames = fill(reservation, [0, 1])
    commit(reservation, "unmap", 0, deferred=True)
    for change in (("map", 0, frames[0]), ("move", 1, 0), ("alias", 1, 0)):
        with pytest.raises(mrm.SlotError, match="until the next retire"):
            commit(reservation, *change)
    for change in (("unmap", 0), ("protect", 0, "r"), ("move", 0, 5), ("swap", 0, 1), ("alias", 0, 5)):
        with pytest.raises(mrm.SlotError):
            commit(reservation, *change)
    commit(reservation, "unmap", [0, 1], missing_ok=True)
    assert reservation.deferred == 1
    reservation.retire()
    commit(reservation, "map", 0, frames[0])


def test_many_aliases_of_one_frame_are_counted(pool, reservation):
    (frame,) = fill(reservation, [0])
    commit(reservation, "alias", [0] * 10, range(1, 11))
    stamp(pool.address(frame), 6)
    commit(reservation, "unmap", range(11), deferred=True)
    assert pool.stats().pending == 11
    pool.give(frame, reuse="after_retire")
    reservation.retire()
    assert pool.stats().pending == 0
    assert pool.state_of(frame) == "ready"


@pytest.mark.parametrize(("between", "calls"), [([], 1), ([15], 2)], ids=["a hole", "a page"])
def test_one_call_reaches_over_a_hole_but_not_over_a_page(reservation, between, calls):
    fill(reservation, [0, *between, 30])
    with reservation.batch() as batch:
        batch.unmap([0, 30], deferred=True)
        assert steps_of(batch.explain()) == []
    report = reservation.retire()
    assert (report.pages, report.runs, report.system_calls, report.shootdowns) == (2, calls, calls, calls)
    assert report.seconds > 0
