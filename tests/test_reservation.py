"""Reservations: opening, looking at slots, buffers and pins, closing."""

import gc

import pytest
from helpers import FRAME, commit, fill, in_child, stamp, stamp_all, stamp_at, table

import mrm

GIB = 1 << 30


def test_slots_are_empty_at_first(reservation):
    assert len(reservation) == 64
    assert table(reservation) == [(None, None)] * 64
    assert reservation.deferred == 0


def test_slots_lie_one_after_the_other(reservation):
    assert reservation.base % GIB == 0
    assert [reservation.address(slot) for slot in (0, 1, 63)] == [
        reservation.base + slot * FRAME for slot in (0, 1, 63)
    ]


def test_reservations_have_numbers_of_their_own(pool):
    with pool.reserve(1) as a, pool.reserve(1) as b:
        assert a.number != b.number
        assert a.pool is b.pool is pool


@pytest.mark.parametrize("slots", [0, -1, 2**28 + 1, 2**31, 2**64, 1.0, "8", True, None], ids=repr)
def test_a_number_of_slots_that_is_none_is_refused(pool, slots):
    with pytest.raises(mrm.ArgumentError):
        pool.reserve(slots)


def test_more_slots_than_addresses_are_refused(pool):
    with pytest.raises(mrm.AddressSpaceError):
        pool.reserve(2**28)


def test_a_large_reservation_costs_no_memory(pool):
    with pool.reserve(2**20) as r:
        fill(r, [0, 2**19, 2**20 - 1])
        stamp(r.address(2**20 - 1), 8)
        assert stamp_at(pool.address(r[2**20 - 1])) == 8


def test_a_reservation_lies_where_it_is_wanted(pool):
    with pool.reserve(4) as scout:
        free = scout.base + 8 * GIB
    with pool.reserve(4, at=free + FRAME) as r:
        assert r.base == free + FRAME
        fill(r, range(4))
        r.check()
        with pytest.raises(mrm.AddressSpaceError, match="not free"):
            pool.reserve(1, at=r.address(3))


@pytest.mark.parametrize("at", [1, FRAME + 1, 0, -FRAME, 2**63, 2**70, 1.5, "0x1000"], ids=repr)
def test_an_address_that_is_none_is_refused(pool, at):
    with pytest.raises(mrm.ArgumentError):
        pool.reserve(1, at=at)


def test_an_address_beyond_the_process_is_refused(pool):
    with pytest.raises(mrm.AddressSpaceError):
        pool.reserve(1, at=2**62)


@pytest.mark.parametrize("slot", [64, -1, 2**32, 2**70])
def test_a_slot_that_is_none_is_refused(reservation, slot):
    for look in (reservation.address, reservation.__getitem__, reservation.mapping, reservation.buffer):
        with pytest.raises(mrm.SlotError):
            look(slot)


def test_a_slot_says_what_it_shows(pool, reservation):
    frame = pool.take()
    commit(reservation, "map", 3, frame, "r")
    assert reservation[3] == frame
    expected = mrm.Mapping("reservation", reservation.number, 3, reservation.address(3), "r")
    assert reservation.mapping(3) == expected
    commit(reservation, "unmap", 3, deferred=True)
    assert reservation[3] is None
    assert reservation.mapping(3).deferred
    assert reservation.deferred == 1
    reservation.retire()
    assert reservation.mapping(3) is None
    assert reservation.deferred == 0


def test_check_finds_what_the_table_does_not_say(pool, reservation):
    import mrm.system.calls as calls

    fill(reservation, [2])
    reservation.check()
    calls.system_call("mprotect", reservation.address(2), FRAME, 1)
    with pytest.raises(mrm.AuditError, match="slot 2"):
        reservation.check()
    calls.system_call("mprotect", reservation.address(2), FRAME, 3)
    reservation.check()


