"""Taking and giving frames: states, order, runs, refusals, and threads.

The pools are opened on the fake, which makes no system call: their frames cannot be
touched, but nothing here touches them, and a million cost nothing.
"""

import array
import random
import threading

import pytest
from helpers import FakePool
from hypothesis import given, settings
from hypothesis import strategies as st

import mrm


@pytest.fixture
def pool():
    with FakePool(256) as pool:
        yield pool
        stats = pool.audit()
        assert stats.ready + stats.released + stats.strict + stats.held == 256


# ---- one frame ---------------------------------------------------------------------


def test_a_new_pool_hands_out_the_lowest_frame(pool):
    assert pool.take() == 0


def test_the_frame_given_last_is_taken_first(pool):
    frames = [pool.take() for _ in range(5)]
    pool.give(frames[2])
    assert pool.take() == frames[2]


def test_every_frame_is_handed_out_once(pool):
    assert {pool.take() for _ in range(256)} == set(range(256))


def test_states_follow_a_frame(pool):
    frame = pool.take()
    assert pool.state_of(frame) == "held"
    pool.give(frame)
    assert pool.state_of(frame) == "ready"
    assert pool.take() == frame
    pool.give(frame, reuse="after_retire")
    assert pool.state_of(frame) == "strict"
    pool.retire()
    assert pool.state_of(frame) == "ready"


def test_an_exhausted_pool_says_what_holds_its_frames(pool):
    held = pool.take(250)
    pool.give(held[:3], reuse="after_retire")
    pool.take(6)
    with pytest.raises(mrm.OutOfFrames, match=r"256.*253 are held and 3 strict.*retire"):
        pool.take()


# ---- arrays --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 256])
def test_an_array_of_a_new_pool_is_ascending(pool, n):
    frames = pool.take(n)
    assert isinstance(frames, array.array)
    assert frames.typecode == "I"
    assert list(frames) == list(range(n))


@pytest.mark.parametrize("n", [1, 40, 64, 256])
def test_an_array_comes_back_in_the_order_it_was_given(pool, n):
    frames = pool.take(n)
    pool.give(frames)
    assert pool.take(n) == frames


@pytest.mark.parametrize("convert", [list, tuple, array.array, memoryview], ids=lambda kind: kind.__name__)
def test_frames_are_given_as_any_sequence(pool, convert):
    frames = pool.take(10)
    pool.give(array.array("I", frames) if convert is array.array else convert(frames))
    assert pool.audit().held == 0


def test_take_of_an_array_is_all_or_nothing(pool):
    pool.take(200)
    with pytest.raises(mrm.OutOfFrames, match="57"):
        pool.take(57)
    assert pool.audit().ready == 56
    assert len(pool.take(56)) == 56


def test_more_frames_than_there_are_is_refused_at_once(pool):
    with pytest.raises(mrm.OutOfFrames):
        pool.take(257)
    assert pool.audit().ready == 256


def test_an_array_gathers_what_is_in_stacks_and_bitmap(pool):
    held = pool.take(256)
    for frame in held[::2]:
        pool.give(frame)
    assert sorted(pool.take(128)) == list(range(0, 256, 2))


# ---- runs ------------------------------------------------------------------------------


def test_a_run_is_the_lowest_that_fits(pool):
    pool.take(256)
    # In one array, which goes to the bitmap; a few would stay in a stack, warm.
    pool.give([*range(10, 14), *range(60, 140), *range(200, 256)])
    assert pool.take_run(5) == range(60, 65)
    assert pool.take_run(4) == range(10, 14)
    assert pool.take_run(75) == range(65, 140)
    assert pool.take_run(56) == range(200, 256)


def test_a_run_is_found_across_what_single_frames_left_behind(pool):
    for frame in [pool.take() for _ in range(256)]:
        pool.give(frame)
    assert pool.take_run(256) == range(256)


def test_a_run_that_is_not_there_is_refused_with_the_longest_there_is(pool):
    frames = pool.take(256)
    pool.give(frames[::2])
    pool.give(101)
    with pytest.raises(mrm.OutOfFrames, match=r"run of 4 .* 3 are free.*129"):
        pool.take_run(4)
    assert pool.audit().ready == 129


