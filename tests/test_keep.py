"""A named file opened again: contents kept or dropped, holes filled, owners respected, failures undone."""

import ctypes
import errno
import os
import signal
import time

import pytest
from helpers import FRAME, commit, in_child, open_files, stamp, stamp_all, stamp_at, start
from keeping import FAILING, FRAMES, SIZE, STAMPED, punch, stamps, state
from limited import needs_pages

import mrm
import mrm.system.calls as calls
from mrm.physical import locks
from mrm.physical.kept import pages_at

pytestmark = needs_pages(64)


# ---- kept -----------------------------------------------------------------------------


def test_contents_are_kept_held_and_said(heap):
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        assert stamps(pool) == STAMPED
        assert list(pool.kept) == list(range(FRAMES))
        assert "16 kept as an earlier owner left them, 0 cleared" in pool.description
        assert str(heap) in pool.description
        stats = pool.audit()
        assert (stats.held, stats.ready) == (FRAMES, 0)
        assert pool.accounts["pool"].stats().allocated == FRAMES
        assert all(pool.account_of(frame).name == "pool" for frame in pool.kept)
        with pytest.raises(mrm.OutOfFrames):
            pool.take()
        pool.give(3)
        assert pool.take() == 3
        pool.give(pool.kept)
        assert pool.audit().ready == FRAMES
        assert list(pool.kept) == list(range(FRAMES))  # as found


def test_nothing_is_populated_nor_reserved_where_all_is_there(heap):
    with calls.Script() as script:
        pool = mrm.Pool(SIZE, path=heap, keep=True, views=3)
    before_window = [name for name, _, _ in script.calls()]
    before_window = before_window[: before_window.index("memfd_create")]  # of the books
    assert before_window == ["openat", "fstatfs", "openat", "openat", "flock", "fallocate", "close"]
    pool.close()


def test_kept_frames_take_part_in_everything(heap):
    with mrm.Pool(SIZE, path=heap, keep=True) as pool, pool.reserve(8) as r:
        commit(r, "map", range(4), [5, 4, 3, 2])
        assert stamp_at(r.address(0)) == STAMPED[5]
        with pool.open_view() as view:
            assert stamp_at(view.address(7)) == STAMPED[7]
        with pytest.raises(mrm.FrameError, match="slots that show it"):
            pool.give(5)
        commit(r, "unmap", range(4))
        pool.give(range(FRAMES), reuse="after_retire")
        pool.retire()
        assert pool.audit().ready == FRAMES


def test_what_is_given_is_not_taken_for_zeros(heap):
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        pool.give(range(4))
        frame = pool.accounts["pool"].take(zeroed=True)
        assert stamp_at(pool.address(frame)) == 0
        other = pool.account("other")
        other.fund(2)
        assert [stamp_at(pool.address(f)) for f in other.take(2)] == [0, 0]  # foreign contents are cleared


def test_promises_are_made_of_what_is_not_kept(heap):
    with mrm.Pool(SIZE + 4 * FRAME, path=heap, keep=True) as pool:
        with pytest.raises(
            mrm.OutOfFrames, match="of 5 frames' worth asked of fund 'committed', 4 are available"
        ):
            pool.fund("overdraft", 5 * FRAME)
        pool.fund("overdraft", 4 * FRAME)
        pool.audit()


def test_holes_are_filled_with_zeros_and_free(heap):
    punch(heap, 0, 7, 8, 15)
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        assert list(pool.kept) == [f for f in range(FRAMES) if f not in (0, 7, 8, 15)]
        assert "12 kept as an earlier owner left them, 4 cleared" in pool.description
        assert pages_at(str(heap)) == FRAMES
        assert (pool.audit().held, pool.audit().ready) == (12, 4)
        assert [f for f in range(FRAMES) if pool.state_of(f) == "ready"] == [0, 7, 8, 15]
        assert stamps(pool) == [0 if f in (0, 7, 8, 15) else STAMPED[f] for f in range(FRAMES)]
        assert list(pool.take_run(2)) == [7, 8]
        assert sorted(pool.take(2)) == [0, 15]


def test_holes_are_known_to_be_zero(heap):
    """take(zeroed=True) clears nothing then: what is written behind mrm's back stays."""
    punch(heap, 3)
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        stamp(pool.address(3), 1)
        assert pool.accounts["pool"].take(zeroed=True) == 3
        assert stamp_at(pool.address(3)) == 1


def test_all_holes(heap):
    punch(heap, *range(FRAMES))
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        assert list(pool.kept) == []
        assert pool.audit().ready == FRAMES
        assert stamps(pool) == [0] * FRAMES


