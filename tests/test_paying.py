"""Who pays for what a batch maps: frames taken from an account, the batch's until it is committed."""

import errno
import gc

import pytest
from helpers import FRAME, after_fork, commit, shown, stamp, stamp_at

import mrm
import mrm.system.calls as calls

MANY = 16


@pytest.fixture
def heap(pool):
    """An account with a balance of 8 frames, and 4 that may be lent."""
    pool.fund("overdraft", 4 * FRAME)
    account = pool.account("heap")
    account.fund(8)
    return account


def give_back(pool, reservation):
    frames = list(shown(reservation).values())
    reservation.close()
    pool.give(frames)


def test_a_batch_maps_frames_that_an_account_pays_for(pool, reservation, heap):
    with reservation.batch() as batch:
        frames = batch.map([3, 4, 9], account=heap)
        assert heap.allocated == 3  # from now on, not from the commit on
    assert shown(reservation) == {3: frames[0], 4: frames[1], 9: frames[2]}
    assert {pool.account_of(frame).name for frame in frames} == {"heap"}
    give_back(pool, reservation)
    assert heap.allocated == 0


def test_the_account_may_be_named_and_one_slot_a_number(pool, reservation, heap):
    with reservation.batch() as batch:
        (own,) = batch.map(0, account="pool", protection="r")
        (frame,) = batch.map(1, account="heap")
        assert list(batch.map([], account=heap)) == []
    assert pool.account_of(own).name == "pool"
    assert reservation.mapping(0).protection == "r"
    assert reservation.mapping(1).protection == "rw"
    assert frame != own
    give_back(pool, reservation)


def test_overdraft_only_where_the_call_allows_it(pool, reservation, heap):
    with reservation.batch() as batch:
        with pytest.raises(mrm.OutOfFrames, match="'heap'"):
            batch.map(range(9), account=heap)
        assert len(batch) == 0
        assert len(batch.map(range(9), account=heap, overdraft=True)) == 9
    assert heap.stats().overdrawn == 1
    give_back(pool, reservation)


def test_zeros_where_they_are_asked_for(pool, reservation, heap):
    frames = heap.take(8)
    for frame in frames:
        stamp(pool.address(frame), 1)
    pool.give(frames)
    with reservation.batch() as batch:
        batch.map(range(4), account=heap, zeroed=True)
    assert {stamp_at(reservation.address(slot)) for slot in range(4)} == {0}
    give_back(pool, reservation)


def test_more_slots_than_there_are_frames(reservation, heap):
    with reservation.batch() as batch:
        with pytest.raises(mrm.OutOfFrames):
            batch.map(range(MANY + 1), account=heap, overdraft=True)
        assert len(batch) == 0


def test_what_makes_no_sense_is_refused_before_anything_is_taken(pool, reservation, heap):
    with mrm.Pool(4 * FRAME, huge="off") as other, reservation.batch() as batch:
        for wrong in (
            lambda: batch.map(0),
            lambda: batch.map(0, 1, account=heap),
            lambda: batch.map(0, 1, zeroed=True),
            lambda: batch.map(0, 1, overdraft=True),
            lambda: batch.map(0, account="nobody"),
            lambda: batch.map(0, account=7),
            lambda: batch.map(0, account=other.account("heap")),
            lambda: batch.map(0, account=heap, protection="x"),
            lambda: batch.map(-1, account=heap),
        ):
            with pytest.raises(mrm.ArgumentError):
                wrong()
        assert len(batch) == 0
    assert heap.allocated == pool.stats().held == 0


# ---- nothing is lost ---------------------------------------------------------------------------


def test_an_aborted_batch_gives_them_back(pool, reservation, heap):
    batch = reservation.batch()
    batch.map([0, 1], account=heap)
    kept = heap.take()
    batch.map(2, kept)
    batch.abort()
    batch.abort()
    assert heap.allocated == 1  # what was not taken for the batch is not given
    pool.give(kept)


def test_an_exception_gives_them_back(pool, reservation, heap):
    with pytest.raises(KeyError), reservation.batch() as batch:
        batch.map([0, 1], account=heap)
        raise KeyError
    assert heap.allocated == 0


