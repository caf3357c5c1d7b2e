"""Watching: what another process's books say, who may read them, and what it leaves alone."""

import contextlib
import errno
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import textwrap
import time

import pytest
from click.testing import CliRunner
from helpers import FRAME, after_fork, environment, in_child, open_files
from limited import needs_root

import mrm
from mrm._books import UnknownBooks, read_books, read_head
from mrm.system import calls
from mrm.tools.commands import group
from mrm.tools.watch import find, rates
from mrm.tools.watch.display import frame as picture
from mrm.tools.watch.find import NothingToWatch, owned, wanted


@contextlib.contextmanager
def owner(code, name="owner"):
    """Another process that runs this, and says "ready" when there is something to see; it obeys lines."""
    source = textwrap.dedent(f"""
        import os, sys
        import mrm
        F = mrm.FRAME_SIZE
        def ready():
            print("ready", flush=True)
            return sys.stdin.readline().strip()
        name = {name!r}
    """) + textwrap.dedent(code)
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(mrm.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(30)


def go_on(process):
    """Let it run to its next point."""
    process.stdin.write("on\n")
    process.stdin.flush()
    return process.stdout.readline()


def mrm_command(*arguments):
    """The command, in this process; what it printed."""
    return CliRunner().invoke(group, arguments)


@pytest.fixture
def mine(pool):
    """The pool of this process, and its books."""
    (books,) = owned(os.getpid())
    with books:
        yield pool, books


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
    fields = struct.calcsize("8sII32s8IIIIi")
    struct.pack_into("I", head, fields + 4 * at["frames"], frames)
    records = struct.unpack_from("Q", head, fields + 24 + 8 * 3)[0]
    fd = os.memfd_create("made up")
    try:
        accounts = records + 16 * frames
        struct.pack_into("Q", head, fields + 24 + 8 * 4, accounts)
        os.ftruncate(fd, accounts + 1024 * 1024)
        os.pwrite(fd, head, 0)
        held = struct.pack("IIIHH", 0, 2, 0, 0, 0)
        state = next(n for n, name in mrm._core.frame_states().items() if name == "held")
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
            shown = mrm_command("top", "balloon", "--once", "--interval", "0.05").output
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


# ---- its end ---------------------------------------------------------------------------------------

SMALL = 'pool = mrm.Pool(4 * F, huge="off", name=name)\nready()\n'


def test_a_pool_that_closes_is_told():
    with owner(SMALL + "pool.close()\nready()") as process:
        (books,) = wanted(str(process.pid))
        with books:
            assert books.ended == ""
            assert go_on(process) == "ready\n"
            assert books.ended == f"process {process.pid} has closed the pool"
            assert sum(books.read()["frames"].values()) == 4
        with pytest.raises(NothingToWatch, match="mrm loaded, and no pool"):
            wanted(str(process.pid))


def test_a_process_that_is_killed_is_told():
    with owner(SMALL) as process:
        (books,) = wanted(str(process.pid))
        with books:
            process.kill()
            for _ in range(1000):
                if books.ended:
                    break
                time.sleep(0.01)
            assert books.ended == f"process {process.pid} has ended"  # not waited for yet: a zombie
            process.wait()
            assert books.ended == f"process {process.pid} has ended"
            books.read()


@contextlib.contextmanager
def top_of(process):
    """The command, in a process of its own, as a terminal would start it."""
    command = [sys.executable, "-u", "-m", "mrm.tools.cli", "top", str(process.pid), "--interval", "0.1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes) as top:
        try:
            yield top
        finally:
            top.kill()


def test_top_ends_with_the_pool():
    with owner(SMALL + "pool.close()\nready()") as process, top_of(process) as top:
        assert "pool 1 'owner'" in top.stdout.readline()
        assert go_on(process) == "ready\n"
        out, err = top.communicate(timeout=30)
    assert (top.returncode, err.strip()) == (0, "")
    assert out.rstrip().endswith("has closed the pool.")


def test_top_ends_well_on_ctrl_c():
    with owner(SMALL) as process, top_of(process) as top:
        assert "pool 1 'owner'" in top.stdout.readline()
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=30)
    assert (top.returncode, err.strip()) == (0, "")


# ---- who may, and what cannot be read -----------------------------------------------------------------


@needs_root
def test_another_user_may_not_look():
    with owner(SMALL) as process:
        code = f"""
        import mrm.tools.cli, mrm.tools.watch.stats, mrm.tools.watch.top
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        say(mrm.tools.cli.run(["top", "{process.pid}", "--once"]))
        say(mrm.tools.cli.run(["stats", "owner"]))
        """
        ending = in_child(code)
    assert ending.out == "1\n1\n", ending
    assert f"process {process.pid} may not be looked into: Permission denied" in ending.err
    assert "no pool that this user may see is called 'owner'" in ending.err
    assert "may not look into" in ending.err


@needs_root
def test_the_same_user_may_look():
    code = """
    import ctypes
    pool = mrm.Pool(4 * F, huge="off", name=name)
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1)       # PR_SET_DUMPABLE: setuid took it away
    ready()
    """
    with owner(code) as process:
        ending = in_child(
            f"""
            import mrm.tools.watch.find as find
            os.setgroups([]); os.setgid(65534); os.setuid(65534)
            (books,) = find.wanted("{process.pid}")
            say(books.read()["pool"]["frames"])
            """
        )
    assert (ending.code, ending.out) == (0, "4\n"), ending


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [(8, struct.pack("I", 77), "of mrm 0.1.0 (books of layout 77)"),
     (16, b"9.9.9\0", None),
     (48 + 4 * 5, struct.pack("I", 999), "watch it with the mrm command of that version"),
     (0, b"nonsense", "no books of a pool")],
)  # fmt: skip
def test_books_of_another_layout_are_refused(mine, at, value, words):
    _, books = mine
    copy = os.memfd_create("mrm-books:copy")
    try:
        os.pwrite(copy, os.pread(books.fd, os.fstat(books.fd).st_size, 0), 0)
        os.pwrite(copy, value, at)
        if words is None:
            assert read_head(copy)["version"] == "9.9.9"  # another version, and the same layout
            return
        with pytest.raises(UnknownBooks, match=re.escape(words)):
            read_books(copy)
    finally:
        os.close(copy)


