"""Accounts: promises kept, overdrafts, credits, and what threads do to them.

All on the fake, as nothing is touched. Watermarks are exact while one processor is used, so the
tests of those stay on one.
"""

import os
import random
import threading

import pytest
from helpers import FRAME, MANY, FakePool, running_on

import mrm


@pytest.fixture
def pool(fake_pool):
    return fake_pool


def one_processor():
    """Stay on one of those that this process may use."""
    return running_on(min(os.sched_getaffinity(0)))


# ---- promises ------------------------------------------------------------------------


def test_a_balance_is_a_promise(pool):
    heap = pool.account("heap")
    heap.fund(10)
    held = pool.take(54)
    with pytest.raises(mrm.OutOfFrames, match=r"'pool' 54, 'heap' 0 \(of 10\)"):
        pool.take()
    mine = heap.take(10)
    assert not set(mine) & set(held)
    assert {pool.account_of(frame).name for frame in mine} == {"heap"}
    assert pool.account_of(held[0]).name == "pool"


def test_beyond_the_balance_only_where_it_is_allowed(pool):
    pool.fund("overdraft", 4 * FRAME)
    heap = pool.account("heap")
    heap.fund(2)
    mine = list(heap.take(2))
    with pytest.raises(mrm.OutOfFrames, match="or allow overdraft"):
        heap.take()
    mine += [heap.take(overdraft=True) for _ in range(4)]
    assert heap.stats().overdrawn == pool.funds["overdraft"].stats().lent == 4
    with pytest.raises(mrm.OutOfFrames):
        heap.take(overdraft=True)
    pool.give(mine.pop())
    assert pool.funds["overdraft"].available == 1
    assert heap.stats().cached == 0  # what was lent goes back at once
    other = pool.account("other")
    other.take(overdraft=True)


def test_an_account_without_overdraft_has_its_balance_and_no_more(pool):
    pool.fund("overdraft", 4 * FRAME)
    gc = pool.account("gc", overdraft=None)
    gc.fund(1)
    gc.take(overdraft=True)
    with pytest.raises(mrm.OutOfFrames):
        gc.take(overdraft=True)


def test_a_limit_holds_for_the_overdraft_too(pool):
    pool.fund("overdraft", 4 * FRAME)
    heap = pool.account("heap", limit=3)
    heap.fund(2)
    heap.take(3, overdraft=True)
    with pytest.raises(mrm.OutOfFrames, match="raise its limit"):
        heap.take(overdraft=True)
    heap.limit = 4
    heap.take(overdraft=True)
    with pytest.raises(mrm.ArgumentError, match="lower that first"):
        heap.limit = 1
    with pytest.raises(mrm.ArgumentError, match="raise its limit first"):
        heap.fund(3)


def test_pause_prevention_is_for_those_who_name_it(pool):
    pool.fund("pause_prevention", 8 * FRAME)
    heap, gc = pool.account("heap"), pool.account("gc", committed="pause_prevention")
    with pytest.raises(mrm.OutOfFrames):
        heap.take(overdraft=True)
    with pytest.raises(mrm.OutOfFrames):
        pool.take(57)
    with pytest.raises(mrm.OutOfFrames):
        heap.fund(57)
    gc.fund(8)
    assert len(gc.take(8)) == 8


def test_arrays_and_runs_are_paid_for_whole_or_not_at_all(pool):
    pool.fund("overdraft", 4 * FRAME)
    heap = pool.account("heap")
    heap.fund(6)
    with pytest.raises(mrm.OutOfFrames):
        heap.take(7)
    with pytest.raises(mrm.OutOfFrames):
        heap.take_run(7)
    assert heap.allocated == 0
    run = heap.take_run(8, overdraft=True)
    assert heap.stats().overdrawn == 2
    pool.give(run)
    assert len(heap.take(10, overdraft=True)) == 10
    with pytest.raises(mrm.OutOfFrames):
        heap.take(MANY + 1)
    assert len(heap.take(0)) == len(heap.take_run(0)) == 0


def test_a_run_is_found_though_others_keep_its_frames_free(pool):
    others = [pool.account(f"other {i}") for i in range(4)]
    for other in others:
        other.fund(8)
        frames = other.take(8)
        for frame in frames[::-1]:
            pool.give(frame)
        assert other.stats().cached == 8
    heap = pool.account("heap")
    heap.fund(MANY - 32)
    assert len(heap.take_run(MANY - 32)) == MANY - 32