def test_a_dropped_batch_gives_them_back(reservation, heap):
    batch = reservation.batch()
    batch.map([0, 1], account=heap)
    assert heap.allocated == 2
    del batch
    gc.collect()
    assert heap.allocated == 0


def test_a_batch_of_a_closed_reservation_gives_them_back(pool, heap):
    reservation = pool.reserve(4)
    batch = reservation.batch()
    batch.map([0, 1], account=heap)
    reservation.close()
    with pytest.raises(mrm.ClosedError):
        batch.commit()
    batch.abort()
    assert heap.allocated == 0


def test_a_refused_commit_leaves_them_to_the_batch(pool, reservation, heap):
    commit(reservation, "map", 1, account="pool")
    batch = reservation.batch()
    frames = batch.map([0, 1], account=heap)
    with pytest.raises(mrm.SlotError, match="slot 1 is taken"):
        batch.commit()
    assert heap.allocated == 2
    batch.unmap(1)
    old = reservation[1]
    batch.commit()
    assert shown(reservation) == {0: frames[0], 1: frames[1]}
    pool.give(old)
    batch.abort()
    assert heap.allocated == 2
    give_back(pool, reservation)


def test_a_with_block_that_is_refused_gives_them_back(pool, reservation, heap):
    commit(reservation, "map", 1, account="pool")
    with pytest.raises(mrm.SlotError), reservation.batch() as batch:
        batch.map([0, 1], account=heap)
    assert heap.allocated == 0
    give_back(pool, reservation)


def test_a_batch_that_serves_again_gives_no_old_ones_back(pool, reservation, heap):
    batch = reservation.batch()
    first = batch.map([0, 1], account=heap)
    batch.commit()
    batch.map([2], account=heap)
    batch.abort()
    assert list(shown(reservation).values()) == list(first)
    assert heap.allocated == 2
    give_back(pool, reservation)


@pytest.mark.parametrize("times", [1, 2, None])
def test_whatever_the_kernel_refuses_no_frame_is_lost(pool, heap, times):
    kinds = frozenset(calls.KINDS) - {"close", "openat", "pread"}
    seen = set()
    for k in range(1, 60):
        reservation = pool.reserve(8)
        batch = reservation.batch()
        batch.map([0, 2, 4, 6], account=heap)
        with calls.Script(fail=k, times=times, error=errno.ENOMEM, kinds=kinds) as script:
            try:
                batch.commit()
                seen.add("done")
            except mrm.Error as error:
                seen.add(type(error).__name__)
        batch.abort()
        # What is shown is held, and nothing else is.
        assert sorted(f for f in range(MANY) if pool.state_of(f) == "held") == sorted(
            shown(reservation).values()
        )
        reservation.check()
        give_back(pool, reservation)
        pool.audit()
        assert heap.allocated == 0
        if script.counted < k:
            break
    else:
        pytest.fail("the end was not reached")
    assert seen >= {"done", "SystemCallError" if times else "InconsistentError"}


def test_a_shortage_is_told_and_the_batch_is_over_meanwhile(pool, reservation, heap):
    held = list(heap.take(8))
    batch = reservation.batch()
    told = []

    def relieve(account, wanted):
        told.append((account, wanted))
        with pytest.raises(mrm.ClosedError):
            batch.unmap(0)
        batch.abort()
        pool.give(held)

    pool.on_shortage(relieve)
    batch.map(range(8), account=heap)
    pool.on_shortage(None)
    assert told == [("heap", 8)]
    batch.commit()
    batch.abort()  # the pool keeps the callback, which keeps the batch
    give_back(pool, reservation)


def test_a_childs_batch_gives_nothing(pool, reservation, heap):
    batch = reservation.batch()
    batch.map([0], account=heap)

    def child():
        try:
            batch.map([1], account=heap)
        except mrm.ForkedError:
            batch.abort()
            return "refused"

    assert after_fork(child) == "refused"
    assert heap.allocated == 1
    batch.abort()


# ---- C --------------------------------------------------------------------------------------------