def test_books_that_end_too_early_are_refused(mine):
    _, books = mine
    copy = os.memfd_create("mrm-books:short")
    try:
        os.pwrite(copy, os.pread(books.fd, 8192, 0), 0)
        with pytest.raises(UnknownBooks, match="end before"):
            read_books(copy)
        os.ftruncate(copy, 10)
        with pytest.raises(UnknownBooks, match="no books"):
            read_head(copy)
    finally:
        os.close(copy)


def test_unknown_books_of_a_process_are_told_and_left_out_of_lists():
    code = """
    fd = os.memfd_create("mrm-books:strange")
    os.write(fd, b"mrmbooks" + bytes([9]) + bytes(7) + b"0.9" + bytes(4096))
    ready()
    """
    with owner(code) as process:
        with pytest.raises(UnknownBooks, match=r"mrm 0\.9 \(books of layout 9\)"):
            wanted(str(process.pid))
        census = find.listed()
        assert process.pid not in [books.pid for books in census.books]
        census.close()


@pytest.mark.parametrize(
    ("who", "words"),
    [("99999999", "there is no process 99999999"), ("nobody's", "is called \"nobody's\"")
    ],
)  # fmt: skip
def test_what_is_not_there_is_told(who, words):
    with pytest.raises(NothingToWatch, match=re.escape(words)):
        wanted(who)


def test_a_process_without_mrm_is_told():
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            with pytest.raises(NothingToWatch, match="has no pool: mrm is not loaded in it"):
                wanted(str(process.pid))
        finally:
            process.kill()


# ---- the commands ------------------------------------------------------------------------------------

TWO = 'pools = [mrm.Pool(n * F, huge="off", name=name) for n in (2, 3)]\nready()\n'