def test_a_file_may_grow(heap):
    punch(heap, 2)
    told = []
    with mrm.Pool(
        24 * FRAME, path=heap, keep=True, progress=lambda done, total: told.append((done, total)), threads=2
    ) as pool:
        assert len(pool) == 24
        assert list(pool.kept) == [0, 1, *range(3, FRAMES)]
        assert stamps(pool) == [*STAMPED[:2], 0, *STAMPED[3:], *[0] * 8]
        assert (pool.audit().held, pool.audit().ready) == (15, 9)
        assert "15 kept as an earlier owner left them, 9 cleared" in pool.description
    assert told[-1] == (24 * FRAME, 24 * FRAME)
    assert told == sorted(told)


def test_a_file_does_not_shrink_unseen(heap):
    with pytest.raises(mrm.ArgumentError, match="holds 32 MiB and 16 MiB were asked for: ask for no less"):
        mrm.Pool(8 * FRAME, path=heap, keep=True)
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        assert stamps(pool) == STAMPED


def test_what_is_not_there_is_made(mount):
    with mrm.Pool(SIZE, path=mount / "heap", keep=True) as pool:
        assert list(pool.kept) == []
        assert "0 kept as an earlier owner left them, 16 cleared" in pool.description
        assert pool.audit().ready == FRAMES
    (mount / "empty").touch()
    with mrm.Pool(SIZE, path=mount / "empty", keep=True) as pool:
        assert list(pool.kept) == []


def test_keep_is_for_names(mount):
    for options in ({}, {"path": mount}, {"huge": "off"}):
        with pytest.raises(mrm.ArgumentError, match="keep=True is for a file with a name"):
            mrm.Pool(SIZE, keep=True, **options)
    with mrm.Pool(SIZE, huge="off") as pool:
        assert list(pool.kept) == []
        assert "kept" not in pool.description
    with pytest.raises(mrm.ClosedError):
        _ = pool.kept


def test_a_node_that_has_the_pages_is_the_right_one(heap):
    punch(heap, 9)
    with mrm.Pool(SIZE, path=heap, keep=True, numa_node=0) as pool:
        assert len(pool.kept) == 15
        assert stamp_at(pool.address(8)) == STAMPED[8]


# ---- dropped --------------------------------------------------------------------------


def test_without_keep_contents_are_dropped(heap):
    for size in (SIZE, 8 * FRAME, 20 * FRAME):
        with mrm.Pool(size, path=heap) as pool:
            assert stamps(pool) == [0] * len(pool)
            assert pool.audit().ready == size // FRAME
            assert list(pool.kept) == []
            stamp_all(pool)


def test_what_is_no_file_is_refused(mount):
    os.mkfifo(mount / "pipe")
    with pytest.raises(mrm.ArgumentError, match="no regular file"):
        mrm.Pool(SIZE, path=mount / "pipe")


# ---- owners ---------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_a_living_owner_is_named(heap, keep):
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        with pytest.raises(mrm.ArgumentError, match="in use by a pool of this process") as caught:
            mrm.Pool(SIZE, path=heap, keep=keep)
        assert (caught.value.call, caught.value.errno) == ("flock", errno.EAGAIN)
        ending = in_child(
            f"""
            try:
                mrm.Pool({SIZE}, path={str(heap)!r}, keep={keep})
            except mrm.ArgumentError as error:
                say("of process {os.getpid()}:" in str(error))
            """
        )
        assert ending.out == "True\n", ending
        assert stamps(pool) == STAMPED
        pool.audit()


def test_a_view_or_reservation_owns_as_the_pool_does(heap):
    pool = mrm.Pool(SIZE, path=heap, keep=True)
    view = pool.open_view()
    pool.close()
    with pytest.raises(mrm.ArgumentError, match="in use"):
        mrm.Pool(SIZE, path=heap, keep=True)
    view.close()
    mrm.Pool(SIZE, path=heap, keep=True).close()


def test_an_owner_that_proc_does_not_show(heap, tmp_path):
    with mrm.Pool(SIZE, path=heap, keep=True):
        fd = os.open(heap, os.O_RDWR)
        assert locks.owner_of(fd) == os.getpid()
        assert locks.owner_of(fd, tmp_path) is None
        os.close(fd)
    assert locks._who(None) == "a process that cannot be seen from here"


