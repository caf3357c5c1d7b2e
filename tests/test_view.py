"""Views: addresses as bit fields, contents through all of them, retiring, closing, pins."""

import ctypes
import gc
import resource

import facts
import pytest
from helpers import FRAME, in_child, stamp, stamp_all, stamp_at

import mrm


@pytest.fixture
def view(pool):
    view = pool.open_view()
    yield view
    view.close()


def test_a_view_shows_what_the_window_shows(pool, view):
    stamp_all(pool)
    assert [stamp_at(view.address(f)) for f in range(16)] == [stamp_at(pool.address(f)) for f in range(16)]
    stamp(view.address(7), 99)
    assert stamp_at(pool.address(7)) == 99


def test_several_views_show_the_same(pool):
    views = [pool.open_view() for _ in range(5)]
    for number, view in enumerate(views):
        stamp(view.address(number), number + 100)
    for view in views:
        assert [stamp_at(view.address(f)) for f in range(5)] == [100, 101, 102, 103, 104]
    for view in views:
        view.close()


def test_view_frame_and_offset_are_bit_fields(pool):
    layout = pool.layout
    assert layout["base"] % (layout["view_count"] << layout["stride_shift"]) == 0
    assert layout["frame_size"] == 1 << layout["frame_shift"] == FRAME
    assert layout["frame_count"] == 16
    views = [pool.open_view() for _ in range(3)]
    for view in [pool.window, *views]:
        for frame in (0, 1, 15):
            address = view.address(frame) + 4711
            assert (address - layout["base"]) >> layout["stride_shift"] == view.number
            assert address >> layout["stride_shift"] & layout["view_count"] - 1 == view.number
            assert address >> layout["frame_shift"] & layout["frame_mask"] == frame
            assert address & layout["frame_size"] - 1 == 4711
            assert view.frame_of(address) == frame
    for view in views:
        view.close()


def test_addresses_outside_are_refused(pool, view):
    for outside in (view.base - 1, view.base + 16 * FRAME, pool.address(0), 0, -1, 2**64):
        with pytest.raises(mrm.FrameError):
            view.frame_of(outside)
    for frame in (16, -1, 2**40, 2**70):
        with pytest.raises(mrm.FrameError):
            view.address(frame)
        with pytest.raises(mrm.FrameError):
            view[frame]
    with pytest.raises(TypeError):
        view.address("0")


def test_a_view_is_made_by_its_pool():
    for made in (mrm.View, mrm.Window, mrm.Batch, mrm.Reservation, mrm.Report):
        with pytest.raises(TypeError, match="made by"):
            made()


# ---- numbers -------------------------------------------------------------------------


def test_numbers_ascend_and_then_the_oldest_closed_comes_first(huge):
    with mrm.Pool(FRAME, huge=huge, views=7) as pool:
        views = [pool.open_view() for _ in range(7)]
        assert [view.number for view in views] == [1, 2, 3, 4, 5, 6, 7]
        for number in (5, 2, 7):
            views[number - 1].close()
        again = [pool.open_view() for _ in range(2)]
        assert [view.number for view in again] == [5, 2]
        again[0].close()
        again += [pool.open_view(), pool.open_view()]
        assert [view.number for view in again[2:]] == [7, 5]
        stamp(pool.address(0), 3)
        assert {stamp_at(view.base) for view in again[1:]} == {3}
        for view in views + again:
            view.close()


def test_numbers_that_are_used_up_are_said(huge):
    with mrm.Pool(FRAME, huge=huge, views=3) as pool:
        views = [pool.open_view() for _ in range(3)]
        views[1].retire()
        with pytest.raises(mrm.AddressSpaceError, match="3 view numbers.*2 open, 1 retired"):
            pool.open_view()
        views[1].close()
        pool.open_view().close()
        views[0].close()
        views[2].close()


def test_views_by_the_thousand(pool):
    count = pool.layout["view_count"]
    stamp(pool.address(9), 1)
    for _ in range(2 * count):
        with pool.open_view() as view:
            assert stamp_at(view.address(9)) == 1
    assert pool.stats().views_opened == 2 * count


# ---- retiring and closing ------------------------------------------------------------


