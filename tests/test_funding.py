"""fund: all frames or none, from whatever there is, and nothing left behind."""

import _thread
import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from helpers import environment

from mrm.errors import ArgumentError, BackingWarning, FundingError
from mrm.physical import labour, placement
from mrm.physical.backings import HUGETLB, SMALL, THP
from mrm.physical.funding import fund
from mrm.physical.limits import huge_pages, meminfo, shmem_thp
from mrm.system import calls
from mrm.system.pages import FRAME_SIZE

MIB = 1 << 20

_pages = huge_pages()
needs_huge_pages = pytest.mark.skipif(
    _pages is None or _pages.available < 64,
    reason="needs 64 free huge pages of 2 MiB: run `mrm fund 128MiB` as root",
)
# What a close that is made to fail leaves open is the test's doing.
FAILING = sorted(set(calls.KINDS) - {"close"})


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:")


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = open_files(), mappings()
    yield
    assert (open_files(), mappings()) == before


@pytest.fixture
def no_huge_pages():
    """A machine without: the first memfd, which is to be of huge pages, is refused."""
    with calls.Script(fail=1, kinds=["memfd_create"], error=errno.EINVAL, record=False):
        yield


@needs_huge_pages
@pytest.mark.parametrize("threads", [None, 1, 3])
def test_hugetlb_is_what_the_file_holds(threads):
    got = fund(16 * FRAME_SIZE, huge="require", threads=threads)
    try:
        assert (got.backing, got.frame_size, got.frame_count, got.path) == (HUGETLB, FRAME_SIZE, 16, None)
        found = os.fstat(got.fd)
        assert (found.st_size, found.st_blksize) == (16 * FRAME_SIZE, FRAME_SIZE)
        assert found.st_blocks * 512 == 16 * FRAME_SIZE  # every page is there
        assert not os.get_inheritable(got.fd)
        assert "huge pages" in got.description
    finally:
        os.close(got.fd)


def test_off_takes_small_pages_and_says_nothing():
    got = fund(2 * FRAME_SIZE, huge="off", name="quiet")
    try:
        assert (got.backing, got.frame_count) == (SMALL, 2)
        assert os.fstat(got.fd).st_blocks * 512 >= 2 * FRAME_SIZE
        assert "quiet" in os.readlink(f"/proc/self/fd/{got.fd}")
    finally:
        os.close(got.fd)


def test_prefer_warns_once_and_names_the_way_out(no_huge_pages):
    with pytest.warns(BackingWarning) as caught:
        got = fund(2 * FRAME_SIZE)
    os.close(got.fd)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert got.backing in (THP, SMALL)
    assert "memfd_create says" in str(caught[0].message)


def test_a_warning_made_an_error_leaves_nothing(no_huge_pages):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BackingWarning):
            fund(2 * FRAME_SIZE)


@pytest.mark.skipif(shmem_thp() in (None, "never", "deny"), reason="shmem_enabled allows no huge pages here")
def test_transparent_huge_pages_come_before_small_ones(no_huge_pages):
    with pytest.warns(BackingWarning, match="transparent"):
        got = fund(2 * FRAME_SIZE)
    os.close(got.fd)
    assert got.backing == THP


@pytest.mark.skipif(_pages is None, reason="no huge pages of 2 MiB in this kernel")
def test_require_fails_with_the_figures():
    too_much = (_pages.total + _pages.overcommit + 1024) * FRAME_SIZE
    with pytest.raises(FundingError, match="mrm fund .* as root") as caught:
        fund(too_much, huge="require")
    assert (caught.value.call, caught.value.errno, caught.value.nbytes) == ("mmap", errno.ENOMEM, too_much)
    assert str(too_much // FRAME_SIZE) in str(caught.value)


def test_more_than_the_machine_has_is_not_even_tried():
    nbytes = 2 * meminfo()["MemTotal"] // FRAME_SIZE * FRAME_SIZE
    with calls.Script() as script, pytest.raises(FundingError, match="is available"):
        fund(nbytes, huge="off")
    assert script.calls() == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"size_bytes": 0},
        {"size_bytes": -FRAME_SIZE},
        {"size_bytes": FRAME_SIZE + 1},
        {"size_bytes": 2**63},
        {"size_bytes": 2**62},
        {"size_bytes": FRAME_SIZE, "huge": "maybe"},
        {"size_bytes": FRAME_SIZE, "numa_node": 4095},
        {"size_bytes": FRAME_SIZE, "numa_node": -1},
        {"size_bytes": FRAME_SIZE, "threads": 0},
        {"size_bytes": FRAME_SIZE, "name": "a" * 250},
        {"size_bytes": FRAME_SIZE, "name": "a\0b"},
        {"size_bytes": FRAME_SIZE, "path": "/proc", "huge": "off"},
        {"size_bytes": FRAME_SIZE, "path": "/proc"},
        {"size_bytes": FRAME_SIZE, "path": "/proc/no-such-file"},
    ],
)
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(ArgumentError):
        fund(**arguments)


# ---- failures ------------------------------------------------------------------------