def test_a_strict_frame_stays_charged_until_the_retire(pool):
    heap = pool.account("heap")
    heap.fund(2)
    mine = heap.take(2)
    pool.give(mine, reuse="after_retire")
    assert heap.allocated == 2
    with pytest.raises(mrm.OutOfFrames):
        heap.take()
    pool.retire()
    assert heap.allocated == 0
    heap.take(2)


def test_an_array_of_several_accounts_is_given_to_each(pool):
    accounts = [pool.account(name) for name in "abc"]
    for account in accounts:
        account.fund(20)
    frames = [frame for account in accounts for frame in account.take(20)]
    random.Random(1).shuffle(frames)
    pool.give(frames[:30])
    pool.audit()
    pool.give(frames[30:])
    assert [account.allocated for account in accounts] == [0, 0, 0]


def test_balances_are_moved_and_lowered_as_far_as_they_are_not_used(pool):
    a, b = pool.account("a"), pool.account("b")
    a.fund(10)
    held = a.take(4)
    with pytest.raises(mrm.OutOfFrames, match="can do without 6 of its balance of 10, not 7"):
        a.transfer(b, 7)
    a.transfer("b", 6)
    assert (a.balance, b.balance) == (4, 6)
    with pytest.raises(mrm.OutOfFrames):
        a.fund(-1)
    pool.give(held)
    a.fund(-4)
    assert pool.funds["committed"].available == MANY - 6
    with pytest.raises(mrm.ArgumentError, match="no balance"):
        pool.accounts["pool"].fund(1)
    with pytest.raises(mrm.ArgumentError, match="no balance"):
        b.transfer("pool", 1)


def test_a_promise_goes_with_its_frames_from_fund_to_fund(pool):
    pool.fund("pause_prevention", 4 * FRAME)
    a, b = pool.account("a"), pool.account("b", committed="pause_prevention")
    a.fund(5)
    a.transfer(b, 5)
    assert (pool.funds["committed"].frames, pool.funds["pause_prevention"].frames) == (MANY - 9, 9)


def test_what_was_lent_becomes_balance(pool):
    pool.fund("overdraft", 4 * FRAME)
    heap = pool.account("heap")
    heap.take(4, overdraft=True)
    heap.fund(3)
    assert (heap.stats().overdrawn, pool.funds["overdraft"].available) == (1, 3)


def test_credits_pass_a_promise_on(pool):
    heap, gc, last = pool.account("heap"), pool.account("gc", limit=2), pool.account("last", limit=1)
    heap.fund(6)
    heap.credits(gc, "last")
    held = heap.take(6)
    for frame in held[:2]:
        pool.give(frame)
    assert (heap.balance, gc.balance, last.balance) == (4, 2, 0)
    pool.give(held[2:5])
    assert (heap.balance, gc.balance, last.balance) == (3, 2, 1)
    heap.credits()
    pool.give(held[5])
    assert heap.balance == 3
    for wrong in (heap, "pool"):
        with pytest.raises(mrm.ArgumentError, match="not to itself"):
            heap.credits(wrong)
    with pytest.raises(mrm.ArgumentError, match="up to 8"):
        heap.credits(*["gc"] * 9)


def test_flush_returns_what_an_account_keeps_free(pool):
    heap = pool.account("heap")
    heap.fund(8)
    for frame in heap.take(8):
        pool.give(frame)
    assert heap.stats().cached == 8
    assert heap.flush(overdraft_only=True) == 0
    assert heap.flush() == 8
    assert heap.stats().cached == 0
    assert heap.balance == 8


def test_watermarks_are_exact_on_one_processor(pool):
    with one_processor():
        heap = pool.account("heap", limit=40)
        heap.fund(40)
        held = [heap.take() for _ in range(33)]
        for frame in held[:30]:
            pool.give(frame)
        held = held[30:] + [heap.take() for _ in range(4)]
        stats = heap.stats()
        assert (stats.allocated_low, stats.allocated, stats.allocated_high) == (0, 7, 33)
        assert (stats.balance_low, stats.balance_high) == (0, 40)
        heap.reset_watermarks()
        for frame in held[:5]:
            pool.give(frame)
        heap.take(3)
        heap.limit = 50
        stats = heap.stats()
        assert (stats.allocated_low, stats.allocated, stats.allocated_high) == (2, 5, 7)
        assert (stats.balance_low, stats.limit_low, stats.limit_high) == (40, 40, 50)


