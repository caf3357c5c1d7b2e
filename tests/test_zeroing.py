"""Zeroed frames in stock: cleared ahead by a thread that nobody waits for, and anybody's to take.

The thread runs when a processor has nothing else to do, so tests wait for it, for as long as
it takes; what they prove meanwhile holds whether it has come to anything or not.
"""

import contextlib
import errno
import os
import pathlib
import sys
import threading
import time

import pytest
from helpers import FRAME, FakePool, after_fork, commit, in_child, stamp, stamp_at, wait_until

import mrm
import mrm.system.calls as calls

MANY = 16


def settled(pool, n):
    wait_until(lambda: pool.stats().zeroed == n)


def clearers():
    """Threads of this process that clear frames: those that give way to all others."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            if os.sched_getscheduler(int(task)) == os.SCHED_IDLE:
                found.append(int(task))
        except ProcessLookupError:
            pass  # it ended meanwhile
    return found


def none_clears():
    """Whether there is no such thread: one that was joined may be listed for a moment more."""
    wait_until(lambda: not clearers())
    return True


def dirty(pool, account, n=MANY):
    """Have an account leave something in n frames that are free in the common list."""
    frames = account.take(n)
    for frame in frames:
        stamp(pool.address(frame), 0xD1127 + frame)
    pool.give(frames)
    account.flush()


@pytest.fixture
def owner(pool):
    """An account that was promised every frame."""
    account = pool.account("owner")
    account.fund(MANY)
    return account


# ---- what it is for ------------------------------------------------------------------------


def test_there_is_no_thread_unless_asked_for(pool, owner):
    dirty(pool, owner)
    pool.keep_zeroed(0)
    assert none_clears()
    assert pool.stats().zeroed == 0


def test_frames_are_cleared_ahead_and_takers_of_zeros_do_not_wait(pool, owner):
    dirty(pool, owner)
    pool.keep_zeroed(MANY)
    settled(pool, MANY)
    assert pool.stats().cleared == MANY
    frames = owner.take(MANY, zeroed=True)
    assert {stamp_at(pool.address(frame)) for frame in frames} == {0}
    assert pool.stats().cleared_late == 0
    pool.give(frames)


def test_without_a_stock_takers_clear_and_it_is_counted(pool, owner):
    dirty(pool, owner)
    frames = owner.take(3, zeroed=True)
    assert {stamp_at(pool.address(frame)) for frame in frames} == {0}
    assert (pool.stats().cleared, pool.stats().cleared_late) == (0, 3)
    pool.give(frames)


def test_a_warm_dirty_frame_is_exchanged_for_one_of_the_stock(pool, owner):
    pool.keep_zeroed(4)
    settled(pool, 4)
    warm = owner.take()
    stamp(pool.address(warm), 1)
    pool.give(warm)
    before = owner.stats()
    frame = owner.take(zeroed=True)
    assert frame != warm
    assert stamp_at(pool.address(frame)) == 0
    after = owner.stats()
    assert after.allocated + after.cached == before.allocated + before.cached
    assert pool.stats().cleared_late == 0
    pool.give(frame)


def test_what_another_account_left_is_exchanged_too(pool, owner):
    dirty(pool, owner, 12)
    owner.fund(-MANY)
    pool.keep_zeroed(8)
    settled(pool, 8)
    frames = [pool.take() for _ in range(4)]
    assert {stamp_at(pool.address(frame)) for frame in frames} == {0}
    assert pool.stats().cleared_late == 0
    pool.give(frames)


def test_frames_that_hold_zeros_already_are_in_stock_at_once(pool):
    pool.keep_zeroed(MANY)
    assert pool.stats().zeroed == MANY
    assert pool.stats().cleared == 0


def test_the_stock_fills_up_again_when_frames_come_back(pool, owner):
    frames = owner.take(MANY)
    for frame in frames:
        stamp(pool.address(frame), frame + 1)
    pool.keep_zeroed(3)
    assert pool.stats().zeroed == 0
    pool.give(frames)
    owner.flush()
    settled(pool, 3)
    for _ in range(3):
        frame = owner.take(zeroed=True)
        assert stamp_at(pool.address(frame)) == 0
        stamp(pool.address(frame), 7)
        pool.give(frame)
    settled(pool, 3)


def test_low_frames_stay_out_of_it(pool):
    pool.keep_zeroed(4)
    assert list(pool.take_run(12)) == list(range(12))
    pool.give(range(12))


# ---- the frames stay anybody's ---------------------------------------------------------------


def test_who_finds_no_others_gets_those_in_stock(pool, owner):
    pool.keep_zeroed(MANY)
    for take in (
        lambda: owner.take(MANY),
        lambda: [owner.take() for _ in range(MANY)],
        lambda: owner.take_run(MANY),
    ):
        frames = take()
        assert sorted(frames) == list(range(MANY))
        with pytest.raises(mrm.OutOfFrames):
            owner.take()
        pool.give(frames)


@pytest.mark.parametrize("form", ["one", "array", "run"])
def test_a_promise_holds_while_the_thread_works(pool, owner, form):
    """Every round all frames are dirty, some in the thread's list or hand, and all are taken at once."""
    take = {
        "one": lambda: [owner.take() for _ in range(MANY)],
        "array": lambda: owner.take(MANY),
        "run": lambda: owner.take_run(MANY),
    }[form]
    pool.keep_zeroed(MANY)
    for _ in range(100):
        frames = take()
        for frame in frames:
            stamp(pool.address(frame), 9)
        pool.give(frames)
        owner.flush()
        if pool.stats().cleared < 5:
            time.sleep(0.002)
    assert pool.audit().held == 0