def test_a_retired_view_traps_and_stays_reserved(huge):
    ending = in_child(
        """
        pool = mrm.Pool(8 * FRAME, huge=huge)
        view = pool.open_view()
        for frame in range(8):
            poke(view.address(frame), frame)
        view.retire()
        say([peek(pool.address(frame)) for frame in range(8)])
        say(mrm.classify(view.address(5)).state)
        try:
            pool.reserve(1, at=view.address(4))
        except mrm.AddressSpaceError:
            say("taken")
        peek(view.address(5))
        say("reached")
        """,
        huge,
    )
    assert ending.out == "[0, 1, 2, 3, 4, 5, 6, 7]\nretired\ntaken\n", ending
    assert ending.signal == 11, ending


def test_a_closed_views_addresses_trap(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        view = pool.open_view()
        address = view.address(1)
        poke(address)
        view.close()
        say("closed")
        poke(address)
        """,
        huge,
    )
    assert (ending.out, ending.signal) == ("closed\n", 11), ending


def test_views_are_retired_and_closed_in_any_order(pool):
    stamp_all(pool)
    views = [pool.open_view() for _ in range(6)]
    for i in (3, 0, 5):
        views[i].retire()
    for i in (0, 4, 3):
        views[i].close()
    for i in (1, 2):
        assert stamp_at(views[i].address(11)) == 0x5EED << 32 | 11
    assert [view.state for view in views] == ["closed", "open", "open", "closed", "closed", "retired"]
    for view in views:
        view.close()


def test_a_view_is_retired_once(view):
    view.retire()
    with pytest.raises(mrm.ClosedError, match="retired"):
        view.retire()
    with pytest.raises(mrm.ClosedError, match="retired"):
        view[0]


def test_a_closed_view_is_used_no_more(view):
    view.close()
    view.close()
    for use in (view.retire, lambda: view.base, lambda: view.number, lambda: view.address(0), lambda: view[0],
                lambda: len(view), lambda: view.frame_of(0), view.__enter__):  # fmt: skip
        with pytest.raises(mrm.ClosedError):
            use()
    assert view.state == "closed"
    assert repr(view) == "<mrm.View closed>"


def test_retiring_is_an_epoch(pool, view):
    before = pool.epoch
    view.retire()
    assert pool.epoch == before + 1


def test_a_leaked_view_warns(pool):
    view = pool.open_view()
    with pytest.warns(ResourceWarning, match="View"):
        del view
        gc.collect()
    assert pool.stats().views_open == 0


# ---- pins ----------------------------------------------------------------------------


def test_an_exported_buffer_pins_the_view(pool, view):
    buffer = view[3]
    buffer[:3] = b"abc"
    part = buffer[1:2]
    for end in (view.retire, view.close):
        with pytest.raises(mrm.PinnedError, match="1 exported"):
            end()
    buffer.release()
    with pytest.raises(mrm.PinnedError):
        view.retire()
    assert bytes(part) == b"b"
    part.release()
    view.retire()


def test_a_buffer_pins_its_own_view_only(pool, view):
    with view[0], pool.open_view() as other:
        other.retire()


def test_a_buffer_through_a_view_pins_its_frame(pool, view):
    frame = pool.take()
    with view[frame], pytest.raises(mrm.PinnedError):
        pool.give(frame)
    pool.give(frame)


# ---- page tables -----------------------------------------------------------------------


def _faults(touch):
    before = resource.getrusage(resource.RUSAGE_THREAD)
    touch()
    after = resource.getrusage(resource.RUSAGE_THREAD)
    return after.ru_minflt + after.ru_majflt - before.ru_minflt - before.ru_majflt


@pytest.mark.usefixtures("needs_huge")
@pytest.mark.parametrize("dump", [False, True])
@pytest.mark.parametrize("frames", [16, 40])
def test_views_share_the_kernels_page_tables(frames, dump):
    with mrm.Pool(frames * FRAME, huge="require", dump=dump) as pool, pool.open_view() as first:
        for frame in range(frames):
            ctypes.c_uint8.from_address(first.address(frame)).value = 1
        with pool.open_view() as view:
            words = [ctypes.c_uint64.from_address(view.address(frame)) for frame in range(frames)]
            fewest, most = facts.view_faults(frames)
            assert fewest <= _faults(lambda: [word.value for word in words]) <= most


def test_the_window_takes_no_faults(huge):
    with mrm.Pool(32 * FRAME, huge=huge) as pool:
        words = [ctypes.c_uint64.from_address(pool.address(frame)) for frame in range(32)]
        limit = 16 if huge == "require" else 48  # small pages are linked by the first touch
        assert _faults(lambda: [word.value for word in words]) < limit