def test_an_empty_slot_traps(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        r = pool.reserve(4)
        fill(r, [1])
        poke(r.address(1))
        say("shown")
        peek(r.address(2))
        """,
        huge,
    )
    assert (ending.out, ending.signal) == ("shown\n", 11), ending


# ---- buffers -------------------------------------------------------------------------


def test_a_buffer_shows_the_slot(pool, reservation):
    (frame,) = fill(reservation, [5])
    with reservation.buffer(5) as buffer:
        buffer[:2] = b"ab"
        assert len(buffer) == FRAME
    assert bytes(pool[frame][:2]) == b"ab"


def test_a_buffer_of_a_slot_for_reading_is_readonly(reservation):
    fill(reservation, [5], "r")
    with reservation.buffer(5) as buffer:
        assert buffer.readonly
        with pytest.raises(TypeError):
            buffer[0] = 1


def test_slots_that_show_nothing_have_no_buffer(reservation):
    fill(reservation, [1], "none")
    fill(reservation, [2])
    commit(reservation, "unmap", 2, deferred=True)
    for slot in (0, 1, 2):
        with pytest.raises(mrm.SlotError):
            reservation.buffer(slot)


def test_a_buffer_pins_its_slot(reservation):
    fill(reservation, range(4))
    before = table(reservation)
    buffer = reservation.buffer(1)
    part = buffer[4:8]
    buffer.release()
    for change in (
        ("unmap", 1), ("unmap", range(4)), ("move", 1, 9), ("move", [0, 1], [8, 9]), ("swap", 1, 2), ("swap", 2, 1),
        ("protect", [0, 1], "r"),
    ):  # fmt: skip
        with pytest.raises(mrm.PinnedError, match="slot 1"):
            commit(reservation, *change)
    with pytest.raises(mrm.PinnedError, match="slots \\[1\\]"):
        reservation.close()
    assert table(reservation) == before
    commit(reservation, "alias", 1, 10)
    commit(reservation, "unmap", [0, 2, 3])
    part.release()
    commit(reservation, "unmap", 1)


def test_a_frame_number_is_no_pinned_slot(pool, reservation):
    frames = fill(reservation, range(4))
    with reservation.buffer(frames[2]):
        commit(reservation, "map", 40, frames[2])


# ---- the end -------------------------------------------------------------------------


def test_closing_keeps_the_frames_held_and_their_contents(pool):
    r = pool.reserve(8)
    frames = fill(r, [0, 3, 7])
    stamp_all(pool)
    commit(r, "unmap", 3, deferred=True)
    r.close()
    r.close()
    assert r.closed
    stats = pool.audit()
    assert (stats.held, stats.mapped, stats.pending) == (3, 0, 0)
    assert [stamp_at(pool.address(f)) for f in frames] == [0x5EED << 32 | f for f in frames]
    pool.give(frames)


def test_a_closed_reservation_is_used_no_more(pool):
    r = pool.reserve(8)
    batch = r.batch()
    r.close()
    for use in (lambda: r[0], lambda: r.address(0), lambda: len(r), lambda: r.base, lambda: r.number, r.retire, r.batch,
                r.check, lambda: r.buffer(0), lambda: r.deferred, r.__enter__, lambda: r.mapping(0)):  # fmt: skip
        with pytest.raises(mrm.ClosedError):
            use()
    batch.map(0, pool.take())
    for use in (batch.commit, batch.explain):
        with pytest.raises(mrm.ClosedError):
            use()
    batch.abort()
    assert repr(r) == "<mrm.Reservation closed>"


def test_closed_addresses_are_free_again(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        r = pool.reserve(4)
        address = r.base
        fill(r, range(2))
        poke(address)
        r.close()
        pool.reserve(4, at=address)
        say("closed")
        peek(address)
        """,
        huge,
    )
    assert (ending.out, ending.signal) == ("closed\n", 11), ending


def test_a_leaked_reservation_warns(pool):
    r = pool.reserve(4)
    fill(r, range(4))
    with pytest.warns(ResourceWarning, match="Reservation"):
        del r
        gc.collect()
    assert pool.stats().mapped == 0


def test_an_aborted_block_closes(pool):
    with pytest.raises(KeyError), pool.reserve(4) as r:
        raise KeyError
    assert r.closed