def test_promises_hold_in_a_race():
    with FakePool(MANY) as pool:
        pool.fund("overdraft", 8 * FRAME)
        accounts = [pool.account(f"account {i}") for i in range(6)]
        for account in accounts:
            account.fund(6)
        failures = []

        def work(number):
            choose, account, mine = random.Random(number), accounts[number % 6], []
            take_one = pool.take if number > 5 else lambda: account.take(overdraft=True)
            try:
                for _ in range(1500):
                    mine += account.take(6 - len(mine)) if choose.random() < 0.5 and number < 6 else []
                    for _ in range(choose.randrange(3)):
                        try:
                            mine.append(take_one())
                        except mrm.OutOfFrames:
                            pass
                    if choose.random() < 0.05:
                        account.flush()
                    choose.shuffle(mine)
                    keep = choose.randrange(4)
                    given, mine = mine[keep:], mine[:keep]
                    pool.give(given, reuse="now")
                pool.give(mine)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert pool.audit().held == 0
        assert pool.funds["overdraft"].available == 8


# ---- names and ends ------------------------------------------------------------------


def test_an_account_closes_when_it_holds_nothing(pool):
    heap = pool.account("heap")
    heap.fund(4)
    frame = heap.take()
    with pytest.raises(mrm.FrameError, match="has 1 frames"):
        heap.close()
    pool.give(frame)
    heap.close()
    assert pool.funds["committed"].available == MANY
    for use in (heap.take, heap.close, heap.stats, lambda: heap.fund(1)):
        with pytest.raises(mrm.ArgumentError, match="closed"):
            use()
    with pytest.raises(mrm.ArgumentError, match="there is no account 'heap'"):
        pool.account("other").transfer("heap", 0)
    assert pool.account("again").number == heap.number + 1  # "other" has the old one's
    with pytest.raises(mrm.ArgumentError, match="not closed"):
        pool.accounts["pool"].close()


def test_credits_end_with_the_account_that_gets_them(pool):
    heap, gc = pool.account("heap"), pool.account("gc")
    heap.fund(2)
    heap.credits(gc)
    gc.close()
    assert pool.account("new").number == gc.number
    pool.give(heap.take(2))
    assert heap.balance == 2


def test_names_are_unique_and_numbers_end(pool):
    pool.account("heap")
    with pytest.raises(mrm.ArgumentError, match="'heap' already"):
        pool.account("heap")
    with pytest.raises(mrm.MetadataMemoryError, match="close some"):
        for i in range(1100):
            pool.account(f"{i}")
    assert len(pool.accounts) > 10


def test_arguments_are_checked(pool):
    heap = pool.account("heap")
    for wrong in (-1, 1.5, True, "3", None, 2**32):
        for use in (heap.take_run, lambda n: heap.transfer("pool", n)):
            with pytest.raises(mrm.ArgumentError):
                use(wrong)
    for wrong in (1.5, True, "3", 2**33):
        with pytest.raises(mrm.ArgumentError):
            heap.fund(wrong)
    with pytest.raises(mrm.ArgumentError, match="limit="):
        pool.account("other", limit=0)
    for kind in (mrm.Account, mrm.Fund):
        with pytest.raises(TypeError, match=r"pool\."):
            kind()
    with mrm.Pool(4 * FRAME) as other, pytest.raises(mrm.ArgumentError, match="another pool's"):
        other.account("x").transfer(heap, 0)


def test_a_closed_pool_has_no_accounts():
    pool = mrm.Pool(FRAME, huge="off")
    heap, fund = pool.account("heap"), pool.funds["committed"]
    pool.close()
    of_the_pool = (lambda: pool.accounts, lambda: pool.funds, lambda: pool.account("x"))
    for use in (heap.take, heap.stats, fund.stats, *of_the_pool):
        with pytest.raises(mrm.ClosedError):
            use()
    assert "closed pool" in repr(heap)
    assert "closed pool" in repr(fund)
