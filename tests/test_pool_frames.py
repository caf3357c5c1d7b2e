"""A pool's frames: taken, given back, pinned, and what they hold."""

import pytest
from helpers import FRAME, stamp_all, stamp_at

import mrm

# ---- taken and given -----------------------------------------------------------------


def test_take_gives_an_int_or_an_array(pool):
    assert type(pool.take()) is int
    some = pool.take(3)
    assert some.typecode == "I"
    assert len(set(some)) == 3
    assert len(pool.take(0)) == 0


def test_a_run_goes_on(pool):
    pool.take()
    run = pool.take_run(5)
    assert run == range(run[0], run[0] + 5)
    assert pool.take_run(0) == range(0)


@pytest.mark.parametrize("n", [-1, 1.0, "3", True, 2**32, 2**70, [1]], ids=repr)
def test_a_number_of_frames_that_is_none_is_refused(pool, n):
    for take in (pool.take, pool.take_run):
        with pytest.raises(mrm.ArgumentError):
            take(n)


def test_an_exhausted_pool_gives_nothing(pool):
    with pytest.raises(mrm.OutOfFrames):
        pool.take(17)
    held = pool.take(15)
    for take in (lambda: pool.take(2), lambda: pool.take_run(2), lambda: pool.take(2**32 - 1)):
        with pytest.raises(mrm.OutOfFrames):
            take()
    held.append(pool.take())
    with pytest.raises(mrm.OutOfFrames):
        pool.take()
    assert pool.stats().held == 16
    pool.give(held)
    assert pool.stats().ready == 16


def test_frames_that_cannot_be_given_are_all_kept(pool):
    held = pool.take(4)
    free = next(f for f in range(16) if f not in held)
    for wrong in ([held[0], held[0]], [held[0], free], [held[0], 16], [held[0], 2**32 - 1]):
        with pytest.raises(mrm.FrameError):
            pool.give(wrong)
        assert pool.stats().held == 4
    for wrong in (free, 16):
        with pytest.raises(mrm.FrameError):
            pool.give(wrong)
    pool.give(held)
    with pytest.raises(mrm.FrameError):
        pool.give(held[0])


def test_reuse_is_one_of_two(pool):
    frame = pool.take()
    with pytest.raises(mrm.ArgumentError, match="after_retire"):
        pool.give(frame, reuse="later")
    pool.give(frame)


@pytest.mark.parametrize("frame", [16, -1, 2**32, 2**70], ids=repr)
def test_a_frame_that_is_none_is_refused_everywhere(pool, frame):
    for use in (pool.address, pool.state_of, pool.mappings, pool.page_size_of, pool.__getitem__, pool.window.address,
                lambda f: pool.copy_frame(f, 0)):  # fmt: skip
        with pytest.raises(mrm.FrameError):
            use(frame)


def test_a_pinned_frame_is_not_given(pool):
    frames = pool.take(3)
    buffer = pool[frames[1]]
    part = buffer[8:16]
    buffer.release()
    for wanted in (frames, frames[1]):
        with pytest.raises(mrm.PinnedError):
            pool.give(wanted)
    assert isinstance(mrm.PinnedError("x"), BufferError)
    assert pool.stats().held == 3
    part.release()
    pool.give(frames)


def test_a_pin_by_numpy_is_a_pin(pool):
    numpy = pytest.importorskip("numpy")
    frame = pool.take()
    values = numpy.frombuffer(pool[frame], dtype=numpy.uint64)
    values[:] = 3
    with pytest.raises(mrm.PinnedError):
        pool.give(frame)
    assert int(values.sum()) == 3 * FRAME // 8
    del values
    pool.give(frame)


# ---- contents ------------------------------------------------------------------------


def test_the_window_shows_every_frame(pool):
    window = pool.window
    assert len(window) == 16
    assert window.number == 0
    for frame in range(16):
        assert window.address(frame) == pool.address(frame) == window.base + frame * FRAME
        assert window.frame_of(pool.address(frame) + FRAME - 1) == frame
    for outside in (window.base - 1, window.base + 16 * FRAME, 0, 2**64 - 1, -1, 2**64):
        with pytest.raises(mrm.FrameError):
            window.frame_of(outside)


def test_a_frame_is_a_writable_buffer(pool):
    frame = pool.take()
    with pool[frame] as buffer:
        assert (len(buffer), buffer.readonly, buffer.format) == (FRAME, False, "B")
        buffer[:5] = b"hello"
        buffer[-1] = 7
    with pool.window[frame] as again:
        assert bytes(again[:5]) == b"hello"
        assert again[FRAME - 1] == 7


def test_fresh_frames_are_zero(pool):
    assert not any(bytes(pool[frame][::4096]).strip(b"\0") for frame in range(16))


def test_zero_clears_all_of_a_frame_and_no_other(pool):
    frames = pool.take(4)
    stamp_all(pool)
    pool.zero(frames[1:3])
    assert [stamp_at(pool.address(f)) == 0 for f in frames] == [False, True, True, False]
    pool.zero(frames[0])
    assert bytes(pool[frames[0]]) == bytes(FRAME)


def test_copy_frame_copies_from_the_second_to_the_first(pool):
    target, source = pool.take(2)
    stamp_all(pool)
    expected = stamp_at(pool.address(source))
    pool.copy_frame(target, source)
    pool.copy_frame(source, source)
    assert stamp_at(pool.address(target)) == stamp_at(pool.address(source)) == expected


def test_contents_of_free_frames_are_left_alone(pool):
    held = pool.take()
    free = (held + 1) % 16
    stamp_all(pool)
    for change in (
        lambda: pool.zero(free), lambda: pool.zero([held, free]), lambda: pool.zero(16),
        lambda: pool.copy_frame(free, held), lambda: pool.copy_frame(held, free),
    ):  # fmt: skip
        with pytest.raises(mrm.FrameError):
            change()
    assert stamp_at(pool.address(held)) == 0x5EED << 32 | held
    assert stamp_at(pool.address(free)) == 0x5EED << 32 | free
