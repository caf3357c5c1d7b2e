"""The balloon: memory given back and fetched again, exactly as much as is said.

What the kernel holds is counted from outside: the blocks of the pool's file.
"""

import contextlib
import errno
import threading
import time
import types

import pytest
from ballooning import audit
from helpers import FRAME, FakePool, after_fork, commit, in_child, peek_at, stamp, stamp_at, wait_until

import mrm
import mrm.system.calls as calls
import mrm.system.features
from mrm import _balloon
from mrm.physical.kept import pages_at


@pytest.fixture
def pool(huge):
    """16 frames of 24; audited at the end."""
    with mrm.Pool(16 * FRAME, maximum=24 * FRAME, huge=huge, name="balloon") as pool:
        yield pool
        if not pool.closed:
            audit(pool)


# ---- a pool that can grow ------------------------------------------------------------------


def test_a_pool_begins_with_its_size_and_has_numbers_up_to_its_maximum(pool):
    assert (len(pool), pool.size, pool.maximum) == (24, 16 * FRAME, 24 * FRAME)
    assert audit(pool).inflated == 8
    assert [pool.state_of(frame) for frame in (0, 15, 16, 23)] == ["ready", "ready", "inflated", "inflated"]
    assert sorted(pool.take(16)) == list(range(16))
    with pytest.raises(
        mrm.OutOfFrames, match="16 are held and 0 strict, and 8 in the balloon; .* or deflate"
    ):
        pool.take()
    pool.give(range(16))


def test_a_pool_without_maximum_has_nothing_in_the_balloon(huge):
    with mrm.Pool(4 * FRAME, huge=huge) as pool:
        assert pool.size == pool.maximum == 4 * FRAME
        assert pool.stats().inflated == 0


@pytest.mark.parametrize("maximum", [1, FRAME, "no size", -1, True, 1 << 52])
def test_a_maximum_that_is_none_is_refused(maximum):
    with pytest.raises(mrm.ArgumentError):
        mrm.Pool(2 * FRAME, maximum=maximum, huge="off")


# ---- in ------------------------------------------------------------------------------------


def test_what_is_inflated_are_the_highest_free_frames(pool):
    held = pool.take(3)
    done = pool.inflate(5 * FRAME)
    assert (done.wanted, done.frames, done.nbytes, done.error) == (5, 5, 5 * FRAME, None)
    assert done and done.or_raise() is done
    assert [frame for frame in range(24) if pool.state_of(frame) == "inflated"] == list(range(11, 24))
    assert audit(pool).held == 3
    pool.give(held)


def test_held_frames_stay_with_what_they_hold(pool):
    held = pool.take(16)
    for frame in held:
        stamp(pool.address(frame), frame + 1)
    pool.give(held[::2])
    done = pool.inflate(16 * FRAME)
    assert (done.frames, type(done.error)) == (8, mrm.OutOfFrames)
    assert not done
    with pytest.raises(mrm.OutOfFrames, match=r"of 16 frames .* 8 did: .*'pool' 8"):
        done.or_raise()
    assert [stamp_at(pool.address(frame)) for frame in held[1::2]] == [frame + 1 for frame in held[1::2]]
    audit(pool)
    pool.give(held[1::2])


def test_less_than_a_frame_is_nothing_to_give_and_a_frame_to_fetch(pool):
    assert pool.inflate(FRAME - 1).frames == 0
    assert pool.deflate(1).frames == 1
    assert pool.deflate(0).frames == 0


def test_what_was_promised_stays(pool):
    account = pool.account("heap")
    account.fund(6)
    assert pool.inflate(16 * FRAME).frames == 10
    assert audit(pool).ready == 6
    pool.give(account.take(6))
    account.fund(-6)
    assert pool.inflate(16 * FRAME).frames == 6  # those in its stacks, too
    assert audit(pool).ready == 0
    account.close()


def test_frames_of_other_funds_stay(pool):
    pool.fund("pause_prevention", 4 * FRAME)
    assert pool.inflate(16 * FRAME).frames == 12
    assert pool.funds["committed"].frames == 0
    assert pool.funds["pause_prevention"].frames == 4


