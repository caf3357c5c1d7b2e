"""The books of a pool in memory that others may read: what they say, who keeps them, and who has a part in them.

Figures are compared with what the pool says of itself; what is private, and what becomes of books at a fork,
is looked at in the process's own descriptors and mappings.
"""

import errno
import json
import os
import pathlib
import struct

import pytest
from helpers import FRAME, after_fork, in_child, open_files
from watching import go_on, mrm_command, owner

import mrm
from mrm._books import read_books
from mrm.system import calls
from mrm.tools.watch import rates
from mrm.tools.watch.find import NothingToWatch, owned, wanted

# ---- figures ---------------------------------------------------------------------------


def test_another_process_is_read_as_it_reads_itself():
    code = """
    import json
    pool = mrm.Pool(40 * F, huge="off", name=name)
    old = pool.account("old", limit=20)
    old.fund(8)
    taken = old.take(6)
    pool.give(taken[:2])
    strict = pool.take(3)
    pool.give(strict, reuse="after_retire")
    pool.fund("mine", 4 * F)
    view = pool.open_view(); view.retire(); view.close()
    slots = pool.reserve(4)
    with slots.batch() as batch:
        batch.map(0, taken[2])
    strict = pool.take(2)
    pool.give(strict, reuse="after_retire")
    ready()
    figures = [pool.stats().as_dict(), [a.stats().as_dict() for a in pool.accounts.values()]]
    print(json.dumps(figures), flush=True)
    ready()
    """
    with owner(code) as process:
        (books,) = wanted(str(process.pid))
        with books:
            said = books.read()
        stats, accounts = json.loads(go_on(process))
    assert said["frames"] == {
        name: stats[name] for name in ("ready", "released", "strict", "held", "inflated", "poisoned")
    }
    assert said["counted"] == said["pool"]["frames"] == stats["frames"] == 40
    assert (said["mapped"], said["pending"]) == (stats["mapped"], stats["pending"]) == (1, 0)
    for name in (
        "epoch",
        "views_open",
        "views_retired",
        "views_opened",
        "reservations",
        "batches",
        "system_calls",
    ):
        assert said["figures"][name] == stats[name], name
    assert said["figures"]["epoch"] == said["figures"]["views_opened"] == said["figures"]["batches"] == 1
    assert [a["name"] for a in said["accounts"]] == ["pool", "old"]
    for seen, told in zip(said["accounts"], accounts, strict=True):
        assert {name: seen[name] for name in told} == told
    funds = {f["name"]: f for f in said["funds"]}
    assert list(funds) == ["committed", "overdraft", "pause_prevention", "mine"]
    assert (funds["mine"]["frames"], funds["committed"]["granted"]) == (4, 8)
    assert said["pool"]["name"] == "owner"
    assert said["pool"]["version"] == mrm.__version__
    assert said["owner"] == {"pid": process.pid, "command": said["owner"]["command"]}


def test_every_state_adds_up_and_is_named(mine):
    pool, books = mine
    assert sum(books.read()["frames"].values()) == 16
    taken = pool.take(5)
    pool.give(taken[:2], reuse="after_retire")
    said = books.read()
    assert (said["frames"]["held"], said["frames"]["strict"], said["frames"]["ready"]) == (3, 2, 11)
    pool.retire()
    pool.give(taken[2:])
    assert books.read()["frames"]["ready"] == 16


def test_takes_and_gives_are_counted_exactly_while_it_is_quiet(mine):
    pool, books = mine
    before_all = books.read()
    pool.give(pool.take())  # fills the stack
    before = books.read()
    for _ in range(1000):
        pool.give(pool.take())
    for _ in range(10):
        pool.give(pool.take(4))  # an array counts once
    after = books.read()
    assert rates.changes(before, after, 1) == 2 * 1000 + 2 * 10
    assert rates.changes(before_all, before, 1) == 2  # a batch, of which one was taken, and the give
    assert rates.changes(before, before, 1) == 0


def test_changes_come_round():
    assert rates.changes({"changes": {1: (2**32 - 3, 7)}}, {"changes": {1: (2, 8)}}, 1) == 6
    assert rates.changes({"changes": {}}, {"changes": {2: (5, 1)}}, 2) == 6  # an account that has begun


