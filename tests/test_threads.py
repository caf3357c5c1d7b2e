"""Eight threads at once, for a fixed number of steps; afterwards nothing may be lost."""

import random
import sys
import sysconfig
import threading

import pytest
from helpers import FRAME, check_contents, commit, give_all, shown, stamp, stamp_at

import mrm

THREADS = 8


def race(*works):
    """Run each function in a thread of its own, all at once; the first exception is raised."""
    barrier = threading.Barrier(len(works))
    errors = []

    def run(work):
        try:
            barrier.wait(10)
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def eight(work):
    """Race eight threads that do the same, each with its number and random choices."""
    race(*[lambda i=i: work(i, random.Random(i)) for i in range(THREADS)])


@pytest.fixture
def large(huge):
    """A pool of 64 frames, audited at the end."""
    with mrm.Pool(64 * FRAME, huge=huge, views=64) as pool:
        yield pool
        pool.audit()


def test_frames_taken_at_once_are_different(large):
    def work(i, rng):
        mark = 1000 + i
        for _ in range(400):
            try:
                if rng.random() < 0.3:
                    frames = list(large.take_run(rng.randint(1, 4)))
                else:
                    frames = list(large.take(rng.randint(1, 6)))
            except mrm.OutOfFrames:
                continue
            for frame in frames:
                stamp(large.address(frame), mark)
            assert all(stamp_at(large.address(frame)) == mark for frame in frames)
            large.give(frames, reuse=rng.choice(["now", "now", "after_retire"]))
            if rng.random() < 0.1:
                large.retire()

    eight(work)
    large.retire()
    assert large.audit().ready == 64


def test_batches_on_one_reservation_take_turns(large):
    with large.reserve(64) as r:

        def work(i, rng):
            mine = range(i * 8, i * 8 + 8)  # slots that only this thread touches
            frames = [large.take() for _ in range(4)]
            for frame in frames:
                stamp(large.address(frame), frame + 500)
            for _ in range(30):
                slots = rng.sample(mine, 4)
                commit(r, "map", slots, frames)
                assert [stamp_at(r.address(s)) for s in slots] == [f + 500 for f in frames]
                left = [s for s in mine if s not in slots]
                commit(r, "move", slots, left, deferred=rng.random() < 0.3)
                assert [stamp_at(r.address(s)) for s in left] == [f + 500 for f in frames]
                commit(r, "swap", left[:2], left[2:])
                commit(r, "protect", left[:3], rng.choice(["r", "none"]))
                commit(r, "unmap", left)
                if r.deferred:
                    r.retire()
            large.give(frames)

        eight(work)
        assert shown(r) == {}
        check_contents(r)
    assert large.audit().held == 0


def test_conflicting_batches_are_done_whole_or_not_at_all(large):
    with large.reserve(16) as r:
        done = [0] * THREADS

        def work(i, rng):
            frames = list(large.take(4))
            for _ in range(80):
                slots = rng.sample(range(16), 4)
                try:
                    commit(r, "map", slots, frames)
                except mrm.SlotError:
                    continue
                done[i] += 1
                assert [r[s] for s in slots] == frames
                commit(r, "unmap", slots, deferred=rng.random() < 0.2)
                r.retire()
            large.give(frames)

        eight(work)
        assert sum(done) > 0
        r.retire()
        assert shown(r) == {}
        check_contents(r)
    assert large.audit().held == 0


def test_reservations_and_views_of_their_own(large):
    def work(i, rng):
        for step in range(30):
            frame = large.take()
            with large.open_view() as view, large.reserve(4) as r:
                stamp(view.address(frame), i << 32 | step)
                commit(r, "map", rng.randrange(4), frame)
                (slot,) = shown(r)
                assert stamp_at(r.address(slot)) == i << 32 | step
                commit(r, "unmap", slot, deferred=True)
                # Another thread may have retired the whole pool meanwhile.
                assert mrm.classify(r.address(slot)).state in ("deferred", "empty")
                assert mrm.classify(view.base).state == "open"
                if rng.random() < 0.5:
                    view.retire()
                if rng.random() < 0.5:
                    large.retire()
            large.give(frame, reuse=rng.choice(["now", "after_retire"]))

    eight(work)
    large.retire()
    stats = large.audit()
    assert (stats.ready, stats.views_open, stats.views_retired, stats.reservations) == (64, 0, 0, 0)


def test_looking_while_others_change(large):
    stop = threading.Event()
    with large.reserve(32) as r:
        frames = large.take(16)

        def change():
            rng = random.Random(1)
            try:
                for _ in range(50):
                    slots = rng.sample(range(32), 16)
                    commit(r, "map", slots, frames)
                    commit(r, "unmap", slots)
            finally:
                stop.set()

        def look():
            while not stop.is_set():
                for slot in range(32):
                    assert r[slot] in (None, *frames)
                    place = mrm.classify(r.address(slot))
                    assert place.state in ("empty", "shown")
                    assert (place.frame is None) == (place.state == "empty")
                large.mappings(frames[0])
                large.stats()

        race(change, look, look)
        check_contents(r)
    give_all(large)