def test_what_an_old_address_shows_is_retired_first(pool):
    with pool.reserve(16) as r:
        frames = pool.take(16)
        commit(r, "map", range(16), frames)
        commit(r, "unmap", range(16), deferred=True)
        pool.give(frames[:8])
        pool.give(frames[8:], reuse="after_retire")
        assert (pool.stats().released, pool.stats().strict) == (8, 8)
        assert pool.inflate(FRAME, retire=False).frames == 0
        assert pool.epoch == 0
        assert pool.inflate(4 * FRAME).frames == 4
        assert (r.deferred, pool.epoch) == (0, 1)
        assert audit(pool).inflated == 12
        assert pool.inflate(12 * FRAME).frames == 12
        assert pool.epoch == 1  # there was nothing to retire for
    assert audit(pool).ready == 0


def test_a_free_frame_that_somebody_looks_at_stays(pool):
    with pool[15] as buffer, pool.open_view() as view:
        with view[14], pool[14]:
            assert pool.inflate(16 * FRAME).frames == 14
            assert [pool.state_of(frame) for frame in (13, 14, 15)] == ["inflated", "released", "released"]
        buffer[0] = 1
        assert pool.inflate(16 * FRAME).frames == 1
        assert pool.state_of(15) == "released"
        assert buffer[0] == 1
    assert pool.inflate(16 * FRAME).frames == 1
    audit(pool)


def test_a_frame_without_memory_cannot_be_used(pool):
    for use in (
        lambda: pool[20],
        lambda: pool.window[20],
        lambda: pool.give(20),
        lambda: pool.give([20]),
        lambda: pool.zero(20),
        lambda: pool.copy_frame(20, 20),
        lambda: pool.account_of(20),
    ):
        with pytest.raises(mrm.FrameError):
            use()
    with pool.reserve(1) as r, r.batch() as batch:
        batch.map(0, 20)
        with pytest.raises(mrm.FrameError, match="in the balloon"):
            batch.commit()
        batch.abort()
    assert mrm.classify(pool.address(20)).frame_state == "inflated"
    audit(pool)


def test_views_go_on_through_it(pool):
    held = pool.take(2)
    with pool.open_view() as view:
        for frame in held:
            stamp(view.address(frame), frame + 7)
        assert pool.inflate(14 * FRAME)
        assert pool.deflate(22 * FRAME)
        assert [stamp_at(view.address(frame)) for frame in held] == [frame + 7 for frame in held]
        for frame in pool.take(22):
            assert stamp_at(view.address(frame)) == 0
            stamp(view.address(frame), frame)
            assert stamp_at(pool.address(frame)) == frame
            pool.give(frame)
    pool.give(held)


# ---- out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [None, 1, 2, 5])
def test_what_is_deflated_are_the_lowest_and_it_is_zero(pool, threads):
    for frame in pool.take(16):
        stamp(pool.address(frame), 7)
        pool.give(frame)
    assert pool.inflate(16 * FRAME)
    assert pool.deflate(10 * FRAME, threads=threads)
    assert audit(pool).ready == 10
    frames = pool.take(10)
    assert sorted(frames) == list(range(10))
    assert [stamp_at(pool.address(frame)) for frame in frames] == [0] * 10
    pool.give(frames)


def test_known_zeros_are_not_cleared_again(pool):
    account = pool.account("heap")
    account.fund(4)
    assert pool.inflate(12 * FRAME)
    for frame in account.take(4):
        stamp(pool.address(frame), 9)
        pool.give(frame)
    account.flush()
    account.fund(-4)
    assert pool.inflate(4 * FRAME)
    assert pool.deflate(4 * FRAME)
    other = pool.account("other")
    other.fund(4)
    for frame in other.take(4, zeroed=True):
        assert stamp_at(pool.address(frame)) == 0
        pool.give(frame)
    assert pool.stats().cleared_late == 0
    other.close()
    account.close()