def test_rates_are_of_the_time_between(mine, monkeypatch):
    pool, books = mine
    pool.give(pool.take())
    monkeypatch.setattr(rates, "received", iter([10, 30]).__next__)
    before = rates.take(books.read())
    for _ in range(50):
        pool.give(pool.take())
    pool.retire()
    after = rates.Reading(books.read(), before.seconds + 2, rates.received())
    told = rates.rates(before, after)
    assert told["takes and gives"] == 50
    assert told["retires"] == 0.5
    assert told["shootdowns, whole machine"] == 10
    nothing = rates.Reading(before.books, before.seconds, None)
    assert rates.rates(nothing, after)["shootdowns, whole machine"] is None


def test_many_frames_are_sampled_and_it_is_said(huge):
    frames = 3 * (1 << 16) + 5
    with mrm.Pool(FRAME, huge=huge) as pool:
        (books,) = owned(os.getpid())
        with books:
            assert books.read()["counted"] == len(pool) == 1
            # As many frames as no test can have: a file with the head of this one, and records made up.
            head = bytearray(os.pread(books.fd, 4096, 0))
    at = {name: i for i, name in enumerate(("frames", "shift", "stacks", "cpu", "accounts", "funds"))}
    fields = struct.calcsize("8sI32s8I3Ii")
    places = struct.calcsize("8sI32s8I3Ii6I0Q")
    struct.pack_into("I", head, fields + 4 * at["frames"], frames)
    records = struct.unpack_from("Q", head, places + 8 * 3)[0]
    fd = os.memfd_create("made up")
    try:
        accounts = records + 16 * frames
        struct.pack_into("Q", head, places + 8 * 4, accounts)
        os.ftruncate(fd, accounts + 1024 * 1024)
        os.pwrite(fd, head, 0)
        state = next(n for n, name in mrm._frames.frame_states().items() if name == "held")
        held = struct.pack("IIIHH", 0, state, 0, 0, 0)
        os.pwrite(fd, held * (1 << 15), records)
        exact, sampled = read_books(fd), read_books(fd, 1 << 17)
    finally:
        os.close(fd)
    assert exact["counted"] == frames
    assert exact["frames"]["held"] == 1 << 15
    assert sampled["counted"] < frames
    assert sum(sampled["frames"].values()) == frames
    assert sampled["frames"]["held"] > 0


def test_the_balloon_is_seen_by_itself():
    with mrm.Pool(6 * FRAME, maximum=8 * FRAME, huge="off", name="balloon") as pool:
        (books,) = owned(os.getpid())
        with books:
            assert books.read()["frames"]["inflated"] == 2
            pool.inflate(3 * FRAME).or_raise()
            said = books.read()
            assert (said["frames"]["inflated"], said["frames"]["ready"]) == (5, 3)
            assert (said["pool"]["frames"], said["pool"]["size"]) == (8, pool.size) == (8, 3 * FRAME)
            shown = mrm_command("top", str(os.getpid()), "--once", "--interval", "0.05").output
            assert "8 frames, 6 MiB" in shown
            assert "inflated 5 (10 MiB)" in shown


# ---- what watching leaves alone ------------------------------------------------------------


def test_books_cannot_be_written_by_anybody_else(mine):
    _, books = mine
    path = f"/proc/self/fd/{books.fd}"
    fd = os.open(f"/proc/{os.getpid()}/fd/{os.path.basename(path)}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_reading_takes_no_pages():
    """A record that was never touched is a hole in the file, and stays one."""
    with mrm.Pool(64 * FRAME, huge="off") as pool:
        (books,) = owned(os.getpid())
        with books:
            before = os.fstat(books.fd).st_blocks
            for _ in range(3):
                books.read()
            assert os.fstat(books.fd).st_blocks == before
            pool.give(pool.take(64))
            assert os.fstat(books.fd).st_blocks >= before


def test_watching_makes_the_owner_do_nothing(mine):
    pool, books = mine
    with calls.Script() as script:
        books.read()
        pool.give(pool.take())
        books.read()
    assert script.calls() == []


def books_mapped():
    """How many mappings of books there are: a test that made an munmap fail has left its own."""
    return pathlib.Path("/proc/self/maps").read_text().count("mrm-books")


def test_a_pool_leaves_no_descriptor_and_no_mapping(huge):
    others, before = books_mapped(), open_files()
    with mrm.Pool(FRAME, huge=huge):
        assert books_mapped() == others + 1
        assert len(open_files()) == len(before) + 2
    assert books_mapped() == others
    assert open_files() == before


# ---- books that stay private -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "nth", "error"),
    [("memfd_create", 2, errno.EPERM), ("memfd_create", 2, errno.EMFILE), ("fcntl", 1, errno.EPERM),
     ("ftruncate", 2, errno.ENOMEM)],
)  # fmt: skip
def test_what_cannot_be_shared_is_private_and_said(huge, call, nth, error):
    with calls.Script(fail=nth, error=error, kinds=[call]):
        pool = mrm.Pool(4 * FRAME, huge=huge)
    assert f"cannot watch this pool: {call} of its books says {os.strerror(error)}" in pool.description
    with pytest.raises(NothingToWatch, match="pool.description"):
        wanted(str(os.getpid()))
    with pool:
        taken = pool.take(3)
        pool.retire()
        pool.give(taken)
        assert pool.audit().epoch == 1
    with mrm.Pool(FRAME, huge=huge) as another:
        assert "watch" not in another.description


