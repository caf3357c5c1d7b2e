"""Frames shared with other processes: tickets, workers, and deaths on either side."""

import contextlib
import errno
import gc
import os
import pickle
import signal
import socket
import warnings

import pytest
from helpers import (
    FRAME,
    huge_pages_mapped,
    in_child,
    kill,
    open_files,
    stamp,
    stamp_all,
    stamp_at,
    start,
)
from limited import as_it_was, needs_root, pages
from sharing import FRAMES, KINDS, SIZE, STAMPED, options_of

import mrm
import mrm.system.calls as calls
from mrm.physical.kept import pages_at

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