@needs_huge_pages
@pytest.mark.parametrize(
    "options",
    [
        {"huge": "require"},
        {"huge": "require", "numa_node": 0},
        {"huge": "off"},
        {"huge": "off", "numa_node": 0},
    ],
)
def test_every_system_call_failing_in_turn(options):
    with calls.Script(kinds=FAILING) as counting:
        os.close(fund(3 * FRAME_SIZE, threads=2, **options).fd)
    assert counting.counted >= 3
    for turn in range(1, counting.counted + 1):
        files = open_files()
        # munmap that is made to fail leaves a mapping, which is the test's doing too.
        with calls.Script(fail=turn, kinds=sorted(set(FAILING) - {"munmap"})) as script:
            try:
                os.close(fund(3 * FRAME_SIZE, threads=2, **options).fd)
            except FundingError as error:
                assert error.errno == errno.ENOMEM
        assert open_files() == files, script.calls()


@needs_huge_pages
def test_every_system_call_failing_when_preferred_gives_something_or_an_error():
    for turn in range(1, 12):
        with (
            calls.Script(fail=turn, kinds=sorted(set(FAILING) - {"munmap"}), record=False),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", BackingWarning)
            os.close(fund(2 * FRAME_SIZE, threads=1).fd)


def test_all_system_calls_failing_from_one_on():
    failed = 0
    for turn in range(1, 6):
        with calls.Script(fail=turn, times=None, kinds=FAILING, record=False):
            try:
                os.close(fund(2 * FRAME_SIZE, huge="off").fd)
            except FundingError:
                failed += 1
    assert failed == 3  # memfd_create, ftruncate, fallocate


def test_file_size_limit_is_seen_beforehand():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, hard))
    try:
        for huge in ("require", "off", "prefer"):
            with pytest.raises(FundingError, match="RLIMIT_FSIZE"):
                fund(2 * FRAME_SIZE, huge=huge)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_open_files_limit_is_named():
    # Cython's own modules are loaded by now; only the memfd is one too many.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(FundingError) as caught:
            fund(2 * FRAME_SIZE, huge="require")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
    assert "RLIMIT_NOFILE" in str(caught.value)


# ---- progress and Ctrl-C -------------------------------------------------------------


def test_progress_is_told_in_the_calling_thread():
    told = []
    got = fund(
        4 * FRAME_SIZE,
        huge="off",
        progress=lambda done, total: told.append((done, total, threading.get_ident())),
    )
    os.close(got.fd)
    assert told[-1] == (4 * FRAME_SIZE, 4 * FRAME_SIZE, threading.get_ident())
    assert told == sorted(told)


def test_what_progress_raises_ends_it():
    def refuse(done, total):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        fund(4 * FRAME_SIZE, huge="off", progress=refuse)


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C: a job that a shell started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_leaves_nothing(ctrl_c):
    """It strikes at many moments: before, while and after the file is made and filled."""
    for attempt in range(40):
        files = open_files()
        striker = threading.Timer(attempt * 0.0003, _thread.interrupt_main)
        got = None
        try:
            try:
                striker.start()
                got = fund(8 * FRAME_SIZE, huge="off", progress=lambda done, total: time.sleep(0.02))
            finally:
                striker.join()
        except KeyboardInterrupt:
            pass
        else:
            pytest.fail("no KeyboardInterrupt came through")
        if got:
            os.close(got.fd)
        assert open_files() == files


def test_ctrl_c_at_the_very_end_is_raised_and_not_dropped():
    job = labour._Job(iter([lambda: 1]), None)

    class Struck:
        """The job's condition; the caller's next use of it after the last report is struck."""

        def __init__(self, condition):
            self.condition, self.armed = condition, False

        def __enter__(self):
            if self.armed and threading.current_thread() is threading.main_thread():
                self.armed = False
                raise KeyboardInterrupt
            return self.condition.__enter__()

        def __exit__(self, *exception):
            return self.condition.__exit__(*exception)

        def __getattr__(self, name):
            return getattr(self.condition, name)

    struck = job._changed = Struck(job._changed)
    with pytest.raises(KeyboardInterrupt):
        job.run(1, lambda done: setattr(struck, "armed", True))
    assert (job._active, job._done) == (0, 1)


# ---- NUMA ----------------------------------------------------------------------------


@needs_huge_pages
def test_node_leaves_the_callers_policy_alone():
    with calls.Script(kinds=FAILING) as script:
        got = fund(4 * FRAME_SIZE, huge="require", numa_node=0)
    os.close(got.fd)
    assert "node 0" in got.description
    assert "move_pages" in [name for name, _, _ in script.calls()]
    mode = ctypes.c_int(-1)
    calls.system_call("get_mempolicy", ctypes.addressof(mode), 0, 0, 0, 0)
    assert mode.value == 0  # MPOL_DEFAULT


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (1, "1024 of 1024 pages came from another node than 0: 1024 on node 1"),
        (-errno.ENOENT, "1024 nobody knows where .No such file or directory."),
    ],
)
def test_memory_on_the_wrong_node_is_refused(monkeypatch, place, words):
    """move_pages' answer is what counts, on a machine that has no second node to show it."""
    asked = placement.system_call

    def elsewhere(name, *arguments):
        if name == "move_pages":
            (ctypes.c_int * arguments[1]).from_address(arguments[4])[:] = [place] * arguments[1]
            return 0
        return asked(name, *arguments)

    monkeypatch.setattr(placement, "system_call", elsewhere)
    with pytest.raises(FundingError, match=words):
        fund(4 * MIB, huge="off", numa_node=0)


