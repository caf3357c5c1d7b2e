"""Batches: every change, every objection, the lanes chosen, and what a commit reports."""

import contextlib

import facts
import pytest
from helpers import (
    FRAME,
    check_contents,
    commit,
    counts_of,
    fill,
    in_child,
    shown,
    stamp_all,
    stamp_at,
    steps_of,
    table,
)

import mrm
import mrm.system.calls as calls


def run(reservation, first, n, protection="rw"):
    """Map a run of frames by one call."""
    frames = reservation.pool.take_run(n)
    commit(reservation, "map", range(first, first + n), frames, protection)
    return list(frames)


def explained(reservation, operation, *arguments, **options):
    """What a batch of one operation would do; nothing is done."""
    batch = reservation.batch()
    getattr(batch, operation)(*arguments, **options)
    text = batch.explain()
    batch.abort()
    return text


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
    frames = fill(reservation, slots) if scattered else run(reservation, 10, 8)
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
    frames = run(reservation, 0, 16)
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


# ---- lanes ---------------------------------------------------------------------------


def test_a_run_is_mapped_by_one_call(reservation):
    text = explained(reservation, "map", range(8), reservation.pool.take_run(8))
    assert steps_of(text) == ["map", "advise"]
    assert counts_of(text) == (3, 0)
    assert "frames 0-7 rw, populated" in text


def test_neighbours_are_populated_by_one_call(reservation):
    text = explained(reservation, "map", range(4), list(reservation.pool.take_run(4))[::-1])
    assert steps_of(text) == facts.neighbours(4)


def test_slots_without_access_are_not_populated(reservation):
    text = explained(reservation, "map", range(3), reservation.pool.take_run(3), "none")
    assert "populate" not in text


def test_a_lone_run_moves_by_mremap(pool, reservation, huge):
    """Or is mapped anew, where the kernel cannot move huge pages."""
    frames = run(reservation, 0, 8)
    stamp_all(pool)
    text = explained(reservation, "move", range(8), range(20, 28))
    steps, system_calls, shootdowns = facts.lone_move(huge)
    assert steps_of(text) == steps
    assert counts_of(text) == (system_calls, shootdowns)
    commit(reservation, "move", range(8), range(20, 28))
    assert shown(reservation) == {slot + 20: frame for slot, frame in enumerate(frames)}
    check_contents(reservation)


def test_many_neighbours_move_by_mapping_and_one_seal(reservation):
    fill(reservation, range(8))
    text = explained(reservation, "move", range(7, -1, -1), range(20, 28))
    assert "mremap" not in steps_of(text)
    assert steps_of(text).count("seal") == 1
    assert counts_of(text)[1] == 1


def test_mremap_never_takes_a_whole_gib_of_huge_pages(needs_huge):
    # On the fake: the kernel hangs for ever if it is really done.
    with (
        calls.Script(fake=True, record=False),
        mrm.Pool("3GiB", huge="require") as pool,
        pool.reserve(4096) as r,
    ):
        frames = pool.take_run(1024)
        commit(r, "map", range(1024), frames)
        assert steps_of(explained(r, "move", range(510), range(1025, 1535))) == facts.lone_move("require")[0]
        for target in (1024, 2048, 1536):
            text = explained(r, "move", range(1024), range(target, target + 1024))
            assert "mremap" not in text
        commit(r, "unmap", range(1024))


def test_a_reservation_among_the_kernels_mappings_uses_no_mremap(pool):
    with pool.reserve(8, at=1 << 46) as r:  # 64 TiB: above what the kernel leaves alone
        run(r, 0, 2)
        stamp_all(pool)
        assert "mremap" not in explained(r, "move", [0, 1], [4, 5])
        commit(r, "move", [0, 1], [4, 5])
        check_contents(r)


def test_a_seal_reaches_over_holes_and_not_over_pages(reservation):
    fill(reservation, [0, 5, 9, 10])
    assert steps_of(explained(reservation, "unmap", [0, 5])) == ["seal"]
    assert steps_of(explained(reservation, "unmap", [0, 9])) == ["seal", "seal"]
    commit(reservation, "unmap", [0, 5, 9])
    check_contents(reservation)


def test_a_seal_does_not_take_what_the_batch_fills(pool, reservation):
    frames = fill(reservation, [0, 6])
    with reservation.batch() as batch:
        batch.unmap([0, 6])
        batch.map(3, frames[0])
    assert shown(reservation) == {3: frames[0]}
    check_contents(reservation)


def test_scattered_slots_of_one_mapping_are_zapped(pool, reservation, huge):
    run(reservation, 0, 12)
    stamp_all(pool)
    text = explained(reservation, "unmap", [1, 3, 5, 7])
    steps, shootdowns = facts.scattered_ends(huge, 4)
    assert steps_of(text) == steps
    assert counts_of(text)[1] == shootdowns
    commit(reservation, "unmap", [1, 3, 5, 7])
    check_contents(reservation)


def test_slots_far_apart_are_not_zapped(reservation, huge):
    run(reservation, 0, 16)
    assert steps_of(explained(reservation, "unmap", [0, 15])) == ["seal", "seal"]


def test_long_protections_go_by_mprotect(huge):
    with mrm.Pool(32 * FRAME, huge=huge) as pool, pool.reserve(40) as r:
        run(r, 0, 32)
        stamp_all(pool)
        assert steps_of(explained(r, "protect", range(2, 20), "r")) == ["mprotect"]
        commit(r, "protect", range(2, 20), "r")
        check_contents(r)
        # The kernel's mapping is in three parts now, and the plan knows.
        assert "zap" not in explained(r, "unmap", [1, 3])
        commit(r, "protect", range(20), "rw")
        commit(r, "unmap", [1, 3])
        check_contents(r)


