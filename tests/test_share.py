"""Frames shared with other processes: tickets, attachments, workers, and deaths on either side."""

import contextlib
import ctypes
import errno
import gc
import mmap
import os
import pickle
import signal
import socket
import warnings

import pytest
from helpers import (
    FRAME,
    after_fork,
    huge_pages_mapped,
    in_child,
    kill,
    open_files,
    own_mappings,
    stamp,
    stamp_all,
    stamp_at,
    start,
)
from limited import as_it_was, needs_root, pages

import mrm
import mrm.system.calls as calls
from mrm.physical.kept import pages_at

FRAMES = 16
SIZE = FRAMES * FRAME
STAMPED = [0x5EED << 32 | frame for frame in range(FRAMES)]
FAILING = sorted(set(calls.KINDS) - {"close"})


KINDS = ["huge memfd", "small memfd", "unnamed", "named"]


def options_of(kind, request):
    """How a pool on this kind of file is opened; skips the test where there is none."""
    if kind == "small memfd":
        return {"huge": "off"}
    request.getfixturevalue("needs_huge")
    if kind == "huge memfd":
        return {"huge": "require"}
    mount = request.getfixturevalue("mount")
    return {"path": mount / "heap" if kind == "named" else mount}


@pytest.fixture(params=KINDS)
def shared(request):
    """A stamped pool on each kind of file that can be shared."""
    with mrm.Pool(SIZE, **options_of(request.param, request)) as pool:
        stamp_all(pool)
        yield pool
        pool.audit()


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


# ---- tickets that go elsewhere ----------------------------------------------------------


def test_a_name_is_but_words(mount):
    with mrm.Pool(SIZE, path=mount / "heap") as pool:
        stamp_all(pool)
        ticket = pickle.loads(pickle.dumps(pool.share()))
        assert ticket.path == str(mount / "heap")
        with mrm.attach(ticket) as frames, mrm.attach(mount / "heap", writable=True) as other:
            assert [stamp_at(frames.address(f)) for f in range(FRAMES)] == STAMPED
            stamp(other.address(0), 1)
            assert stamp_at(frames.address(0)) == 1
    with mrm.attach(ticket) as frames:  # the owner need not be there
        assert stamp_at(frames.address(1)) == STAMPED[1]


def test_a_name_that_leads_elsewhere_is_noticed(mount):
    path = mount / "heap"
    with mrm.Pool(2 * FRAME, path=path) as pool:
        stamp_all(pool)
        ticket = pool.share()
        path.rename(mount / "old")
        with mrm.Pool(2 * FRAME, path=path):
            with pytest.raises(mrm.ArgumentError, match="is another file than the pool's"):
                mrm.attach(ticket)
            # The pool knows it, too, and gives a descriptor.
            with pool.share() as other, mrm.attach(other) as frames:
                assert other.path is None
                assert stamp_at(frames.address(1)) == STAMPED[1]


def test_a_restarted_owner_and_those_attached_meet_again(mount):
    path = mount / "heap"
    with mrm.Pool(4 * FRAME, path=path) as pool:
        stamp_all(pool)
        ticket = pool.share(writable=True)
    with mrm.attach(ticket) as frames, mrm.Pool(4 * FRAME, path=path, keep=True) as pool:
        stamp(frames.address(2), 22)
        assert stamp_at(pool.address(2)) == 22
    with (
        mrm.Pool(2 * FRAME, path=path),
        pytest.raises(mrm.ArgumentError, match="a pool was opened on it anew, with fewer frames"),
    ):
        mrm.attach(ticket)


@pytest.mark.parametrize("shared", [kind for kind in KINDS if kind != "named"], indirect=True)
def test_a_descriptor_goes_through_a_socket(shared):
    ours, theirs = socket.socketpair()
    with ours, theirs, shared.share() as ticket:
        socket.send_fds(ours, [b"frames"], [ticket.fileno()])
        _, (fd,), _, _ = socket.recv_fds(theirs, 16, 1)
        try:
            with mrm.attach(fd) as frames:
                assert len(frames) == FRAMES
                assert stamp_at(frames.address(5)) == STAMPED[5]
        finally:
            os.close(fd)


