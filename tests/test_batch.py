"""Batches: every change, and every objection, on which nothing is done."""

import pytest
from helpers import FRAME, check_contents, commit, fill, fill_run, in_child, shown, stamp_all, stamp_at, table

import mrm
import mrm.system.calls as calls

# ---- arguments -----------------------------------------------------------------------


def test_arrays_are_of_the_same_length(reservation):
    with reservation.batch() as batch:
        for two in (batch.map, batch.move, batch.alias, batch.swap):
            with pytest.raises(mrm.ArgumentError, match="same length are needed, not 2 and 3"):
                two([0, 1], [2, 3, 4])


@pytest.mark.parametrize("protection", ["wr", "", None, 3, ["rw"], "RW"], ids=repr)
def test_a_protection_is_one_of_three(reservation, protection):
    with reservation.batch() as batch:
        with pytest.raises(mrm.ArgumentError, match="'rw', 'r' or 'none'"):
            batch.map(0, 0, protection)
        with pytest.raises(mrm.ArgumentError, match="'rw', 'r' or 'none'"):
            batch.protect(0, protection)


# ---- changes -------------------------------------------------------------------------


def test_map_shows_frames_where_they_are_wanted(pool, reservation):
    frames = pool.take(5)
    stamp_all(pool)
    report = commit(reservation, "map", [9, 3, 60, 4, 0], frames)
    assert shown(reservation) == dict(zip([9, 3, 60, 4, 0], frames, strict=True))
    assert report.pages == 5
    assert pool.stats().mapped == 5
    check_contents(reservation)


def test_one_frame_may_be_shown_many_times(pool, reservation):
    frame = pool.take()
    stamp_all(pool)
    commit(reservation, "map", range(10), [frame] * 10)
    assert shown(reservation) == dict.fromkeys(range(10), frame)
    check_contents(reservation)


def test_unmap_shows_nothing(pool, reservation):
    frames = fill(reservation, range(6))
    commit(reservation, "unmap", [1, 2, 5])
    assert sorted(shown(reservation)) == [0, 3, 4]
    reservation.check()
    pool.give([frames[1], frames[2], frames[5]])


def test_move_takes_contents_and_protection_along(pool, reservation):
    frames = fill(reservation, range(4))
    commit(reservation, "protect", 2, "r")
    stamp_all(pool)
    commit(reservation, "move", [0, 2, 3], [10, 1 + 10, 40])
    assert shown(reservation) == {1: frames[1], 10: frames[0], 11: frames[2], 40: frames[3]}
    assert [reservation.mapping(s).protection for s in (10, 11, 40)] == ["rw", "r", "rw"]
    check_contents(reservation)


@pytest.mark.parametrize("by", [1, -1], ids=["up", "down"])
@pytest.mark.parametrize("scattered", [False, True], ids=["a run", "scattered"])
def test_a_row_slides_by_one(pool, reservation, by, scattered):
    slots = range(10, 18)
    frames = fill(reservation, slots) if scattered else fill_run(reservation, 10, 8)
    stamp_all(pool)
    commit(reservation, "move", slots, [slot + by for slot in slots])
    assert shown(reservation) == {slot + by: frame for slot, frame in zip(slots, frames, strict=True)}
    check_contents(reservation)


def test_a_ring_turns(pool, reservation):
    frames = fill(reservation, range(5))
    stamp_all(pool)
    commit(reservation, "move", range(5), [1, 2, 3, 4, 0])
    assert shown(reservation) == {0: frames[4], 1: frames[0], 2: frames[1], 3: frames[2], 4: frames[3]}
    check_contents(reservation)


def test_alias_shows_it_in_both(pool, reservation):
    frames = fill(reservation, [0, 1])
    commit(reservation, "protect", 1, "r")
    stamp_all(pool)
    commit(reservation, "alias", [0, 1, 0], [5, 6, 7])
    assert shown(reservation) == {0: frames[0], 1: frames[1], 5: frames[0], 6: frames[1], 7: frames[0]}
    assert reservation.mapping(6).protection == "r"
    check_contents(reservation)


def test_swap_changes_places_and_protections(pool, reservation):
    frames = fill(reservation, range(4))
    commit(reservation, "protect", 1, "r")
    stamp_all(pool)
    commit(reservation, "swap", [0, 1], [3, 2])
    assert shown(reservation) == {0: frames[3], 1: frames[2], 2: frames[1], 3: frames[0]}
    assert [reservation.mapping(s).protection for s in range(4)] == ["rw", "rw", "r", "rw"]
    check_contents(reservation)
    assert pool.stats().mapped == 4


def test_swapping_aliases_of_one_frame_swaps_their_protection(pool, reservation):
    frame = pool.take()
    commit(reservation, "map", 0, frame, "r")
    commit(reservation, "map", 1, frame)
    commit(reservation, "swap", 0, 1)
    assert [reservation.mapping(s).protection for s in (0, 1)] == ["rw", "r"]
    check_contents(reservation)


