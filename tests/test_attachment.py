"""Frames of a pool as another sees them that attaches: what it may do, how long it has them, and what may fail."""

import ctypes
import errno
import gc
import mmap
import os
import pickle
import signal

import pytest
from helpers import (
    FRAME,
    after_fork,
    huge_pages_mapped,
    in_child,
    open_files,
    own_mappings,
    stamp,
    stamp_all,
    stamp_at,
)
from limited import as_it_was, pages
from sharing import FRAMES, SIZE, STAMPED

import mrm
import mrm.system.calls as calls

FAILING = sorted(set(calls.KINDS) - {"close"})

# ---- in one process -------------------------------------------------------------------


def test_an_attachment_shows_what_the_owner_does(shared):
    with shared.share() as ticket, mrm.attach(ticket) as frames:
        assert (len(frames), frames.frame_size, frames.size) == (FRAMES, FRAME, SIZE)
        assert (frames.writable, ticket.writable, ticket.frames, ticket.frame_size) == (
            False,
            False,
            FRAMES,
            FRAME,
        )
        assert [stamp_at(frames.address(f)) for f in range(FRAMES)] == STAMPED
        assert frames.address(3) == frames.base + 3 * FRAME
        stamp(shared.address(7), 7)
        assert stamp_at(frames.address(7)) == 7
        frame = shared.take()
        shared.give(frame)  # nobody is asked
        assert "16 frames, for reading, at 0x" in repr(frames)
        assert "16 frames, for reading" in repr(ticket)
    assert frames.closed
    assert repr(frames) == "<mrm.Attachment closed>"
    frames.close()


def test_a_writable_one_is_written_through(shared):
    with shared.share(writable=True) as ticket, mrm.attach(ticket) as frames:
        assert frames.writable
        stamp(frames.address(2), 22)
        frames[3][:3] = b"abc"
        assert stamp_at(shared.address(2)) == 22
        assert bytes(memoryview(frames.buffer(3))[:3]) == ctypes.string_at(shared.address(3), 3) == b"abc"


def test_it_takes_no_page(shared):
    with shared.share(writable=True) as ticket, mrm.attach(ticket) as frames:
        for f in range(FRAMES):
            stamp(frames.address(f), f)
        assert os.stat(ticket.fileno() if ticket.path is None else ticket.path).st_blocks * 512 == SIZE


def test_reading_only_is_the_kernels_word(shared):
    with shared.share() as ticket, mrm.attach(ticket) as frames:
        with pytest.raises(PermissionError):
            calls.system_call("mprotect", frames.base, FRAME, 3)
        with pytest.raises(mrm.ArgumentError, match="for reading only: ask the owner"):
            mrm.attach(ticket, writable=True)
        if ticket.path is None:
            with pytest.raises(mrm.SystemCallError) as caught:
                mrm.attach(ticket.fileno(), writable=True)
            assert caught.value.errno == errno.EACCES
            with pytest.raises(PermissionError):
                mmap.mmap(ticket.fileno(), FRAME)
            assert os.fstat(ticket.fileno()).st_mode & 0o777 == 0o600
        memory = frames[1]
        assert memory.readonly
        with pytest.raises(TypeError):
            memory[0] = 1
        memory.release()


