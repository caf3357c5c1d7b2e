"""Fork: the child's pool is dead, and the parent's goes on as if nothing had been."""

import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading
import warnings

import pytest
from helpers import (
    FRAME,
    after_fork,
    check_contents,
    commit,
    fill,
    in_child,
    peek_at,
    stamp,
    stamp_all,
    stamp_at,
)

import mrm


@pytest.fixture
def family(pool):
    """A pool, a view and a reservation with something in it, and a frame that is shown."""
    stamp_all(pool)
    view, r = pool.open_view(), pool.reserve(8)
    frames = fill(r, range(3))
    commit(r, "unmap", 2, deferred=True)
    yield pool, view, r, frames
    stamps = [stamp_at(pool.address(frame)) for frame in range(16)]
    assert stamps == [0x5EED << 32 | frame for frame in range(16)], "the parent's frames were changed"
    assert stamp_at(view.address(frames[0])) == stamps[frames[0]]
    check_contents(r)
    commit(r, "move", 0, 6)
    pool.audit()
    r.close()
    view.close()


def test_every_use_in_the_child_is_refused(family):
    pool, view, r, frames = family
    window, batch = pool.window, r.batch()
    batch.map(5, frames[0])

    def child():
        uses = {
            "pool": [
                pool.take, lambda: pool.take(1), lambda: pool.take_run(1), lambda: pool.give(frames[0]),
                lambda: pool.give([frames[0]]), lambda: pool.state_of(0), lambda: pool.address(0), lambda: pool[0],
                lambda: pool.zero(frames[0]), lambda: pool.copy_frame(*frames[:2]), pool.open_view,
                lambda: pool.reserve(1), pool.retire, lambda: pool.mappings(0), pool.stats, pool.audit,
                lambda: pool.window, lambda: len(pool), lambda: pool.backing, lambda: pool.epoch,
                lambda: pool.page_size_of(0), lambda: pool.layout,
            ],
            "window": [lambda: window.address(0), lambda: window[0], lambda: window.base],
            "view": [view.retire, lambda: view.address(0), lambda: view[0], lambda: view.number, lambda: view.base],
            "reservation": [
                r.batch, r.retire, lambda: r[0], lambda: r.mapping(0), lambda: r.buffer(0), lambda: r.address(0),
                lambda: len(r), lambda: r.base, r.check, lambda: r.deferred,
            ],
            "batch": [batch.commit, batch.explain, lambda: batch.map(0, 0), lambda: len(batch)],
        }  # fmt: skip
        allowed = []
        for kind, those in uses.items():
            for i, use in enumerate(those):
                try:
                    use()
                except mrm.ForkedError as error:
                    assert "child" in str(error)
                else:
                    allowed.append((kind, i))
        return allowed

    assert after_fork(child) == []
    batch.abort()


def test_ends_in_the_child_are_quiet(family):
    pool, view, r, _ = family

    def child():
        names = [repr(handle) for handle in (pool, view, r)]
        assert all("parent" in name for name in names), names
        assert view.state == "forked"
        for handle in (view, r, pool, view, r, pool):
            handle.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gc.collect()
        return "closed"

    assert after_fork(child) == "closed"