def test_a_run_of_nothing_is_empty_and_one_of_less_is_refused(pool):
    assert pool.take_run(0) == range(0)
    with pytest.raises(mrm.ArgumentError):
        pool.take_run(-1)


# ---- frames that cannot be given ---------------------------------------------------------


def test_a_frame_given_twice_is_refused(pool):
    frame = pool.take()
    pool.give(frame)
    with pytest.raises(mrm.FrameError, match=f"frame {frame} cannot be given: it is ready"):
        pool.give(frame)


def test_a_strict_frame_given_again_is_refused(pool):
    frame = pool.take()
    pool.give(frame, reuse="after_retire")
    with pytest.raises(mrm.FrameError, match="it is strict"):
        pool.give(frame)


def test_a_frame_never_taken_is_refused(pool):
    with pytest.raises(mrm.FrameError, match="frame 77 .* ready"):
        pool.give(77)


@pytest.mark.parametrize("frame", [256, 2**31, 2**32 - 1])
def test_a_frame_of_another_pool_is_refused(pool, frame):
    with pytest.raises(mrm.FrameError, match="frames 0 to 255"):
        pool.give(frame)


@pytest.mark.parametrize("frame", [-1, 2**32, 2**64])
def test_a_number_that_is_no_frame_is_refused(pool, frame):
    with pytest.raises((mrm.FrameError, mrm.ArgumentError)):
        pool.give(frame)
    with pytest.raises((mrm.FrameError, mrm.ArgumentError)):
        pool.give([frame])


@pytest.mark.parametrize("reuse", ["now", "after_retire"])
@pytest.mark.parametrize("n", [10, 100])
def test_an_array_with_a_bad_frame_is_refused_whole(pool, n, reuse):
    frames = pool.take(n)
    for bad in (256, 200, frames[0]):
        given = [*frames[: n - 1], bad]
        with pytest.raises(mrm.FrameError, match=f"at index {n - 1}: frame {bad}"):
            pool.give(given, reuse=reuse)
        assert pool.audit().held == n
    pool.give(frames, reuse=reuse)


def test_a_frame_twice_in_an_array_is_named(pool):
    frames = list(pool.take(4))
    with pytest.raises(mrm.FrameError, match="index 4: frame 1 .* index 1"):
        pool.give([*frames, 1])


def test_an_unknown_reuse_is_refused(pool):
    frame = pool.take()
    with pytest.raises(mrm.ArgumentError):
        pool.give(frame, reuse="later")
    assert pool.state_of(frame) == "held"


# ---- strict frames -------------------------------------------------------------------------


def test_strict_frames_are_not_handed_out_before_a_retire(pool):
    frames = pool.take(256)
    pool.give(frames, reuse="after_retire")
    with pytest.raises(mrm.OutOfFrames, match="256 strict"):
        pool.take()
    with pytest.raises(mrm.OutOfFrames):
        pool.take_run(1)
    assert pool.audit().strict == 256
    pool.retire()
    assert pool.audit().ready == 256
    assert pool.take_run(256) == range(256)


def test_a_retire_is_counted(pool):
    before = pool.stats().epoch
    pool.retire()
    assert pool.stats().epoch == before + 1