def test_one_thread_fetches_without_the_lock_of_the_address_space(needs_huge):
    """By fallocate, so that commits do not wait; what populates comes after it, once a share, and finds the pages."""
    with mrm.Pool(FRAME, maximum=64 * FRAME, huge="require") as pool, calls.Script() as script:
        assert pool.deflate(32 * FRAME, threads=1)
    made = [name for name, *_ in script.calls() if name in ("fallocate", "madvise")]
    populates = "MADV_POPULATE_WRITE" not in mrm.system.features.missing_features()
    assert made == (["fallocate", "madvise"] if populates else ["fallocate"])


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_that_share_the_work_end_together(threads):
    """The last shares are small, where there is somebody to wait for; all of it is done once."""
    shares = []

    def do(n):
        shares.append(n)
        return n, None

    pool = types.SimpleNamespace(backing="hugetlb", numa_node=None, frame_size=FRAME, number=1, name=None)
    job = _balloon._Job(pool, 1001, do, 32, "pool")
    job.kind = "deflate"
    outcome = job.run(threads, None)
    assert outcome.frames == sum(shares) == 1001
    assert max(shares) == 32
    assert sorted(shares)[0] <= (8 << 20) // FRAME if threads > 1 else shares == [32] * 31 + [9]


def test_a_pool_grows_to_its_maximum_and_no_further(pool):
    done = pool.deflate(9 * FRAME)
    assert done.frames == 8
    with pytest.raises(mrm.FundingError, match="9 frames .* 8 did: no more were in the balloon"):
        done.or_raise()
    assert pool.size == pool.maximum


def test_resize_goes_both_ways(pool):
    assert pool.resize(20 * FRAME).frames == 4
    assert pool.size == 20 * FRAME
    assert pool.resize(20 * FRAME).frames == 0
    assert pool.resize(5 * FRAME).frames == 15
    assert pool.size == 5 * FRAME
    for wrong in (0, 25 * FRAME, -1, "x"):
        with pytest.raises(mrm.ArgumentError):
            pool.resize(wrong)
    audit(pool)


@pytest.mark.parametrize("wrong", [-1, "2 apples", None, True])
def test_sizes_that_are_none_are_refused(pool, wrong):
    for call in (pool.inflate, pool.deflate, pool.resize):
        with pytest.raises(mrm.ArgumentError):
            call(wrong)
    audit(pool)


@pytest.mark.parametrize("wrong", [0, -1, True, 1025])
def test_numbers_of_threads_that_are_none_are_refused(pool, wrong):
    with pytest.raises(mrm.ArgumentError, match="threads"):
        pool.deflate(FRAME, threads=wrong)


def test_progress_is_told_and_may_end_it(huge):
    with mrm.Pool(2 * FRAME, maximum=130 * FRAME, huge=huge) as pool:
        told = []
        assert pool.deflate(66 * FRAME, progress=lambda *figures: told.append(figures))
        assert told[-1] == (66 * FRAME, 66 * FRAME)
        assert told == sorted(told)
        told.clear()
        assert pool.inflate(66 * FRAME, progress=lambda *figures: told.append(figures))
        assert told[-1] == (66 * FRAME, 66 * FRAME)

        def ends(done, total):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pool.deflate(128 * FRAME, progress=ends)
        pool.audit()  # whatever came is in the books


def test_a_child_has_no_balloon(pool):
    def child():
        for call in (pool.inflate, pool.deflate, pool.resize):
            with contextlib.suppress(mrm.ForkedError):
                call(FRAME)
                return "a child did it"
        return None

    assert after_fork(child) is None


def test_a_closed_pool_has_none(huge):
    pool = mrm.Pool(FRAME, huge=huge)
    pool.close()
    for call in (pool.inflate, pool.deflate, pool.resize):
        with pytest.raises(mrm.ClosedError):
            call(FRAME)


# ---- in the background ---------------------------------------------------------------------