def test_short_protections_of_huge_pages_go_by_mapping(reservation, huge):
    run(reservation, 0, 4)
    kind = "replace" if huge == "require" else "mprotect"
    assert steps_of(explained(reservation, "protect", [0, 1], "r"))[0] == kind


def test_what_changes_nothing_makes_no_call(pool, reservation):
    frame = pool.take()
    commit(reservation, "map", [0, 1], [frame, frame])
    for change in (("protect", 0, "rw"), ("swap", 0, 1)):
        report = commit(reservation, *change)
        assert report.system_calls == 0
    with reservation.batch() as batch:
        batch.unmap(0)
        batch.map(0, frame)
    assert batch.report.system_calls == 0
    assert pool.stats().mapped == 1
    check_contents(reservation)


def test_fills_come_before_what_is_taken_away(reservation):
    frames = fill(reservation, range(3))
    batch = reservation.batch()
    batch.unmap([0, 1])
    batch.map([10, 11], frames[:2])
    kinds = steps_of(batch.explain())
    assert kinds.index("seal") > max(i for i, kind in enumerate(kinds) if kind == "map")
    batch.abort()


# ---- what is done is what was explained --------------------------------------------------


CHANGES = {
    "map": lambda b, frames, n: b.map(range(40, 40 + n), frames[:n]),
    "map scattered": lambda b, frames, n: b.map(range(40, 40 + 2 * n, 2), frames[:n]),
    "unmap": lambda b, frames, n: b.unmap(range(n)),
    "unmap scattered": lambda b, frames, n: b.unmap(range(0, n, 2)),
    "unmap deferred": lambda b, frames, n: b.unmap(range(n), deferred=True),
    "move": lambda b, frames, n: b.move(range(n), range(30, 30 + n)),
    "move deferred": lambda b, frames, n: b.move(range(n), range(30, 30 + n), deferred=True),
    "slide": lambda b, frames, n: (
        b.move(range(n), range(1, n + 1)) if n == 12 else b.move(range(12), range(1, 13))
    ),
    "alias": lambda b, frames, n: b.alias(range(n), range(30, 30 + n)),
    "swap": lambda b, frames, n: b.swap(range(n // 2), range(12 - n // 2, 12)),
    "protect r": lambda b, frames, n: b.protect(range(n), "r"),
    "protect none": lambda b, frames, n: b.protect(range(n), "none"),
}
LACKING = [(), (facts.MREMAP,), (facts.POPULATE,), (facts.ZAP,)]


@pytest.mark.parametrize(
    "lacking", [*LACKING, sum(LACKING, ())], ids=lambda names: ", ".join(names) or "all features"
)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("scattered", [False, True], ids=["runs", "scattered"])
def test_a_commit_does_what_was_explained(pool, reservation, features, change, lacking, scattered):
    features(*lacking)
    for n in (2, 11, 12):
        frames = list(pool.take_run(12))
        frames[:] = [*frames[::2], *frames[1::2]] if scattered else frames
        commit(reservation, "map", range(12), frames)
        stamp_all(pool, n)
        with reservation.batch() as batch:
            CHANGES[change](batch, frames, n)
            expected = counts_of(batch.explain())
            with calls.Script() as script:
                report = batch.commit()
        made = [call for call in script.calls() if call[0] not in ("openat", "close", "pread")]
        assert (len(made), report.shootdowns) == expected
        assert report.system_calls == len(script.calls())
        assert all(result >= 0 for _, _, result in made)
        check_contents(reservation)
        reservation.retire()
        commit(reservation, "unmap", list(shown(reservation)))
        pool.give(frames)


@pytest.mark.parametrize(("call", "error"), [("mremap", 22), ("madvise", 22)])
def test_a_feature_that_the_kernel_refuses_in_use_is_done_without(
    pool, reservation, features, huge, call, error
):
    """The trial said yes, and yet: the first EINVAL teaches, and what the batch wanted is done all the same."""
    features()
    before = set(mrm.system.features.missing_features())
    run(reservation, 0, 12)
    stamp_all(pool)
    changes = {"mremap": ("move", range(12), range(20, 32)), "madvise": ("unmap", [1, 3, 5])}[call]
    with calls.Script(fail=1, times=1, error=error, kinds=[call]):
        commit(reservation, *changes)
    check_contents(reservation)
    # Small pages can be moved on any kernel: what is refused there is no feature.
    taught = {facts.MREMAP if call == "mremap" else facts.ZAP} if huge == "require" else set()
    assert set(mrm.system.features.missing_features()) == before | taught


def test_the_report_says_what_was_done(reservation):
    report = commit(
        reservation, "map", [0, 1, 2, 9], [*reservation.pool.take_run(3), reservation.pool.take()]
    )
    assert (report.pages, report.runs) == (4, 2)
    assert report.seconds > 0
    assert report.shootdowns_measured is None
    assert "pages=4" in repr(report)


# ---- shootdowns ------------------------------------------------------------------------


def test_predicted_shootdowns_are_those_that_the_kernel_sends(needs_huge):
    shootdowns = pytest.importorskip("mrm.shootdowns")
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(mrm.Pool(64 * FRAME, huge="require"))
        r = stack.enter_context(pool.reserve(256))
        counter = shootdowns.shootdowns()
        with counter:
            pass
        if "tlb_flush" not in str(counter.source):
            pytest.skip(f"{counter.source} counts other processes' shootdowns, too")
        run(r, 0, 64)
        for change in (("unmap", range(0, 64, 2)), ("unmap", range(1, 33, 2))):
            with r.batch(measure=True) as batch:
                getattr(batch, change[0])(*change[1:])
            assert batch.report.shootdowns_measured <= batch.report.shootdowns