def test_a_child_of_fork_does_not_own(heap):
    """Its handler has closed the file, so the lock goes with the parent's pool."""
    pool = mrm.Pool(SIZE, path=heap, keep=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"x")  # the handlers of fork have run
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"x"
        pool.close()
        mrm.Pool(SIZE, path=heap, keep=True).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


BUSY = """
import itertools, random, threading
pool = mrm.Pool({size}, path={path!r}, keep=True)
pool.give(range(8, 16))
r = pool.reserve(64)
def work(seed):
    mine = random.Random(seed)
    for turn in itertools.count():
        try:
            frames = list(pool.take(mine.randrange(1, 4)))
        except mrm.OutOfFrames:
            continue
        pool.give(frames, reuse=mine.choice(["now", "after_retire"]))
        if turn % 64 == 0:
            pool.retire()
def move():
    while True:
        commit(r, "map", range(4), range(4))
        commit(r, "move", range(4), range(32, 36), deferred=True)
        commit(r, "unmap", range(32, 36), deferred=True)
        r.retire()
for target, arguments in ((work, (1,)), (work, (2,)), (move, ())):
    threading.Thread(target=target, args=arguments, daemon=True).start()
say("busy")
signal.pause()
"""


def test_an_owner_killed_in_the_middle_of_everything(heap):
    """Its books went with it: what is found is held, the audit says so, and untouched frames are as they were."""
    for turn in range(3):
        with start(BUSY.format(size=SIZE, path=str(heap))):
            time.sleep(0.05 * turn)
        with mrm.Pool(SIZE, path=heap, keep=True) as pool:
            stats = pool.audit()
            assert (stats.held, stats.ready, stats.mapped, stats.pending) == (FRAMES, 0, 0, 0)
            assert stamps(pool) == STAMPED
            pool.give(range(FRAMES))
            assert pool.audit().ready == FRAMES


def test_an_owner_killed_while_it_funded(mount):
    """What it had fetched by then is zero or kept; the rest is fetched now."""
    path = mount / "heap"
    with start(
        f"""
import mrm.physical.kept as kept, mrm.physical.filling as filling
made = filling.system_call
def slow(name, *arguments):
    got = made(name, *arguments)
    if name == "mmap" and arguments[1] == {SIZE}:
        calls = mrm.system.calls.system_call
        calls("fallocate", arguments[4], 0, 0, 5 * FRAME)  # a part of it, and then the kill
        say("busy")
        signal.pause()
    return got
filling.system_call = slow
mrm.Pool({SIZE}, path={str(path)!r})
"""
    ):
        pass  # it is killed
    assert (path.stat().st_size, pages_at(str(path))) == (SIZE, 5)
    with mrm.Pool(SIZE, path=path, keep=True) as pool:
        assert list(pool.kept) == [0, 1, 2, 3, 4]
        assert stamps(pool) == [0] * FRAMES
        pool.audit()
    path.unlink()


def test_the_name_of_a_funding_that_failed_is_not_owned(mount, monkeypatch):
    """Whoever opens the file just before its maker takes the name away begins anew."""
    from mrm.physical import framefile

    path = mount / "heap"
    path.touch()
    owned = framefile.own
    turns = []

    def late(fd, name):
        owned(fd, name)
        if not turns:
            path.unlink()
        turns.append(fd)

    monkeypatch.setattr(framefile, "own", late)
    with mrm.Pool(2 * FRAME, path=path) as pool:
        assert len(turns) == 2
        assert path.stat().st_size == 2 * FRAME
        pool.audit()


def test_who_makes_a_file_and_is_not_first_to_own_it_leaves_it(mount, monkeypatch):
    from mrm.physical import framefile

    path = mount / "heap"
    owned = framefile.own
    others = []

    def slow(fd, name):
        if not others:
            others.append(os.open(path, os.O_RDWR))
            calls.system_call("flock", others[0], 2 | 4)
        owned(fd, name)

    monkeypatch.setattr(framefile, "own", slow)
    with pytest.raises(mrm.ArgumentError, match="in use by a pool of this process"):
        mrm.Pool(2 * FRAME, path=path)
    assert path.exists()
    os.close(others[0])