def test_small_and_transparent_pages_are_told_apart():
    got = fund(2 * FRAME_SIZE, huge="off")
    address = calls.system_call("mmap", 0, 2 * FRAME_SIZE, 3, 1, got.fd, 0)
    try:
        assert not placement.has_huge_frames(address)
    finally:
        calls.system_call("munmap", address, 2 * FRAME_SIZE)
        os.close(got.fd)


def test_a_million_frames_take_calls_by_the_gibibyte_and_not_by_the_frame():
    with calls.Script(fake=True, record=False) as script:
        got = fund(2**20 * FRAME_SIZE, huge="require")
    assert got.frame_count == 2**20
    assert script.counted < 2**12


# ---- files on a hugetlbfs mount --------------------------------------------------------


def keep(got):
    """Let the frames stay, and close their file."""
    got.finish()
    os.close(got.fd)


@needs_huge_pages
class TestPath:
    def test_directory_gives_a_file_without_a_name(self, mount):
        got = fund(4 * FRAME_SIZE, path=mount)
        assert (got.backing, got.path) == (HUGETLB, None)
        assert list(mount.iterdir()) == []
        os.close(got.fd)

    def test_unnamed_on_an_old_kernel(self, mount, features):
        features()
        with calls.Script(fail=2, kinds=["openat"], error=errno.EOPNOTSUPP, record=False):
            got = fund(4 * FRAME_SIZE, path=mount)
        assert list(mount.iterdir()) == []
        os.close(got.fd)

    def test_name_is_kept(self, mount):
        got = fund(4 * FRAME_SIZE, path=mount / "heap")
        keep(got)
        assert got.path == str(mount / "heap")
        assert (mount / "heap").stat().st_size == 4 * FRAME_SIZE
        os.close(fund(2 * FRAME_SIZE, path=mount / "heap").fd)  # nobody has it any more: dropped
        assert (mount / "heap").stat().st_size == 2 * FRAME_SIZE

    def test_empty_file_is_taken_and_left_as_it_was_on_failure(self, mount):
        (mount / "heap").touch()
        with pytest.raises(FundingError, match="size= option"):
            fund(64 * FRAME_SIZE, path=mount / "heap")
        assert (mount / "heap").stat().st_size == 0
        os.close(fund(4 * FRAME_SIZE, path=mount / "heap").fd)
        assert (mount / "heap").stat().st_size == 4 * FRAME_SIZE

    def test_every_system_call_failing_in_turn(self, mount):
        for path in (mount, mount / "heap"):
            with calls.Script(kinds=FAILING) as counting:
                keep(fund(2 * FRAME_SIZE, path=path))
            (mount / "heap").unlink(missing_ok=True)
            for turn in range(1, counting.counted + 1):
                files = open_files()
                with calls.Script(fail=turn, kinds=sorted(set(FAILING) - {"munmap"})) as script:
                    try:
                        keep(fund(2 * FRAME_SIZE, path=path))
                        (mount / "heap").unlink(missing_ok=True)
                    except FundingError:
                        pass
                assert open_files() == files, script.calls()
                assert list(mount.iterdir()) == [], script.calls()


# ---- a real control group -----------------------------------------------------------------


@pytest.fixture
def group(tmp_path, private_mounts):
    """A control group that limits huge pages, of a hierarchy of the test's own."""
    mount = tmp_path / "hugetlb"
    mount.mkdir()
    command = ["mount", "-t", "cgroup", "-o", "hugetlb", "none", str(mount)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs root, and a hugetlb controller that no other hierarchy has")
    inner = mount / "mrm-test"
    inner.mkdir()
    yield inner
    deadline = time.monotonic() + 5
    while True:
        try:
            inner.rmdir()
            break
        except OSError:  # the process that was in it is not quite gone
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    subprocess.run(["umount", str(mount)], check=True)


@needs_huge_pages
@pytest.mark.parametrize(
    ("limit", "call"),
    [("hugetlb.2MB.limit_in_bytes", "fallocate"), ("hugetlb.2MB.rsvd.limit_in_bytes", "mmap")],
)
def test_a_group_that_limits_huge_pages_is_named(group, limit, call):
    (group / limit).write_text(str(4 * FRAME_SIZE))
    code = f"""
import os, sys
open({str(group / "cgroup.procs")!r}, "w").write(str(os.getpid()))
from mrm.errors import FundingError
from mrm.physical.funding import fund
os.close(fund(8 << 20, huge="require").fd)
for threads in (1, 2):
    try:
        fund(32 << 20, huge="require", threads=threads)
    except FundingError as error:
        assert error.call == {call!r}, error.call
        assert {limit!r} in str(error) and "8 MiB" in str(error), error
    else:
        sys.exit("funded beyond the limit")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