@needs_root
def test_another_user_cannot_make_a_readers_descriptor_writable(huge):
    ending = in_child(
        """
        from limited import become_nobody
        pool = mrm.Pool(2 * FRAME, huge=huge)
        ticket = pool.share()
        fd = os.dup(ticket.fileno())
        if os.fork() == 0:
            become_nobody()
            with mrm.attach(fd) as frames:
                say(len(frames))
            try:
                os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            except PermissionError:
                say("refused")
            os._exit(0)
        os.wait()
        pool.close()
        """,
        huge=huge,
    )
    assert ending.out.split() == ["2", "refused"], ending


WORKERS = """
import multiprocessing
sys.path.insert(0, {tests!r})
import attaching
context = multiprocessing.get_context({method!r})
answers = context.Queue()
with mrm.Pool({size}, **{options!r}) as pool:
    stamp_all(pool)
    with pool.share() as reading, pool.share(writable=True) as writing:
        workers = [context.Process(target=attaching.read_all, args=(reading, answers)) for _ in range(2)]
        for worker in workers:
            worker.start()
        told = dict(answers.get(timeout=60) for _ in workers)
        assert sorted(told) == sorted(worker.pid for worker in workers)
        assert all(seen == [0x5EED << 32 | f for f in range(len(pool))] for seen in told.values())
        writer = context.Process(target=attaching.write_all, args=(writing, answers))
        writer.start()
        assert answers.get(timeout=60) == writer.pid
        assert [stamp_at(pool.address(f)) for f in range(len(pool))] == [0xBEEF << 32 | f for f in range(len(pool))]
        trespasser = context.Process(target=attaching.trespass, args=(reading, answers))
        trespasser.start()
        assert answers.get(timeout=60) == 0xBEEF << 32
        for worker in [*workers, writer]:
            worker.join()
            assert worker.exitcode == 0, worker.exitcode
        trespasser.join()
        assert trespasser.exitcode == -signal.SIGSEGV, trespasser.exitcode
    assert stamp_at(pool.address(0)) == 0xBEEF << 32
    pool.audit()
say("done")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["named", "huge memfd", "small memfd"])
def test_workers_attach(method, kind, request):
    options = {name: str(value) for name, value in options_of(kind, request).items()}
    tests = os.path.dirname(os.path.abspath(__file__))
    ending = in_child(
        WORKERS.format(method=method, size=4 * FRAME, options=options, tests=tests), timeout=180
    )
    assert (ending.out, ending.err, ending.code) == ("done\n", "", 0), ending


def test_a_ticket_goes_through_a_queue(huge):
    ending = in_child(
        """
        import multiprocessing, attaching
        context = multiprocessing.get_context("spawn")
        tickets, answers = context.Queue(), context.Queue()
        with mrm.Pool(2 * FRAME, huge=huge) as pool, pool.share() as ticket:
            stamp_all(pool)
            worker = context.Process(target=attaching.read_next, args=(tickets, answers))
            worker.start()
            tickets.put(ticket)
            say(answers.get(timeout=60)[1] == [0x5EED << 32, 0x5EED << 32 | 1])
            worker.join()
        """,
        huge=huge,
        timeout=120,
    )
    assert (ending.out, ending.code) == ("True\n", 0), ending


TOUCH = """
import resource
frames = mrm.attach({fd}, writable={writable})
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    peek(frames.base)
before = faults()
for at in range(frames.base, frames.base + frames.size, FRAME):
    peek(at)
after = faults()
say("busy")
say(after - before)
signal.pause()
"""


def test_page_tables_are_shared_between_processes(needs_huge):
    """The owner's with those that write, and among those that read: no fault for a frame."""
    with mrm.Pool(48 * FRAME, huge="require") as pool:
        # Whether this kernel does was found by trying, when the first such pool was opened.
        if not {feature.name: feature.present for feature in mrm.features()}["shared page tables"]:
            pytest.skip("this kernel shares no page tables, or a test pretends so")
        for writable, others in ((True, 0), (False, 1)):
            with pool.share(writable=writable) as ticket:
                code = TOUCH.format(fd=ticket.fileno(), writable=writable)
                with contextlib.ExitStack() as children:
                    for _ in range(others + 1):
                        last = children.enter_context(start(code, pass_fds=[ticket.fileno()]))
                    assert int(last.stdout.readline()) < 16
        pool.audit()