def test_top_lists_and_chooses():
    with owner(TWO, 'a [bold]"name"') as process:
        listed = mrm_command("top")
        assert listed.exit_code == 0
        rows = [line for line in listed.output.splitlines() if str(process.pid) in line]
        assert len(rows) == 2
        assert all('a [bold]"name"' in row for row in rows)
        several = mrm_command("top", str(process.pid))
        assert several.exit_code == 2
        assert "several are meant" in several.output
        assert "4 MiB" in several.output
        assert "6 MiB" in several.output
        one = mrm_command("top", 'a [bold]"name"', "--pool", "2", "--once", "--interval", "0.05")
        assert one.exit_code == 0, one.output
        assert "3 frames, 6 MiB, small" in one.output
        none = mrm_command("top", str(process.pid), "--pool", "9")
        assert none.exit_code == 2
        assert "none of these" in none.output


def test_a_picture_shows_whatever_the_books_have(mine):
    from rich.console import Console

    _, books = mine
    told = books.read()
    told["frames"]["inflated"] = 3
    told["frames"]["ready"] -= 3
    told["accounts"].append({**told["accounts"][0], "name": "balloon", "number": 2, "allocated": 3})
    told["changes"][2] = (0,) * len(told["changes"][1])
    told["counted"] = 8
    reading = rates.Reading(told, 1.0, 5)
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(picture(books, reading, reading))
    console.file.close()
    said = console.export_text()
    assert "inflated 3 (6 MiB)" in said
    assert re.search(r"balloon +0 +3 ", said)
    assert "estimated from 8 of 16" in said
    for words in ("committed", "pause_prevention", "takes and gives", "system calls", "whole machine"):
        assert words in said


def test_stats_as_json():
    with owner(TWO) as process:
        said = json.loads(mrm_command("stats", str(process.pid)).output)
        everybody = json.loads(mrm_command("stats").output)
    assert [pool["pool"]["frames"] for pool in said["pools"]] == [2, 3]
    assert said["pools"][0]["frames"]["ready"] == 2
    assert said["pools"][0]["accounts"][0]["stack_changes"] == 0
    assert process.pid in [pool["owner"]["pid"] for pool in everybody["pools"]]


def test_stats_for_prometheus_line_by_line():
    name = 'quo"te\\d'
    with owner(TWO, name) as process:
        said = mrm_command("stats", str(process.pid), "--prometheus")
    assert said.exit_code == 0
    assert said.output.endswith("\n")
    kinds, helped, samples = {}, set(), []
    sample = re.compile(r'([a-z_]+)\{((?:[a-z]+="(?:[^"\\]|\\.)*",?)*)\} (\d+)')
    for line in said.output.splitlines():
        if line.startswith("# HELP "):
            metric = line.split()[2]
            assert metric not in helped
            helped.add(metric)
            assert line.endswith(".")
        elif line.startswith("# TYPE "):
            _, _, metric, kind = line.split()
            assert metric in helped
            assert metric not in kinds
            kinds[metric] = kind
            assert (kind == "counter") == metric.endswith("_total")
        else:
            found = sample.fullmatch(line)
            assert found, line
            assert list(kinds)[-1] == found[1], "not below its TYPE"
            labels = dict(re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', found[2]))
            assert labels["pid"] == str(process.pid)
            assert labels["name"] == 'quo\\"te\\\\d'
            samples.append((found[1], labels, int(found[3])))
    assert set(kinds) == helped == {metric for metric, _, _ in samples}

    def values(metric, **labels):
        return [v for m, has, v in samples if m == metric and labels.items() <= has.items()]

    assert values("mrm_pool_frames", state="ready") == [2, 3]
    assert values("mrm_pool_size_bytes", pool="2") == [3 * FRAME]
    assert values("mrm_account_limit_frames", account="pool") == [2, 3]
    assert values("mrm_fund_size_frames", fund="committed") == [2, 3]
    assert values("mrm_pool_info", backing="small") == [1, 1]