def test_the_audit_waits_for_the_frame_in_hand(pool, owner):
    pool.keep_zeroed(MANY)
    for _ in range(50):
        dirty(pool, owner)
        assert pool.audit().ready == MANY
    settled(pool, MANY)


def test_the_balloon_takes_frames_in_stock(pool, owner):
    dirty(pool, owner)
    owner.fund(-MANY)
    pool.keep_zeroed(MANY)
    pool.inflate(10 * FRAME).or_raise()
    settled(pool, MANY - 10)
    pool.deflate(10 * FRAME).or_raise()
    pool.keep_zeroed(MANY)
    settled(pool, MANY)


def test_a_closed_accounts_frames_in_stock_are_cleared_for_its_successor(pool, owner):
    dirty(pool, owner)
    pool.keep_zeroed(MANY)
    owner.close()
    heir = pool.account("heir")
    assert heir.number == owner.number
    heir.fund(MANY)
    frames = heir.take(MANY)
    assert {stamp_at(pool.address(frame)) for frame in frames} == {0}
    pool.give(frames)


def test_frames_that_an_old_address_shows_are_left_out(pool, owner):
    r = pool.reserve(1)
    frame = owner.take()
    stamp(pool.address(frame), 5)
    commit(r, "map", 0, frame)
    commit(r, "unmap", 0, deferred=True)
    pool.give(frame)
    owner.flush()
    pool.keep_zeroed(MANY)
    settled(pool, MANY - 1)
    stamp(r.address(0), 6)  # a late write
    r.retire()
    pool.keep_zeroed(MANY)
    settled(pool, MANY)
    frames = owner.take(MANY, zeroed=True)
    assert {stamp_at(pool.address(frame)) for frame in frames} == {0}
    pool.give(frames)
    r.close()


def test_zeros_are_zeros_in_a_race(pool):
    """Threads dirty what they had, and look at all that they were given as zeroed."""
    pool.keep_zeroed(MANY // 2)
    accounts = [pool.account(f"account {i}") for i in range(3)]
    failures = []

    def work(account):
        try:
            account.fund(5)
            for turn in range(60):
                frames = account.take(1 + turn % 5, zeroed=True) if turn % 2 else [account.take(zeroed=True)]
                for frame in frames:
                    assert stamp_at(pool.address(frame)) == 0
                    stamp(pool.address(frame), account.number)
                pool.give(frames)
                if turn % 7 == 0:
                    account.flush()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(account,)) for account in accounts]
    for thread in threads:
        thread.start()
    for turn in range(20):
        pool.keep_zeroed(turn % 4 * 3)
        with contextlib.suppress(mrm.AuditError):  # of books that are being written in
            _ = pool.audit() if turn % 2 else pool.stats()
        time.sleep(0.002)
    for thread in threads:
        thread.join()
    assert failures == []
    pool.audit()


# ---- the thread ------------------------------------------------------------------------------


def test_it_gives_way_to_all_and_takes_no_signal(pool):
    pool.keep_zeroed(1)
    (task,) = clearers()
    status = pathlib.Path(f"/proc/self/task/{task}/status").read_text()
    (blocked,) = (int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk"))
    # All but KILL and STOP, which cannot be, and the two or three that are the C library's own.
    assert blocked.bit_count() >= 59
    assert not signals_blocked_here()
    pool.keep_zeroed(2)
    assert clearers() == [task]
    pool.keep_zeroed(0)
    assert none_clears()


def signals_blocked_here():
    import signal

    return signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_it_sleeps_when_nothing_is_to_be_done(pool, owner):
    dirty(pool, owner)
    pool.keep_zeroed(4)
    settled(pool, 4)
    (task,) = clearers()

    def switches():
        status = pathlib.Path(f"/proc/self/task/{task}/status").read_text()
        return [line for line in status.splitlines() if "ctxt_switches" in line]

    wait_until(
        lambda: pathlib.Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0] == "S"
    )
    pool.give(owner.take())
    before = switches()
    for _ in range(1000):  # on the fast path nobody wakes it
        pool.give(owner.take())
    assert switches() == before


