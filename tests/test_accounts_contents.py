"""What an account's frames hold when they come to another one; on real pools, which are written to."""

import pytest
from helpers import FRAME, stamp, stamp_at

import mrm


@pytest.fixture
def real(huge):
    with mrm.Pool(16 * FRAME, huge=huge) as pool:
        yield pool
        pool.audit()


def write_all(pool, frames):
    for frame in frames:
        stamp(pool.address(frame), 77)


def test_a_frame_of_another_account_is_cleared(real):
    a, b = real.account("a"), real.account("b")
    a.fund(8)
    b.fund(8)
    write_all(real, frames := a.take(8))
    write_all(real, b.take(8))
    real.give(frames)
    again = a.take(8)
    assert {stamp_at(real.address(frame)) for frame in again} == {77}  # within an account it is not
    real.give(again)
    a.flush()
    a.transfer(b, 8)
    taken = b.take(8)
    assert sorted(taken) == sorted(frames)
    assert {bytes(real[frame]) for frame in taken} == {bytes(FRAME)}


@pytest.mark.parametrize("one_shares", [False, True])
def test_contents_are_shared_where_both_agree(real, one_shares):
    a, b = real.account("a", share_contents=True), real.account("b", share_contents=not one_shares)
    a.fund(16)
    write_all(real, frames := a.take(16))
    real.give(frames)
    a.flush()
    a.fund(-16)
    b.fund(16)
    assert {stamp_at(real.address(frame)) for frame in b.take(16)} == ({0} if one_shares else {77})


@pytest.mark.parametrize("how", ["one", "array", "run"])
def test_zeroed_frames_are_zero(real, how):
    a = real.account("a")
    a.fund(4)
    take = {
        "one": lambda: [a.take(zeroed=True) for _ in range(4)],
        "array": lambda: a.take(4, zeroed=True),
        "run": lambda: a.take_run(4, zeroed=True),
    }[how]
    for _ in range(2):
        frames = take()
        assert {bytes(real[frame]) for frame in frames} == {bytes(FRAME)}
        write_all(real, frames)
        real.give(frames)


def test_a_closed_accounts_frames_are_cleared_for_its_successor(real):
    a = real.account("a", share_contents=True)
    a.fund(16)
    write_all(real, frames := a.take(16))
    real.give(frames)
    a.close()
    b = real.account("b", share_contents=True)
    assert b.number == a.number
    b.fund(16)
    assert {stamp_at(real.address(frame)) for frame in b.take(16)} == {0}