def test_from_c(pool, heap):
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    handle = api.pool_from_object(ffi.cast("void *", id(pool)))
    r, batch, frames = ffi.new("mrm_reservation **"), ffi.new("mrm_batch **"), ffi.new("uint32_t[9]")
    slots = ffi.new("uint32_t[9]", list(range(9)))
    assert api.reservation_open(handle, 16, 0, r) == 0
    assert api.batch_begin(r[0], batch) == 0
    try:
        assert api.batch_map_from(batch[0], heap.number, 0, slots, 9, 3, frames) == -3
        assert api.batch_map_from(batch[0], heap.number, 0, slots, 2, 2, frames) == -1
        assert api.batch_map_from(batch[0], heap.number, 8, slots, 2, 3, frames) == -1
        assert api.batch_map_from(batch[0], 77, 0, slots, 2, 3, frames) == -1
        assert heap.allocated == 0
        assert api.batch_map_from(batch[0], heap.number, 0, slots, 8, 3, frames) == 0
        assert heap.allocated == 8
        assert api.batch_commit(batch[0], ffi.NULL) == 0
        shows = ffi.new("mrm_slot *")
        assert api.reservation_slot(r[0], 5, shows) == 0
        assert shows.frame == frames[5]
    finally:
        api.batch_abort(batch[0])
        assert api.reservation_close(r[0]) == 0
    assert api.give_many(handle, frames, 8, 0) == 0
    assert api.pool_keep_zeroed(handle, 17) == -1
    assert api.pool_keep_zeroed(handle, 2) == 0
    api.pool_release(handle)


def test_a_callback_may_do_anything_with_the_batch_that_wants_frames(pool, heap):
    """It is told of a shortage in the middle of ``batch_map_from``, and commits or fills up that very batch."""
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    handle = api.pool_from_object(ffi.cast("void *", id(pool)))
    r, batch = ffi.new("mrm_reservation **"), ffi.new("mrm_batch **")
    frames, more = ffi.new("uint32_t[4]"), ffi.new("uint32_t[6]", list(heap.take(6)))
    slots, others = ffi.new("uint32_t[4]", [0, 1, 2, 3]), ffi.new("uint32_t[6]", list(range(8, 14)))
    assert api.reservation_open(handle, 16, 0, r) == 0
    assert api.batch_begin(r[0], batch) == 0
    told = []

    @ffi.callback("void(void *, mrm_pool *, uint32_t, size_t)")
    def relieve(context, short, account, wanted):
        told.append(wanted)
        assert api.batch_map(batch[0], others, more, 3, 3) == 0
        assert api.batch_commit(batch[0], ffi.NULL) == 0
        assert api.batch_map(batch[0], others + 3, more + 3, 3, 3) == 0
        heap.fund(2)  # which helps

    try:
        assert api.pool_on_shortage(handle, relieve, ffi.NULL) == 0
        assert api.batch_map_from(batch[0], heap.number, 0, slots, 4, 3, frames) == 0
        assert told == [4]
        assert api.batch_commit(batch[0], ffi.NULL) == 0
        shows = ffi.new("mrm_slot *")
        for slot, frame in [*zip(slots, frames), *zip(others, more)]:
            assert api.reservation_slot(r[0], slot, shows) == 0
            assert (shows.state, shows.frame) == (1, frame)
    finally:
        api.pool_on_shortage(handle, ffi.NULL, ffi.NULL)
        api.batch_abort(batch[0])
        assert api.reservation_close(r[0]) == 0
    assert api.give_many(handle, frames, 4, 0) == 0
    assert api.give_many(handle, more, 6, 0) == 0
    api.pool_release(handle)


@pytest.mark.parametrize("how", ["abort", "exception", "drop"])
def test_a_frame_that_somebody_looks_at_stays_with_who_aborts(pool, reservation, heap, how):
    batch = reservation.batch()
    seen, unseen = batch.map([0, 1], account=heap)
    with pool[seen] as buffer:
        buffer[0] = 9
        if how == "abort":
            batch.abort()
        elif how == "exception":
            with pytest.raises(ZeroDivisionError), batch:
                raise ZeroDivisionError
        del batch
        assert (pool.state_of(seen), pool.state_of(unseen)) == ("held", "ready")
        pool.inflate(MANY * FRAME)
        assert buffer[0] == 9
    pool.give(seen)
    pool.resize(MANY * FRAME)
    assert heap.allocated == 0