def test_a_write_through_a_readers_address_is_a_signal(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        frames = mrm.attach(pool.share())
        poke(pool.address(0)); say(peek(frames.address(0)))
        poke(frames.address(0), 2)
        """,
        huge,
    )
    assert (ending.out, ending.signal) == ("1\n", signal.SIGSEGV)


def test_buffers_pin_it_and_keep_it(shared):
    with shared.share(writable=True) as ticket:
        frames = mrm.attach(ticket)
    np = pytest.importorskip("numpy")
    array = np.frombuffer(frames[4], dtype=np.uint64)
    assert array[0] == STAMPED[4]
    with pytest.raises(mrm.PinnedError, match="1 exported buffers look through it"):
        frames.close()
    array[0] = 44
    assert ctypes.c_uint64.from_address(shared.address(4)).value == 44
    kept = frames[5].obj
    del array
    frames.close()
    with pytest.raises(mrm.ClosedError):
        memoryview(kept)
    del kept


def test_what_is_not_closed_is_told(shared):
    with shared.share() as ticket:
        frames = mrm.attach(ticket)
    assert mrm.live_handles()["attachments"] == 1
    memory = frames[2]
    del frames
    assert mrm.live_handles()["attachments"] == 1  # the buffer keeps it
    with pytest.warns(ResourceWarning, match="<mrm.Attachment: 16 frames, for reading, .* was never closed"):
        del memory
        gc.collect()
    assert mrm.live_handles()["attachments"] == 0


def test_it_outlives_pool_and_ticket(huge):
    before, mapped = pages(), huge_pages_mapped()
    pool = mrm.Pool(2 * FRAME, huge=huge)
    stamp_all(pool)
    with pool.share() as ticket:
        frames = mrm.attach(ticket)
    pool.close()
    assert [stamp_at(frames.address(f)) for f in range(2)] == STAMPED[:2]
    assert huge_pages_mapped() == mapped + (2 * FRAME if huge == "require" else 0)
    frames.close()
    assert huge_pages_mapped() == mapped
    assert as_it_was(before)


def test_arguments(shared):
    with pytest.raises(TypeError, match="made by mrm.attach"):
        mrm.Attachment()
    with shared.share() as ticket, mrm.attach(ticket) as frames:
        for wrong in (-1, FRAMES, 2**70):
            with pytest.raises(mrm.FrameError, match="they are 0 to 15"):
                frames.address(wrong)
            with pytest.raises(mrm.FrameError):
                frames.buffer(wrong)
        with pytest.raises(TypeError):
            frames.address("1")
        with pytest.raises(TypeError):
            iter(frames)
    for use in (len, lambda f: f.base, lambda f: f.address(0), lambda f: f[0], lambda f: f.__enter__()):
        with pytest.raises(mrm.ClosedError):
            use(frames)
    for wrong in (None, True, 1.5, b"x"):
        with pytest.raises(mrm.ArgumentError, match="a Ticket, a path or a descriptor"):
            mrm.attach(wrong)
    with pytest.raises(mrm.ArgumentError, match="no open descriptor"):
        mrm.attach(9999)
    if ticket.path is None:
        with pytest.raises(mrm.ClosedError, match="ticket is closed"):
            mrm.attach(ticket)
        with pytest.raises(mrm.ClosedError):
            pickle.dumps(ticket)
    else:
        with pytest.raises(mrm.ArgumentError, match="goes by name"):
            ticket.fileno()


def test_what_holds_no_frames_is_refused(tmp_path, mount):
    (tmp_path / "file").write_bytes(b"x" * 4096)
    (mount / "empty").touch()
    with pytest.raises(mrm.ArgumentError, match="neither on a hugetlbfs nor in shared memory|has 4096 bytes"):
        mrm.attach(tmp_path / "file")
    with pytest.raises(mrm.ArgumentError, match="has 0 bytes, which is no frame"):
        mrm.attach(mount / "empty")
    with pytest.raises(mrm.SystemCallError, match=r"cannot be attached to \(openat: No such file"):
        mrm.attach(mount / "nothing")
    with pytest.raises(mrm.ArgumentError, match="no regular file"), open("/dev/null") as null:
        mrm.attach(null.fileno())


def test_an_address_of_it_is_no_pools(shared):
    with shared.share() as ticket, mrm.attach(ticket) as frames:
        assert mrm.classify(frames.address(1)).kind == "nothing"


def test_after_fork_the_child_attaches_by_itself(shared):
    with shared.share() as ticket, mrm.attach(ticket) as frames:

        def child():
            with pytest.raises(mrm.ForkedError, match="attach in the child"):
                frames.address(0)
            assert repr(frames) == "<mrm.Attachment of the parent process>"
            with mrm.attach(ticket) as own:
                return [stamp_at(own.address(f)) for f in range(FRAMES)]

        assert after_fork(child) == STAMPED
        at = frames.address(0)
        assert after_fork(lambda: stamp_at(at)) == signal.SIGSEGV
        assert stamp_at(at) == STAMPED[0]


# ---- failures -----------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, None])
@pytest.mark.parametrize("writable", [False, True])
def test_every_system_call_failing_in_turn(shared, writable, times):
    kinds = FAILING if times else sorted(set(FAILING) - {"munmap"})

    def share_and_attach():
        with shared.share(writable=writable) as ticket:
            return mrm.attach(ticket)

    failed = 0
    for turn in range(1, 100):
        files, mappings = open_files(), own_mappings()
        made = None
        # A mapping that cannot be undone stays, which is the kernel's doing: so all fail only up to there.
        with calls.Script(fail=turn, times=times, error=errno.ENOMEM, kinds=kinds) as script:
            try:
                made = share_and_attach()
            except mrm.Error as error:
                failed += 1
                assert isinstance(error, (mrm.SystemCallError, mrm.AddressSpaceError))
                assert error.errno == errno.ENOMEM
        if made is not None:
            assert stamp_at(made.address(1)) == STAMPED[1]
            made.close()
        assert open_files() == files, script.calls()
        assert own_mappings() == mappings, script.calls()
        if script.counted < turn:
            break
    else:
        pytest.fail("the end was not reached")
    assert failed >= 4
    assert mrm.live_handles()["attachments"] == 0


def test_a_close_that_fails_leaves_it_open(shared):
    with shared.share() as ticket:
        frames = mrm.attach(ticket)
    with (
        calls.Script(fail=1, times=2, kinds=["mmap", "munmap"]),
        pytest.raises(mrm.SystemCallError, match="try again"),
    ):
        frames.close()
    assert stamp_at(frames.address(1)) == STAMPED[1]
    frames.close()


def test_a_file_that_its_owner_is_opening_is_not_attached_to(mount):
    path = mount / "heap"
    mrm.Pool(2 * FRAME, path=path).close()
    fd = os.open(path, os.O_RDWR)
    from mrm.physical import locks

    with (
        locks.unattached(fd, str(path), "this is a test"),
        pytest.raises(mrm.ArgumentError, match="being opened by its owner at this moment"),
    ):
        mrm.attach(path)
    os.close(fd)
    mrm.attach(path).close()