def test_with_one_descriptor_left_the_books_are_private(huge):
    ending = in_child(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_files()) + 2,) * 2)
        pool = mrm.Pool(4 * FRAME, huge=huge)
        say("memfd_create of its books says Too many open files" in pool.description)
        pool.give(pool.take(2))
        pool.close()
        """,
        huge,
    )
    assert (ending.code, ending.out) == (0, "True\n"), ending


def test_a_limit_on_files_that_the_books_alone_exceed_kills_nobody():
    """The frames are there when the limit is set; beyond it the kernel sends a signal that kills by default."""
    ending = in_child(
        """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        def limit(done, total):
            if done == total:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        pool = mrm.Pool(FRAME, huge="off", progress=limit)
        say("cannot watch this pool: ftruncate of its books says File too large" in pool.description)
        pool.give(pool.take())
        pool.close()
        say("done")
        """
    )
    assert (ending.code, ending.out) == (0, "True\ndone\n"), ending


def test_where_memory_is_promised_strictly_the_books_are_funded(monkeypatch):
    import mrm._opening as opening

    monkeypatch.setattr(opening, "overcommit_memory", lambda: 2)
    with mrm.Pool(4 * FRAME, huge="off"):
        (books,) = owned(os.getpid())
        with books:
            told = os.fstat(books.fd)
            assert told.st_blocks * 512 >= told.st_size


# ---- fork --------------------------------------------------------------------------------------


def test_a_child_has_no_books_and_spoils_none(mine):
    pool, books = mine
    account = pool.account("mine")
    account.fund(4)
    before = books.read()

    def child():
        refused = 0
        for use in (
            pool.take, account.take, account.stats, lambda: pool.fund("x", 0), lambda: pool.funds,
            lambda: pool.accounts, lambda: account.fund(1), account.flush, pool.stats, pool.audit,
            lambda: pool.on_shortage(None), lambda: pool.account("y"), account.close, account.reset_watermarks,
        ):  # fmt: skip
            try:
                use()
            except mrm.ForkedError:
                refused += 1
        repr(pool)
        return refused, books_mapped(), owned(os.getpid())

    others = books_mapped() - 1
    answer = after_fork(child)
    assert len(answer) == 3, answer
    refused, mapped, found = answer
    assert mapped == others
    assert found == []
    assert refused == 14
    assert books.read() == before
    account.close()


def test_a_fork_within_a_shortage_is_told_to_the_child(mine):
    pool, _ = mine
    taken = pool.take(16)
    children = []

    def fork(*_):
        children.append(os.fork())

    pool.on_shortage(fork)
    told = None
    try:
        pool.take()
    except mrm.Error as error:
        told = type(error)
    finally:
        if children == [0]:
            os._exit(7 if told is mrm.ForkedError else 1)
    assert told is mrm.OutOfFrames
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
    pool.on_shortage(None)
    pool.give(taken)


def test_a_child_without_handlers_has_no_books_mapped(mine):
    """clone(2) by hand runs no handlers: the kernel alone keeps the memory away."""
    pool, books = mine
    code = f"""
    pool = mrm.Pool(4 * FRAME, huge="off")
    libc = ctypes.CDLL(None)
    pid = libc.syscall({57 if os.uname().machine == "x86_64" else 220}, 17, 0, 0, 0, 0)
    if pid == 0:
        inherited = any("mrm-books" in os.readlink(f"/proc/self/fd/{{n}}") for n in os.listdir("/proc/self/fd")
                        if os.path.lexists(f"/proc/self/fd/{{n}}"))
        mapped = "mrm-books" in open("/proc/self/maps").read()
        import mrm.tools.watch.find as find
        os.write(1, repr((inherited, mapped, find.owned(int(os.readlink("/proc/self"))))).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    pool.close()
    """
    ending = in_child(code)
    assert (ending.code, ending.out) == (0, "(True, False, [])"), ending
    assert books.ended == ""
    assert len(pool) == 16