def test_frames_are_fetched_in_the_background(pool):
    with pool.deflate(8 * FRAME, background=True) as handle:
        done = handle.wait(60)
    assert (done.frames, done.error) == (8, None)
    assert handle.done
    assert handle.nbytes == handle.total == 8 * FRAME
    assert repr(handle).startswith("<mrm.Deflation ended")
    assert handle.cancel() == done


SHARE = (64 << 20) // FRAME


class Held:
    """A deflation of three shares in the background, held after the first until it is let go on."""

    def __init__(self, pool, monkeypatch):
        arrived, self._go_on, share = threading.Event(), threading.Event(), _balloon._Job._one

        def one(job, n):
            did = share(job, n)
            arrived.set()
            assert self._go_on.wait(60)
            return did

        monkeypatch.setattr(_balloon._Job, "_one", one)
        self.handle = pool.deflate(3 * SHARE * FRAME, background=True, threads=1)
        assert arrived.wait(60)

    def __enter__(self):
        return self

    def go_on(self):
        self._go_on.set()

    def __exit__(self, *exception):
        self.go_on()
        self.handle.cancel()


def test_it_can_be_cancelled_between_shares(huge, monkeypatch):
    with mrm.Pool(FRAME, maximum=128 * FRAME, huge=huge) as pool, Held(pool, monkeypatch) as held:
        outcomes = []
        canceller = threading.Thread(target=lambda: outcomes.append(held.handle.cancel()))
        canceller.start()
        wait_until(lambda: held.handle._job._left == 0)
        held.go_on()
        canceller.join()
        (done,) = outcomes
        assert (done.wanted, done.frames) == (3 * SHARE, SHARE)
        with pytest.raises(mrm.Error, match="it was ended before"):
            done.or_raise()
        assert not done
        assert pool.size == FRAME + done.nbytes
        pool.audit()


def test_what_progress_raises_comes_out_of_wait(pool):
    def progress(done, total):
        raise ZeroDivisionError

    handle = pool.deflate(8 * FRAME, background=True, progress=progress)
    with pytest.raises(ZeroDivisionError):
        handle.wait(60)
    handle.cancel()
    audit(pool)


def test_a_pool_that_is_closed_meanwhile_ends_it(huge, monkeypatch):
    pool = mrm.Pool(FRAME, maximum=128 * FRAME, huge=huge)
    with Held(pool, monkeypatch) as held:
        pool.close()
        held.go_on()
        done = held.handle.wait(60)
    assert (done.frames, type(done.error)) == (SHARE, mrm.ClosedError)
    assert not done


# ---- failures ------------------------------------------------------------------------------

FETCHING = {"fallocate", "madvise"}


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.ENOMEM, errno.EPERM, errno.EINTR])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_every_call_of_it_failing_in_turn(pool, error, times):
    held = pool.take(5)
    for frame in held:
        stamp(pool.address(frame), frame + 1)
    pool.give(held[1::2])
    for operation in (pool.inflate, pool.deflate):
        for k in range(1, 60):
            pool.resize(16 * FRAME)
            before = pool.size
            with calls.Script(fail=k, times=times, error=error, kinds=FETCHING) as script:
                done = operation(6 * FRAME)
            stats = audit(pool)
            sign = 1 if operation == pool.deflate else -1
            assert pool.size == before + sign * done.nbytes
            assert stats.held == 3
            if done.frames < 6:
                assert isinstance(done.error, mrm.FundingError | mrm.SystemCallError)
                assert done.error.errno == error
            else:
                assert done.error is None
            if script.counted < k:
                break
        assert script.counted < k
    assert [stamp_at(pool.address(frame)) for frame in held[::2]] == [frame + 1 for frame in held[::2]]
    pool.give(held[::2])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_mount_that_has_no_more_in_the_middle_gives_what_it_has(hugetlbfs, needs_huge, threads):
    """By the frame: what came of a share that was cut short is kept."""
    path = hugetlbfs(41) / "heap"
    with mrm.Pool(FRAME, maximum=64 * FRAME, path=path) as pool:
        for enough in range(1, 40, 6):
            with mrm.Pool((40 - enough) * FRAME, path=path.parent):
                done = pool.deflate(40 * FRAME, threads=threads)
            assert done.frames == enough
            assert done.error.errno == errno.ENOSPC
            stats = pool.audit()
            assert pages_at(str(path)) == stats.frames - stats.inflated == 1 + enough
            assert pool.inflate(enough * FRAME)