@pytest.mark.parametrize("n", [1, 4, 14])
@pytest.mark.parametrize("protection", ["rw", "r", "none"])
def test_protect_changes_access_only(pool, reservation, n, protection):
    frames = fill_run(reservation, 0, 16)
    stamp_all(pool)
    commit(reservation, "protect", range(1, 1 + n), protection)
    assert shown(reservation) == dict(enumerate(frames))
    assert {reservation.mapping(s).protection for s in range(1, 1 + n)} == {protection}
    assert reservation.mapping(0).protection == reservation.mapping(15).protection == "rw"
    check_contents(reservation)
    commit(reservation, "protect", range(1, 1 + n), "rw")
    check_contents(reservation)
    assert [stamp_at(reservation.address(s)) for s in range(16)] == [
        stamp_at(pool.address(f)) for f in frames
    ]


@pytest.mark.parametrize(
    ("protection", "access", "dies"), [("r", "peek", False), ("r", "poke", True), ("none", "peek", True)]
)
@pytest.mark.parametrize("how", ["map", "protect"])
def test_protections_are_enforced(huge, protection, access, dies, how):
    change = (
        f'commit(r, "map", 1, frame, "{protection}")'
        if how == "map"
        else f'commit(r, "map", 1, frame); poke(r.address(1)); commit(r, "protect", 1, "{protection}")'
    )
    ending = in_child(
        f"""
        pool = mrm.Pool(2 * FRAME, huge=huge)
        r = pool.reserve(4)
        frame = pool.take()
        {change}
        say("ready")
        {access}(r.address(1))
        say("done")
        r.close()
        pool.close()
        """,
        huge,
    )
    assert (ending.out, ending.signal) == (("ready\n", 11) if dies else ("ready\ndone\n", None)), ending


def test_changes_of_all_kinds_go_together(pool, reservation):
    frames = fill(reservation, range(10))
    new = pool.take()
    stamp_all(pool)
    with reservation.batch() as batch:
        batch.unmap(0)
        batch.map(0, new)  # vacated and filled
        batch.move([1, 2], [2, 20])
        batch.swap(3, 4)
        batch.protect(5, "r")
        batch.alias(0, 30)  # shows what slot 0 showed
        batch.unmap(6, deferred=True)
        batch.move(7, 31, deferred=True)
        batch.unmap([8, 40], missing_ok=True)
        assert len(batch) == 11
    assert shown(reservation) == {
        0: new, 2: frames[1], 20: frames[2], 3: frames[4], 4: frames[3], 5: frames[5], 9: frames[9],
        30: frames[0], 31: frames[7],
    }  # fmt: skip
    assert reservation.deferred == 2
    check_contents(reservation)
    reservation.retire()
    check_contents(reservation)


def test_nothing_happens_before_the_commit(pool, reservation):
    frames = fill(reservation, range(3))
    before = table(reservation)
    batch = reservation.batch()
    batch.map(10, frames[0])
    batch.unmap([0, 1])
    batch.explain()
    assert table(reservation) == before
    batch.abort()
    batch.abort()
    with pytest.raises(KeyError), reservation.batch() as batch:
        batch.unmap(0)
        raise KeyError
    assert table(reservation) == before
    for use in (batch.commit, batch.explain, lambda: batch.unmap(0), lambda: len(batch), batch.__enter__):
        with pytest.raises(mrm.ClosedError):
            use()


def test_a_batch_serves_again_after_its_commit(pool, reservation):
    a, b = pool.take(2)
    batch = reservation.batch()
    batch.map(0, a)
    first = batch.commit()
    assert batch.report is first
    assert len(batch) == 0
    batch.map(1, b)
    batch.commit()
    assert shown(reservation) == {0: a, 1: b}
    batch.abort()


def test_a_refused_batch_is_as_it_was(pool, reservation):
    frame = pool.take()
    batch = reservation.batch()
    batch.map([0, 0], [frame, frame])
    for _ in range(2):
        with pytest.raises(mrm.SlotError, match="twice"):
            batch.commit()
        assert len(batch) == 2
    batch.abort()
    assert pool.stats().mapped == 0


# ---- objections ----------------------------------------------------------------------