def test_the_pools_end_is_the_threads(huge):
    with mrm.Pool(8 * FRAME, huge=huge) as pool:
        account = pool.account("owner")
        account.fund(8)
        dirty(pool, account, 8)
        pool.keep_zeroed(8)
        assert len(clearers()) == 1
    assert none_clears()


def test_it_goes_on_while_a_view_keeps_the_pool(huge):
    pool = mrm.Pool(8 * FRAME, huge=huge)
    view = pool.open_view()
    pool.keep_zeroed(8)
    pool.close()
    assert len(clearers()) == 1
    view.close()
    assert none_clears()


def test_a_child_has_neither_thread_nor_pool(pool, owner):
    dirty(pool, owner)
    pool.keep_zeroed(MANY)

    def child():
        try:
            pool.keep_zeroed(1)
        except mrm.ForkedError:
            pool.close()
            return len(clearers()), len(os.listdir("/proc/self/task"))
        return "it was let"

    assert after_fork(child) == (0, 1)
    settled(pool, MANY)


# ---- what is refused ---------------------------------------------------------------------------


def test_no_more_than_the_pool_has(pool):
    with pytest.raises(mrm.ArgumentError, match="17 frames cannot be kept cleared: this pool has 16"):
        pool.keep_zeroed(MANY + 1)
    for wrong in (-1, "1", 1.5, True, 2**32):
        with pytest.raises(mrm.ArgumentError):
            pool.keep_zeroed(wrong)
    assert none_clears()


def test_a_closed_pool_keeps_nothing(pool):
    pool.close()
    with pytest.raises(mrm.ClosedError):
        pool.keep_zeroed(1)


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_where_it_cannot_give_way_there_is_none(pool, owner, error):
    dirty(pool, owner)
    for k in range(1, 10):
        with calls.Script(fail=k, error=error) as script:
            try:
                pool.keep_zeroed(4)
            except mrm.SystemCallError as refused:
                assert (refused.call, refused.errno) == ("sched_setscheduler", error)
                assert "SCHED_IDLE" in str(refused)
                assert none_clears()
                assert pool.stats().zeroed == 0
        if script.counted < k:
            break
    assert k == 2, "it makes one system call besides the thread's own start"
    settled(pool, 4)


def test_without_room_for_a_thread_there_is_none(huge):
    ended = in_child(
        """
        import resource
        pool = mrm.Pool(8 * MIB, huge=huge)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4096, resource.RLIM_INFINITY))
        try:
            pool.keep_zeroed(1)
        except mrm.MetadataMemoryError as error:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            assert "ulimit" in str(error), error
            pool.keep_zeroed(1)
            say("refused")
        pool.audit()
        pool.close()
        """,
        huge=huge,
    )
    assert (ended.code, ended.out) == (0, "refused\n"), ended


# ---- and by the way ------------------------------------------------------------------------------


def test_taking_one_frame_clears_it_without_the_gil(pool, owner):
    """Nobody is asked for the GIL here: the other thread runs only if it is let go."""
    counted, ends = [0], threading.Event()

    def count():
        while not ends.is_set():
            counted[0] += 1
            time.sleep(0)  # lets it go, so that the taker goes on

    other = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    other.start()
    try:
        sys.setswitchinterval(1000)
        for _ in range(500):
            owner.fund(MANY - owner.balance)
            dirty(pool, owner)
            owner.fund(-MANY)
            before = counted[0]
            taken = [pool.take() for _ in range(MANY)]
            moved = counted[0] - before
            for frame in taken:
                pool.give(frame)
            pool.accounts["pool"].flush()
            if moved:
                break
        assert moved
    finally:
        sys.setswitchinterval(interval)
        ends.set()
        other.join()
    assert pool.stats().cleared_late


def test_on_the_fake_nothing_is_touched():
    with FakePool(1 << 16) as pool:
        account = pool.account("owner")
        account.fund(1000)
        pool.keep_zeroed(500)
        pool.give(account.take(1000))
        account.flush()
        assert len(account.take(1000, zeroed=True)) == 1000
        pool.audit()