def test_handles_dropped_in_the_child_are_quiet(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        view, r = pool.open_view(), pool.reserve(4)
        fill(r, [0])
        buffer = view[0]
        if os.fork() == 0:
            view.close()
            del buffer, view, r, pool
            import gc
            gc.collect()
            os._exit(5)
        _, status = os.wait()
        buffer.release()
        view.close(); r.close(); pool.close()
        sys.exit(os.waitstatus_to_exitcode(status))
        """,
        huge,
    )
    assert (ending.code, ending.err) == (5, ""), ending


@pytest.mark.parametrize("where", ["window", "view", "shown", "deferred", "empty", "retired"])
@pytest.mark.parametrize("access", ["read", "write"])
def test_an_access_in_the_child_traps(family, where, access):
    pool, view, r, _ = family
    retired = pool.open_view()
    addresses = {
        "window": pool.address(3), "view": view.address(3), "shown": r.address(0), "deferred": r.address(2),
        "empty": r.address(7), "retired": retired.address(3),
    }  # fmt: skip
    retired.retire()
    touch = peek_at if access == "read" else lambda address: stamp(address, 1)
    assert after_fork(lambda: touch(addresses[where])) == signal.SIGSEGV
    retired.close()


def test_a_buffer_from_before_traps_in_the_child(family):
    pool, *_ = family
    with pool[0] as buffer:
        assert after_fork(lambda: bytes(buffer[:1])) == signal.SIGSEGV


def test_the_child_says_whose_an_address_is(family):
    pool, view, r, _ = family
    addresses = [pool.address(0), view.address(1), r.address(0)]

    def child():
        return [(place.kind, place.state) for place in map(mrm.classify, addresses)]

    assert after_fork(child) == [("window", "forked"), ("view", "forked"), ("reservation", "forked")]


def test_the_child_holds_no_descriptor_of_the_frames(family):
    def child():
        links = []
        for name in os.listdir("/proc/self/fd"):
            try:
                links.append(os.readlink(f"/proc/self/fd/{name}"))
            except FileNotFoundError:
                pass
        return [link for link in links if "memfd" in link or "hugetlb" in link]

    assert after_fork(child) == []


def test_a_child_opens_a_pool_of_its_own(family):
    pool, *_ = family

    def child():
        with mrm.Pool(4 * FRAME, huge="off") as own, own.reserve(4) as slots, own.open_view() as view:
            assert own.address(0) != pool_address
            fill(slots, range(4))
            stamp_all(own, 7)
            check_contents(slots)
            assert stamp_at(view.address(3)) == 7 << 32 | 3
            own.retire()
            own.audit()

            def grandchild():
                with pytest.raises(mrm.ForkedError):
                    own.take()
                return "refused"

            return after_fork(grandchild)

    pool_address = pool.address(0)
    assert after_fork(child) == "refused"


def test_every_pool_is_dead_in_the_child(huge):
    pools = [mrm.Pool(FRAME, huge=huge) for _ in range(3)]

    def child():
        return [type(_error_of(pool.take)).__name__ for pool in pools]

    assert after_fork(child) == ["ForkedError"] * 3
    for pool in pools:
        pool.take()
        pool.close()


def _error_of(use):
    try:
        use()
    except mrm.Error as error:
        return error


# ---- multiprocessing -------------------------------------------------------------------


def _in_other_process(answers, address):
    """Runs in the other process: what it thinks of the parent's address, and a pool of its own."""
    kind = mrm.classify(address).kind
    with mrm.Pool(2 * FRAME, huge="off") as pool:
        stamp(pool.address(1), 5)
        answers.send((kind, stamp_at(pool.address(1))))


@pytest.fixture
def no_servers():
    """Ends what multiprocessing leaves running, so that its descriptors are not this test's leak."""
    yield
    multiprocessing.forkserver._forkserver._stop()
    multiprocessing.resource_tracker._resource_tracker._stop()


@pytest.mark.usefixtures("no_servers")
@pytest.mark.parametrize(
    ("method", "kind"), [("fork", "window"), ("spawn", "nothing"), ("forkserver", "nothing")]
)
def test_multiprocessing_children_have_pools_of_their_own(family, method, kind):
    pool, *_ = family
    context = multiprocessing.get_context(method)
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_in_other_process, args=(there, pool.address(0)))
    process.start()
    there.close()
    assert here.recv() == (kind, 5)
    process.join(60)
    assert process.exitcode == 0
    process.close()
    here.close()


# ---- while others are at work ------------------------------------------------------------


def test_a_fork_while_threads_commit(family, huge):
    """Wherever the threads were, the child reaches nothing and the parent loses nothing."""
    pool, view, *_ = family
    stop = threading.Event()
    others = [pool.reserve(8) for _ in range(2)]
    for_them = [list(pool.take(4)) for _ in others]
    errors = []

    def work(other, frames):
        try:
            while not stop.is_set():
                commit(other, "map", range(4), frames)
                commit(other, "move", range(4), range(4, 8), deferred=True)
                other.retire()
                commit(other, "unmap", range(4, 8))
                pool.open_view().close()
                pool.give(pool.take(2))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(others, for_them, strict=True)]
    for thread in threads:
        thread.start()
    bases = [pool.address(0), view.base, *(other.base for other in others)]

    def child():
        answers = [type(_error_of(pool.take)).__name__, type(_error_of(others[0].retire)).__name__]
        answers += [mrm.classify(base).state for base in bases]
        with mrm.Pool(FRAME, huge="off") as own, own.reserve(1) as slots:
            commit(slots, "map", 0, own.take())
        return answers

    try:
        for _ in range(15):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads, from 3.12 on
                assert after_fork(child) == ["ForkedError"] * 2 + ["forked"] * 4
                assert after_fork(lambda: peek_at(bases[2])) == signal.SIGSEGV
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    for other in others:
        check_contents(other)
        other.close()


def test_a_child_that_retires_by_the_table_is_told_whose_the_pool_is(family):
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    pool, _, _, frames = family
    handle = api.pool_from_object(ffi.cast("void *", id(pool)))
    own = ffi.new("mrm_reservation **")
    assert api.reservation_open(handle, 4, 0, own) == 0

    def child():
        done = ffi.new("uint32_t *")
        report = ffi.new("mrm_report *")
        return (
            api.reservation_retire(own[0], report),
            api.pool_retire(handle, report),
            api.give(handle, frames[0], 0),
            api.pool_inflate(handle, 1, 0, done),
            api.pool_deflate(handle, 1, done),
            api.quarantine(handle, 0),
            api.pool_keep_zeroed(handle, 1),
        )

    try:
        assert after_fork(child) == (ffi.dlopen(None).MRM_FORKED,) * 7
    finally:
        assert api.reservation_close(own[0]) == 0
        api.pool_release(handle)


def test_a_child_lets_go_of_buffers_of_a_view_that_it_has_closed(pool):
    with pool.open_view() as view:
        buffer = view[15]  # of a free frame, which is counted there

        def child():
            view.close()
            buffer.release()
            return "released"

        assert after_fork(child) == "released"
        buffer.release()
    assert pool.audit().pending == 0
