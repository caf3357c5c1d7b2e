"""Funds: what a pool's frames are worth, divided, moved and named; on the fake, as nothing is touched."""

import pytest
from helpers import FRAME, MANY

import mrm


@pytest.fixture
def pool(fake_pool):
    return fake_pool


def test_a_pool_begins_with_the_funds_of_the_original(pool):
    assert {name: fund.frames for name, fund in pool.funds.items()} == {
        "committed": MANY,
        "overdraft": 0,
        "pause_prevention": 0,
    }
    assert list(pool.accounts) == ["pool"]


def test_a_fund_gets_its_size_from_the_committed_one(pool):
    fund = pool.fund("spare", 5 * FRAME - 1)
    assert fund.frames == fund.available == 5
    assert pool.funds["committed"].frames == MANY - 5
    assert pool.fund("spare", "2MiB").frames == max(1, (2 << 20) // FRAME)
    assert pool.fund("spare", 0).frames == 0
    assert pool.fund("spare").name == "spare"
    assert pool.funds["committed"].frames == MANY


def test_a_fund_cannot_be_larger_than_what_is_left(pool):
    with pytest.raises(
        mrm.OutOfFrames, match=r"of 65 frames' worth asked of fund 'committed', 64 are available"
    ):
        pool.fund("spare", (MANY + 1) * FRAME)
    assert pool.funds["committed"].frames == MANY
    assert "spare" not in pool.funds
    for wrong in ("", False, -1, "2 apples"):
        with pytest.raises(mrm.ArgumentError):
            pool.fund("spare", wrong)
    assert "spare" not in pool.funds


def test_what_is_taken_by_nobody_in_particular_is_not_available(pool):
    held = pool.take(60)
    with pytest.raises(mrm.OutOfFrames, match="60 lent"):
        pool.fund("spare", 5 * FRAME)
    pool.give(held[:1])
    assert pool.fund("spare", 5 * FRAME).available == 5  # what is free in stacks stands in nobody's way


def test_frames_worth_moves_between_funds(pool):
    spare = pool.fund("spare", 6 * FRAME)
    spare.transfer("overdraft", 2)
    spare.transfer(pool.fund("pause_prevention"), 1)
    assert (spare.frames, pool.funds["overdraft"].frames, pool.funds["pause_prevention"].frames) == (3, 2, 1)
    with pytest.raises(mrm.OutOfFrames):
        spare.transfer("overdraft", 4)


@pytest.mark.parametrize("name", ["", "x" * 48, "a\0b", 7, None])
def test_names_that_are_none_are_refused(pool, name):
    with pytest.raises(mrm.ArgumentError, match="name"):
        pool.fund(name, FRAME)
    with pytest.raises(mrm.ArgumentError, match="name"):
        pool.account(name)
    assert len(pool.funds) == 3


def test_unknown_funds_and_the_committed_one_have_no_size_to_set(pool):
    with pytest.raises(mrm.ArgumentError, match="there is no fund 'spare'"):
        pool.fund("spare")
    with pytest.raises(mrm.ArgumentError, match="what the others leave"):
        pool.fund("committed", FRAME)
    with pytest.raises(mrm.ArgumentError, match="there is no fund 'spare'"):
        pool.account("heap", committed="spare")


def test_there_are_64_funds_and_no_more(pool):
    for i in range(61):
        pool.fund(f"fund {i}", 0)
    with pytest.raises(mrm.MetadataMemoryError, match="up to 64 funds"):
        pool.fund("one more", 0)
