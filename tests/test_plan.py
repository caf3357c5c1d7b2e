"""The plan of a batch: the lanes that are chosen, and that a commit does and reports what was explained."""

import contextlib

import facts
import pytest
from helpers import (
    FRAME,
    check_contents,
    commit,
    counts_of,
    fill,
    fill_run,
    shown,
    stamp_all,
    steps_of,
)

import mrm
import mrm.system.calls as calls


def explained(reservation, operation, *arguments, **options):
    """What a batch of one operation would do; nothing is done."""
    batch = reservation.batch()
    getattr(batch, operation)(*arguments, **options)
    text = batch.explain()
    batch.abort()
    return text


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
    frames = fill_run(reservation, 0, 8)
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
        fill_run(r, 0, 2)
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
    fill_run(reservation, 0, 12)
    stamp_all(pool)
    text = explained(reservation, "unmap", [1, 3, 5, 7])
    steps, shootdowns = facts.scattered_ends(huge, 4)
    assert steps_of(text) == steps
    assert counts_of(text)[1] == shootdowns
    commit(reservation, "unmap", [1, 3, 5, 7])
    check_contents(reservation)


def test_slots_far_apart_are_not_zapped(reservation, huge):
    fill_run(reservation, 0, 16)
    assert steps_of(explained(reservation, "unmap", [0, 15])) == ["seal", "seal"]


def test_long_protections_go_by_mprotect(huge):
    with mrm.Pool(32 * FRAME, huge=huge) as pool, pool.reserve(40) as r:
        fill_run(r, 0, 32)
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
    fill_run(reservation, 0, 4)
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


# ---- what is done is what was explained ----------------------------------------------


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
    fill_run(reservation, 0, 12)
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


# ---- shootdowns ----------------------------------------------------------------------


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
        fill_run(r, 0, 64)
        for change in (("unmap", range(0, 64, 2)), ("unmap", range(1, 33, 2))):
            with r.batch(measure=True) as batch:
                getattr(batch, change[0])(*change[1:])
            assert batch.report.shootdowns_measured <= batch.report.shootdowns