def test_classify_while_addresses_come_and_go(large):
    stop = threading.Event()
    address = large.address(3)

    def come_and_go():
        try:
            for _ in range(200):
                large.reserve(2).close()
        finally:
            stop.set()

    def look():
        while not stop.is_set():
            assert mrm.classify(address).frame == 3
            assert mrm.classify(address + (3 << 40)).kind in ("nothing", "reservation", "view")

    race(come_and_go, come_and_go, look, look)


@pytest.mark.parametrize("handle", ["pool", "view", "reservation", "batch"])
def test_a_handle_closed_by_another_thread_ends_for_all(huge, handle):
    """Whoever comes late gets an error, not freed memory."""
    for _ in range(40):
        pool = mrm.Pool(2 * FRAME, huge=huge)
        view, r = pool.open_view(), pool.reserve(4)
        batch = r.batch()
        batch.map(0, pool.take())

        def use(pool=pool, view=view, r=r, batch=batch):
            uses = {
                "pool": lambda: (pool.stats(), pool.give(pool.take(1)), pool.audit(), pool.retire()),
                "view": view.retire,
                "reservation": r.retire,
                "batch": batch.commit,
            }
            try:
                for _ in range(5):
                    uses[handle]()
            except mrm.ClosedError:
                pass

        # A batch is one thread's; another one that uses it is told so.
        end = {"pool": pool.close, "view": view.close, "reservation": r.close, "batch": use}[handle]
        race(use, use, end)
        batch.abort()
        view.close()
        r.close()
        pool.close()


def test_everything_is_used_while_it_is_closed(huge):
    """Looks, frames, buffers and batches of eight threads, and one that closes it all meanwhile."""
    refused = (mrm.ClosedError, mrm.PinnedError, mrm.OutOfFrames, mrm.SlotError, mrm.FrameError)
    for turn in range(20):
        pool = mrm.Pool(16 * FRAME, huge=huge)
        view, r = pool.open_view(), pool.reserve(8)
        shown_frame = pool.take()
        commit(r, "map", 0, shown_frame)

        def use(i, pool=pool, view=view, r=r, frame=shown_frame):
            def change():
                with r.batch() as batch:
                    batch.map(1 + i, pool.take())
                    batch.explain()

            def export(what, key):
                with what[key] if what is not r else r.buffer(key) as buffer:
                    assert len(buffer) == FRAME

            uses = [
                lambda: pool.give(pool.take()),
                lambda: pool.give(pool.take(2), reuse="after_retire"),
                lambda: (len(pool), pool.size, pool.backing, pool.layout, repr(pool), pool.stats()),
                lambda: (view.base, view.address(frame), view.frame_of(view.base), view.state, repr(view)),
                lambda: (r.base, r[0], r.mapping(0), r.address(0), len(r), repr(r), pool.mappings(frame)),
                lambda: export(pool, frame),
                lambda: export(view, frame),
                lambda: export(r, 0),
                change,
            ]
            for use in uses * 3:
                try:
                    use()
                except refused:
                    pass

        def end(pool=pool, view=view, r=r):
            for handle in (view, r):
                try:
                    handle.close()
                except mrm.PinnedError:
                    pass
            pool.close()

        race(*[lambda i=i: use(i) for i in range(7)], end)
        view.close()
        r.close()
        with pytest.raises(mrm.ClosedError):
            pool.take()
        assert not any(mrm.live_handles().values()), turn


def test_a_handle_that_two_threads_close_is_closed_once(huge):
    for _ in range(40):
        pool = mrm.Pool(2 * FRAME, huge=huge)
        view, r = pool.open_view(), pool.reserve(4)
        batch = r.batch()
        for end in (batch.abort, view.close, r.close, pool.close):
            race(end, end)
        assert not any(mrm.live_handles().values())


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL")
def test_importing_mrm_leaves_the_gil_off():
    """Each module of a build with MRM_FREE_THREADED says that it needs none; one that did not brings it back."""
    assert not sys._is_gil_enabled()


def test_a_thread_that_commits_reads_its_own_failure(large):
    with large.reserve(16) as r:
        commit(r, "map", range(8), large.take(8))

        def work(i, rng):
            for _ in range(200):
                with pytest.raises(mrm.SlotError, match=f"slot {i} is taken"):
                    commit(r, "map", i, r[i])
                with pytest.raises(mrm.FrameError, match=f"frame {100 + i} cannot"):
                    large.give(100 + i)

        eight(work)
        give_all(large, r)