# ---- against a model --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(frames=st.sampled_from([1, 64, 65, 300, 1100]), seed=st.integers(0, 2**32))
def test_any_sequence_agrees_with_sets(frames, seed):
    choose = random.Random(seed)
    with FakePool(frames) as pool:
        ready, held, strict = set(range(frames)), set(), set()

        def lowest_run(n):
            length = 0
            for frame in range(frames):
                length = length + 1 if frame in ready else 0
                if length == n:
                    return range(frame - n + 1, frame + 1)
            return None

        for _ in range(30):
            match choose.choice(["take", "take_run", "give", "give", "retire"]):
                case "take":
                    n = choose.choice([1, 3, 63, 64, frames // 2 + 1])
                    if n <= len(ready):
                        taken = set(pool.take(n))
                        assert len(taken) == n
                        assert taken <= ready
                        ready -= taken
                        held |= taken
                    else:
                        with pytest.raises(mrm.OutOfFrames):
                            pool.take(n)
                case "take_run":
                    n = choose.choice([1, 2, 10, 64, 65, frames])
                    expected = lowest_run(n)
                    if expected is None:
                        with pytest.raises(mrm.OutOfFrames):
                            pool.take_run(n)
                    else:
                        # Not always the lowest: what is in the stacks is looked at only in need.
                        run = pool.take_run(n)
                        assert len(run) == n
                        assert ready.issuperset(run)
                        ready.difference_update(run)
                        held.update(run)
                case "give" if held:
                    given = choose.sample(sorted(held), choose.randint(1, len(held)))
                    late = choose.random() < 0.3
                    pool.give(given, reuse="after_retire" if late else "now")
                    held.difference_update(given)
                    (strict if late else ready).update(given)
                case "retire":
                    pool.retire()
                    ready |= strict
                    strict.clear()
            stats = pool.audit()
            assert (stats.ready, stats.held, stats.strict) == (len(ready), len(held), len(strict))


# ---- threads -----------------------------------------------------------------------------------


def run_threads(work, count=8):
    """Run ``work(number)`` on threads; raises what the first that failed raised."""
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_no_frame_has_two_holders():
    with FakePool(300) as pool:
        holder = [None] * 300

        def work(number):
            choose = random.Random(number)
            mine = []
            for _ in range(2000):
                try:
                    match choose.randrange(4):
                        case 0:
                            taken = [pool.take()]
                        case 1:
                            taken = pool.take(choose.randint(1, 80))
                        case 2:
                            taken = pool.take_run(choose.randint(1, 8))
                        case 3:
                            pool.retire()
                            taken = []
                except mrm.OutOfFrames:
                    taken = []
                for frame in taken:
                    assert holder[frame] is None
                    holder[frame] = number
                mine += taken
                choose.shuffle(mine)
                given, mine = mine[: len(mine) // 2 + 1], mine[len(mine) // 2 + 1 :]
                for frame in given:
                    holder[frame] = None
                pool.give(given, reuse=choose.choice(["now", "now", "after_retire"]))
            for frame in mine:
                holder[frame] = None
            pool.give(mine)

        run_threads(work)
        pool.retire()
        assert pool.audit().ready == 300


def test_nobody_is_refused_a_frame_that_was_free_all_the_time():
    with FakePool(8 * 30) as pool:

        def work(number):
            for turn in range(500):
                mine = [pool.take() for _ in range(30)]
                if turn % 2:
                    pool.give(mine)
                else:
                    for frame in mine:
                        pool.give(frame)

        run_threads(work)
        assert pool.audit().ready == 240


def test_of_two_who_give_the_same_frame_one_is_told():
    with FakePool(64) as pool:
        refused = []
        for _ in range(200):
            frame = pool.take()
            meet = threading.Barrier(2)

            def work(number, frame=frame, meet=meet):
                meet.wait()
                try:
                    pool.give(frame)
                except mrm.FrameError:
                    refused.append(frame)

            run_threads(work, count=2)
        assert len(refused) == 200
        assert pool.audit().ready == 64


# ---- a million frames ----------------------------------------------------------------------------


def test_among_a_million_frames_half_of_them_held_runs_are_found_first_fit():
    with FakePool(1 << 20) as pool:
        frames = pool.take(1 << 20)
        shuffled = list(frames)
        random.Random(1).shuffle(shuffled)
        pool.give(array.array("I", shuffled[: 1 << 19]))
        with pytest.raises(mrm.OutOfFrames):
            pool.take_run(1024)
        run = range(700_000, 701_024)
        pool.give([frame for frame in run if pool.state_of(frame) == "held"])
        found = pool.take_run(1024)
        # First fit: neighbours of the run that were free already may begin it earlier.
        assert 700_000 - 64 < found.start <= 700_000
        assert len(found) == 1024