def test_pages_that_were_fetched_are_taken_off_the_books_of_none(pool):
    """A thread that takes frames while others fetch and give back gets each one once."""
    stop = threading.Event()
    failures = []

    def breathe():
        try:
            while not stop.is_set():
                pool.deflate(8 * FRAME, threads=2)
                pool.inflate(12 * FRAME)
        except BaseException as error:
            failures.append(error)

    def mutate(number):
        try:
            while not stop.is_set():
                try:
                    frames = pool.take(3)
                except mrm.OutOfFrames:
                    continue
                for frame in frames:
                    stamp(pool.address(frame), number << 32 | frame)
                time.sleep(0)
                for frame in frames:
                    assert stamp_at(pool.address(frame)) == number << 32 | frame
                pool.give(frames)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=breathe) for _ in range(2)]
    threads += [threading.Thread(target=mutate, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert audit(pool).held == 0


# ---- a million frames -------------------------------------------------------------------


def test_a_large_pool_on_the_fake():
    with FakePool(1 << 20) as pool:
        assert pool.inflate((1 << 20) * FRAME).frames == 1 << 20
        assert pool.deflate(1000 * FRAME).frames == 1000
        assert list(pool.take_run(1000)) == list(range(1000))
        pool.give(range(1000))
        pool.audit()


# ---- from C ----------------------------------------------------------------------------------


def test_it_is_reached_from_c(pool):
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    handle = ffi.cast("mrm_pool *", pool._c_pool)
    done = ffi.new("uint32_t *", 99)
    constants = ffi.dlopen(None)
    assert api.pool_inflate(handle, 20, 2, done) == constants.MRM_BAD_ARGUMENT
    assert done[0] == 0
    assert api.pool_inflate(handle, 20, 0, done) == constants.MRM_OUT_OF_FRAMES
    assert done[0] == 16
    assert api.pool_deflate(handle, 24, done) == 0
    assert done[0] == 24
    assert api.pool_deflate(handle, 1, done) == constants.MRM_UNFUNDED
    assert done[0] == 0
    assert peek_at(pool.address(23)) == 0
    audit(pool)


def test_the_maximum_is_an_option_in_c():
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    options = ffi.new("mrm_pool_options *")
    options.size = ffi.sizeof("mrm_pool_options")
    options.bytes, options.maximum = 2 * FRAME, 5 * FRAME
    huge = ffi.new("char[]", b"off")
    options.huge = huge
    handle = ffi.new("mrm_pool **")
    assert api.pool_open(options, handle) == 0
    stats = ffi.new("mrm_stats *")
    stats.size = ffi.sizeof("mrm_stats")
    assert api.pool_stats(handle[0], stats) == 0
    assert (stats.frames, stats.ready, stats.inflated) == (5, 2, 3)
    api.pool_release(handle[0])


def test_buffers_of_numpy_keep_their_frames(pool):
    np = pytest.importorskip("numpy")
    frame = pool.take()
    array = np.frombuffer(pool[frame], dtype=np.uint64)
    array[:] = 5
    pool.inflate(16 * FRAME)
    assert (array == 5).all()
    del array
    pool.give(frame)


def test_a_pool_of_one_frame_and_room_for_more_has_one_page(needs_huge):
    """Whether page tables are shared is tried on frames 0 and 1: not where a touch would fetch one of them."""
    ending = in_child(
        """
        import os
        with mrm.Pool(FRAME, maximum=8 * FRAME, huge="require", name="one") as pool:
            for at in (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")):
                if os.path.exists(at) and os.readlink(at).startswith("/memfd:one "):
                    say(os.stat(at).st_blocks * 512 // FRAME)
        """
    )
    assert ending.out == "1\n", ending