# ---- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
@pytest.mark.parametrize("holes", [(), (0, 7, 15)], ids=["whole", "with holes"])
@pytest.mark.parametrize("size", [SIZE, 18 * FRAME], ids=["same", "grown"])
def test_every_system_call_failing_in_turn_leaves_the_file_as_it_was(heap, size, holes, error, times):
    punch(heap, *holes)
    before = state(heap)
    # With all calls failing nothing can be undone either: funding only, up to the first failure.
    kinds = FAILING if times else sorted(set(FAILING) - {"ftruncate", "fallocate", "fcntl", "mmap", "mremap"})
    failed = 0
    for turn in range(1, 200):
        files = open_files()
        opened = None
        with calls.Script(fail=turn, times=times, error=error, kinds=kinds) as script:
            try:
                opened = mrm.Pool(size, path=heap, keep=True)
            except mrm.Error as refused:
                failed += 1
                assert isinstance(refused, (mrm.FundingError, mrm.SystemCallError, mrm.AddressSpaceError))
        if opened:
            assert [stamp_at(opened.address(f)) for f in opened.kept] == [
                STAMPED[f] for f in range(FRAMES) if f not in holes
            ], script.calls()
            opened.audit()
            opened.close()
            os.truncate(heap, SIZE)
            punch(heap, *holes)
        assert open_files() == files, script.calls()
        assert state(heap) == before, script.calls()
        if script.counted < turn:
            break
    else:
        pytest.fail("the end was not reached")
    assert failed >= 5


def test_a_mount_without_room_for_holes_is_said_with_what_is_missing(heap):
    punch(heap, 3, 4)
    with mrm.Pool(17 * FRAME, path=heap.parent / "other"):
        before = state(heap)
        with pytest.raises(mrm.FundingError, match="has 2 MiB left of its size= option: .*size=66MiB"):
            mrm.Pool(SIZE, path=heap, keep=True)
        assert state(heap) == before
    (heap.parent / "other").unlink()
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        assert len(pool.kept) == 14


def test_a_ctrl_c_in_the_middle_leaves_the_file_as_it_was(heap):
    punch(heap, 3, 4, 5)
    before = state(heap)

    def strike(done, total):
        raise KeyboardInterrupt

    for size in (SIZE, 20 * FRAME):
        with pytest.raises(KeyboardInterrupt):
            mrm.Pool(size, path=heap, keep=True, progress=strike)
        assert state(heap) == before


def test_a_pool_that_cannot_be_opened_leaves_the_file_as_it_was(heap):
    """The frames are funded, and then there are no addresses."""
    punch(heap, 3)
    before = state(heap)
    with pytest.raises(mrm.AddressSpaceError):
        mrm.Pool(18 * FRAME, path=heap, keep=True, views=2**20 - 1)
    assert state(heap) == before
    with pytest.raises(mrm.AddressSpaceError):
        mrm.Pool(SIZE, path=heap.parent / "new", views=2**20 - 1)
    assert not (heap.parent / "new").exists()


def test_an_attachment_keeps_pages_from_being_taken_away(heap):
    with mrm.attach(heap) as attachment:
        with pytest.raises(
            mrm.ArgumentError, match="attached to by a living process, and its contents would be dropped"
        ):
            mrm.Pool(SIZE, path=heap)
        assert stamp_at(attachment.address(5)) == STAMPED[5]
        mrm.Pool(SIZE, path=heap, keep=True).close()  # nothing is taken away
        punch(heap, 5)
        with pytest.raises(mrm.ArgumentError, match="attached to by a living process, and pages are missing"):
            mrm.Pool(SIZE, path=heap, keep=True)
    mrm.Pool(SIZE, path=heap).close()


def test_a_window_into_contents_without_mrm(heap):
    """What is in the file is what any program reads there."""
    with mrm.Pool(SIZE, path=heap, keep=True) as pool:
        ctypes.c_uint64.from_address(pool.address(9)).value = 99
        fd = os.open(heap, os.O_RDONLY)
        assert os.pread(fd, 8, 9 * FRAME) == (99).to_bytes(8, "little")
        os.close(fd)


def test_a_pool_that_may_grow_keeps_what_was_in_it(heap):
    """An earlier owner's file is as long as its pool could become; where all of it is asked for, all is fetched."""
    with mrm.Pool(SIZE, path=heap, keep=True, maximum=24 * FRAME) as pool:
        assert (len(pool), len(pool.kept)) == (24, FRAMES)
        assert stamps(pool, FRAMES) == STAMPED
        pool.give([4, 5])
        pool.inflate(2 * FRAME)
        pool.audit()
    with pytest.raises(mrm.ArgumentError, match="holds 48 MiB and 32 MiB were asked for"):
        mrm.Pool(SIZE, path=heap, keep=True)
    with mrm.Pool(24 * FRAME, path=heap, keep=True) as pool:
        assert list(pool.kept) == [*range(4), *range(6, FRAMES)]
        assert pool.audit().ready == 10