# ---- deaths -----------------------------------------------------------------------------


def test_an_owner_is_killed_and_the_attachment_keeps_the_pages(mount):
    path = mount / "heap"
    before, mapped = pages(), huge_pages_mapped()
    code = f"pool = mrm.Pool({SIZE}, path={str(path)!r}); stamp_all(pool); say('busy'); signal.pause()\n"
    with start(code) as owner, mrm.attach(path) as frames:
        kill(owner)
        assert [stamp_at(frames.address(f)) for f in range(FRAMES)] == STAMPED
        path.unlink()
        assert [stamp_at(frames.address(f)) for f in range(FRAMES)] == STAMPED
        assert huge_pages_mapped() == mapped + SIZE  # seen as this process's
    assert huge_pages_mapped() == mapped
    assert as_it_was(before)


def test_an_owner_of_a_memfd_is_killed_and_the_attachment_keeps_the_pages(huge):
    before, mapped = pages(), huge_pages_mapped()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            try:
                pool = mrm.Pool(SIZE, huge=huge)
                stamp_all(pool)
                ticket = pool.share()
                socket.send_fds(theirs, [b"x"], [ticket.fileno()])
                signal.pause()
            finally:
                os._exit(1)
        try:
            theirs.close()
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
            frames = mrm.attach(fd)
            os.close(fd)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert [stamp_at(frames.address(f)) for f in range(FRAMES)] == STAMPED
    assert huge_pages_mapped() == mapped + (SIZE if huge == "require" else 0)
    frames.close()
    assert huge_pages_mapped() == mapped
    assert as_it_was(before)


def test_one_that_is_attached_is_killed_and_the_owner_goes_on(mount):
    path = mount / "heap"
    with mrm.Pool(SIZE, path=path) as pool:
        stamp_all(pool)
        code = f"""
        frames = mrm.attach({str(path)!r}, writable=True)
        import threading
        def work():
            while True:
                stamp(frames.address(3), 33)
        threading.Thread(target=work, daemon=True).start()
        say('busy'); signal.pause()
        """
        with start(code) as worker, pool.open_view() as view:
            kill(worker)
            assert pages_at(str(path)) == FRAMES
            pool.audit()
            assert [stamp_at(view.address(f)) for f in range(FRAMES) if f != 3] == [
                s for f, s in enumerate(STAMPED) if f != 3
            ]
        pool.give(pool.take(FRAMES))
    mrm.Pool(SIZE, path=path).close()  # its lock is gone, too


def test_a_page_that_the_owner_gave_back_is_fetched_by_a_look(mount):
    """The sharp edge: a hole reads as zeros, and takes a page that nobody's books know."""
    path = mount / "heap"
    with mrm.Pool(4 * FRAME, path=path) as pool:
        stamp_all(pool)
        with mrm.attach(path) as frames:
            fd = os.open(path, os.O_RDWR)
            calls.system_call("fallocate", fd, 3, FRAME, FRAME)
            os.close(fd)
            assert pages_at(str(path)) == 3
            assert stamp_at(frames.address(1)) == 0
            assert pages_at(str(path)) == 4


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


def test_without_proc_only_names_are_shared(mount):
    no_proc = {"fail": 1, "kinds": ["openat"], "error": errno.ENOENT}
    with (
        mrm.Pool(2 * FRAME, huge="off") as pool,
        calls.Script(**no_proc),
        pytest.raises(mrm.SystemCallError, match="/proc"),
    ):
        pool.share()
    with mrm.Pool(2 * FRAME, path=mount / "heap") as pool, calls.Script(**no_proc):
        assert pool.share().path == str(mount / "heap")


def test_a_dropped_ticket_leaves_no_descriptor():
    with mrm.Pool(2 * FRAME, huge="off") as pool:
        files = open_files()
        ticket = pool.share()
        assert len(open_files()) == len(files) + 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del ticket
            gc.collect()
        assert open_files() == files