# Slots 0-3 show frames a-d; 4 is deferred; 8 and up are empty. `free` is no held frame.
OBJECTIONS = [
    (lambda b, f: b.map(0, f.a), "slot 0 is taken, it shows frame"),
    (lambda b, f: b.map([9, 9], [f.a, f.b]), "slot 9 is used twice"),
    (lambda b, f: b.map(64, f.a), "slot 64 is none of reservation"),
    (lambda b, f: b.map(2**32 - 1, f.a), "slot 4294967295 is none of"),
    (lambda b, f: b.map(4, f.a), "slot 4 still shows frame .* until the next retire"),
    (lambda b, f: b.map(9, f.free), "frame .* cannot be mapped: it is ready, not held"),
    (lambda b, f: b.map(9, 16), "this pool has frames 0 to 15"),
    (lambda b, f: b.map([9, 10], [f.a, 16]), "this pool has frames 0 to 15"),
    (lambda b, f: b.map(9, 2**32 - 1), "this pool has frames 0 to 15"),
    (lambda b, f: b.unmap(8), "slot 8 shows nothing"),
    (lambda b, f: b.unmap(64), "slot 64 is none of"),
    (lambda b, f: b.unmap(64, missing_ok=True), "slot 64 is none of"),
    (lambda b, f: b.unmap([0, 0]), "slot 0 is used twice"),
    (lambda b, f: b.unmap([0, 0], missing_ok=True), "slot 0 is used twice"),
    (lambda b, f: b.unmap(4), "slot 4 was unmapped already"),
    (lambda b, f: b.move(8, 9), "slot 8 shows nothing"),
    (lambda b, f: b.move(0, 1), "slot 1 is taken"),
    (lambda b, f: b.move(0, 0, deferred=True), "slot 0 still shows frame"),
    (lambda b, f: b.move([0, 1], [9, 9]), "slot 9 is used twice"),
    (lambda b, f: b.move([0, 0], [9, 10]), "slot 0 is used twice"),
    (lambda b, f: b.move([0, 1], [1, 9], deferred=True), "slot 1 still shows"),
    (lambda b, f: b.move(64, 9), "slot 64 is none of"),
    (lambda b, f: b.move(0, 64), "slot 64 is none of"),
    (lambda b, f: b.alias(8, 9), "slot 8 shows nothing"),
    (lambda b, f: b.alias(0, 1), "slot 1 is taken"),
    (lambda b, f: b.alias(64, 1), "slot 64 is none of"),
    (lambda b, f: b.alias(0, 64), "slot 64 is none of"),
    (lambda b, f: b.alias(4, 9), "slot 4"),
    (lambda b, f: b.swap(0, 0), "slot 0 is used twice"),
    (lambda b, f: b.swap(0, 8), "slot 8 shows nothing"),
    (lambda b, f: b.swap([0, 1], [1, 2]), "slot 1 is used twice"),
    (lambda b, f: b.swap(0, 64), "slot 64 is none of"),
    (lambda b, f: b.protect(8, "r"), "slot 8 shows nothing"),
    (lambda b, f: b.protect([0, 0], "r"), "slot 0 is used twice"),
    (lambda b, f: (b.unmap(0), b.protect(0, "r")), "slot 0 is used twice"),
    (lambda b, f: (b.swap(0, 1), b.move(9, 0)), "slot 9 shows nothing"),
    (lambda b, f: (b.protect(0, "r"), b.map(0, f.b)), "slot 0 is used twice"),
    (lambda b, f: (b.unmap(0, deferred=True), b.map(0, f.b)), "slot 0 still shows"),
]


class _Frames:
    def __init__(self, held, free):
        self.a, self.b, self.c, self.d, self.deferred = held
        self.free = free


@pytest.mark.parametrize(("note", "message"), OBJECTIONS, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("before", [False, True], ids=["alone", "after good ones"])
def test_the_whole_batch_is_checked_first(pool, reservation, note, message, before):
    frames = _Frames(fill(reservation, range(5)), None)
    commit(reservation, "unmap", 4, deferred=True)
    frames.free = next(f for f in range(16) if pool.state_of(f) == "ready")
    told, stats = table(reservation), pool.stats()
    batch = reservation.batch()
    if before:
        batch.map([20, 21], [frames.a, frames.b])
        batch.unmap(3, deferred=True)
    note(batch, frames)
    with calls.Script() as script:
        for attempt in (batch.explain, batch.commit):
            with pytest.raises((mrm.SlotError, mrm.FrameError), match=message):
                attempt()
    assert script.calls() == []
    assert table(reservation) == told
    assert pool.stats() == stats
    batch.abort()


def test_a_frame_of_another_pool_is_no_frame_of_this(pool, reservation, huge):
    with mrm.Pool(64 * FRAME, huge=huge) as other, pytest.raises(mrm.FrameError, match="another pool"):
        commit(reservation, "map", 0, other.take_run(40)[-1])


def test_frames_are_mapped_all_or_none(pool, reservation):
    frames = pool.take(3)
    with pytest.raises(mrm.FrameError):
        commit(reservation, "map", range(4), [*frames, 15 if 15 not in frames else 14])
    assert shown(reservation) == {}
    assert pool.stats().mapped == 0
