"""Fixtures: pools on huge and on small pages, and the proof that a test left nothing behind."""

import contextlib
import gc
import os
import pathlib
import subprocess
from types import SimpleNamespace

import heaping
import pytest
from fakeheap import FakeHeap
from helpers import FRAME, MANY, FakePool, open_files, own_mappings, stamp_all
from limited import own_mounts
from machine import NOT_TRIED
from madeup import Kernel
from onnodes import NODES, free
from sharing import KINDS, SIZE, options_of

import mrm
import mrm.system.calls
import mrm.system.features
from mrm.tools.watch.find import owned

_WANTED = 32 * FRAME
# MRM_TEST_WITHOUT=all, or names with commas between: the whole run goes the ways of a kernel
# that lacks these.
_WITHOUT = tuple(filter(None, os.environ.get("MRM_TEST_WITHOUT", "").split(",")))
if _WITHOUT == ("all",):
    _WITHOUT = mrm.system.features.NAMES
_unavailable = None  # why there are no huge pages, once that is known


def _huge_pages_missing():
    """Why huge pages cannot be had here, or an empty string; tried once."""
    global _unavailable
    if _unavailable is None:
        try:
            mrm.Pool(_WANTED, huge="require").close()
            _unavailable = ""
        except mrm.FundingError as error:
            _unavailable = str(error)
    return _unavailable


def pytest_sessionstart():
    """Every feature is tried before the first test makes a system call fail."""
    mrm.features()
    _huge_pages_missing()
    mrm.system.features.pretend_missing(_WITHOUT)


def pytest_terminal_summary(terminalreporter):
    missing = mrm.system.features.missing_features()
    if missing:
        terminalreporter.section("features of the kernel that are missing, or pretended to be")
        terminalreporter.line(", ".join(missing))
    if _unavailable:
        terminalreporter.section("WITHOUT HUGE PAGES", red=True, bold=True)
        terminalreporter.line(
            "Every test on huge pages was skipped: nothing is proven about what mrm is for."
        )
        terminalreporter.line(_unavailable)
    for what, reason in NOT_TRIED.items():
        terminalreporter.section(f"NOT TRIED: {what}", red=True, bold=True)
        terminalreporter.line(reason)


@pytest.fixture(params=["require", "off"], ids=["huge", "small"])
def huge(request):
    """``huge=`` of the pools of this test."""
    if request.param == "require" and _huge_pages_missing():
        pytest.skip("no huge pages: " + _huge_pages_missing())
    return request.param


@pytest.fixture
def needs_huge():
    """For tests that make sense on huge pages only."""
    if _huge_pages_missing():
        pytest.skip("no huge pages: " + _huge_pages_missing())


@pytest.fixture
def pool(huge):
    """16 frames; audited at the end, unless the test has closed it."""
    pool = mrm.Pool(16 * FRAME, huge=huge, name="test")
    yield pool
    if not pool.closed:
        pool.audit()
        pool.close()


@pytest.fixture(params=heaping.KINDS)
def some_heap(request):
    """A heap on a pool of 64 frames, huge or small, or of private memory; closed at the end."""
    with contextlib.ExitStack() as stack:
        try:
            heap = stack.enter_context(heaping.opened(request.param))
        except mrm.FundingError as error:
            pytest.skip(f"no huge pages: {error}")
        yield heap


@pytest.fixture
def emptied_heap(some_heap):
    """One of each kind without a block at the end, unless the test has closed it."""
    yield some_heap
    gc.collect()
    assert some_heap.closed or not list(some_heap.blocks())


@pytest.fixture
def fake_heap():
    """A heap that is libc's malloc, and knows what it was asked for."""
    heap = FakeHeap()
    yield heap
    gc.collect()
    heap.close()


@pytest.fixture
def numpys_own():
    """NumPy's arrays lie where NumPy has them, once the test is over."""
    yield
    from onheaps import clean  # which needs NumPy

    gc.collect()
    clean()


@pytest.fixture
def fake_pool():
    """MANY frames on the fake, for what touches none of them; audited at the end."""
    with FakePool(MANY) as pool:
        yield pool
        pool.audit()


@pytest.fixture
def mine(pool):
    """A pool of this process, and its books as whoever watches finds them."""
    (books,) = owned(os.getpid())
    with books:
        yield pool, books


@pytest.fixture(params=["private", "on a pool"])
def debug_heap(request):
    """A heap that looks for mistakes, of either kind; a pool's has 16 frames."""
    pool = None if request.param == "private" else mrm.Pool(16 * FRAME, huge="off")
    with mrm.Heap(pool, debug=True) as heap:
        yield heap
    if pool:
        pool.audit()
        pool.close()


@pytest.fixture
def reservation(pool):
    """64 empty slots; compared with the kernel's mappings at the end."""
    reservation = pool.reserve(64)
    yield reservation
    if not reservation.closed:
        reservation.check()
        reservation.close()


@pytest.fixture
def features():
    """``features("name", ...)`` pretends that the kernel lacks these, until the test ends.

    Those that it really lacks, or that the whole run pretends not to have, stay missing.
    """
    before = mrm.system.features.pretended_features()
    yield lambda *names: mrm.system.features.pretend_missing({*names, *_WITHOUT})
    mrm.system.features.pretend_missing(before)


def pytest_collection_finish():
    """Keep what is loaded by now out of the collections that follow each test.

    They are after handles that a test left behind; looking through all modules each time
    takes half of the suite's time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def private_mounts():
    """From the first mount on, mounts are this process's own: they go with it, even if it is killed."""
    try:
        own_mounts()
    except OSError as error:
        pytest.skip(f"needs the right to mount: run as root, outside of a container: {error}")


@pytest.fixture
def hugetlbfs(tmp_path, private_mounts):
    """``hugetlbfs(frames)`` is a mount of that size, as a path; gone with the test."""
    points = []

    def make(frames):
        point = tmp_path / f"huge-{len(points)}"
        point.mkdir()
        options = f"pagesize={FRAME >> 10}K,size={frames * FRAME}"
        command = ["mount", "-t", "hugetlbfs", "-o", options, "none", str(point)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(
                f"no hugetlbfs can be mounted here with {options}: run as root, outside of a container"
            )
        points.append(point)
        return point

    yield make
    for point in points:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def mount(hugetlbfs, needs_huge):
    """A hugetlbfs mount of 32 frames."""
    return hugetlbfs(32)


@pytest.fixture
def heap(mount):
    """A file of 16 frames, stamped by an owner that is gone."""
    path = mount / "heap"
    with mrm.Pool(SIZE, path=path) as pool:
        stamp_all(pool)
    return path


@pytest.fixture(params=KINDS)
def shared(request):
    """A stamped pool on each kind of file that can be shared."""
    with mrm.Pool(SIZE, **options_of(request.param, request)) as pool:
        stamp_all(pool)
        yield pool
        pool.audit()


@pytest.fixture
def teardown_ranges():
    """Takes away addresses that stayed sealed, since their unmapping was made to fail."""
    before = own_mappings()
    yield
    for start, end in own_mappings():
        if [start, end] not in before:
            mrm.system.calls.system_call("munmap", start, end - start)


@pytest.fixture
def kernel(tmp_path):
    """A made-up one: its settings and figures are files below a folder."""
    return Kernel(tmp_path)


@pytest.fixture
def now():
    """A clock that stands until it is set."""
    return SimpleNamespace(time=100.0)


@pytest.fixture
def processors():
    """``processors(n, ...)`` binds this thread to these; however it is bound, that ends with the test."""
    before = os.sched_getaffinity(0)
    yield lambda *wanted: os.sched_setaffinity(0, wanted)
    os.sched_setaffinity(0, before)


@pytest.fixture
def uneven():
    """``(rich, poor)``: nodes with many and with few free huge pages."""
    poor, rich = sorted(NODES[:2], key=free)
    few = free(poor)
    if few == 0 or free(rich) < few + 10:
        few = few or 8
        wanted = [
            f"`mrm fund {n * FRAME >> 20}MiB --node {node}`" for n, node in ((few, poor), (few + 10, rich))
        ]
        pytest.skip(f"needs huge pages on both nodes, ten more on one of them; as root: {', '.join(wanted)}")
    return rich, poor


@pytest.fixture
def cpuset():
    """A control group that can confine to processors and nodes; for machines that are thrown away."""
    root = pathlib.Path("/sys/fs/cgroup")
    if "cpuset" not in (root / "cgroup.controllers").read_text():
        pytest.skip("no cpuset controller of version 2: boot with cgroup_no_v1=all, or run `make matrix`")
    (root / "cgroup.subtree_control").write_text("+cpuset")
    group = root / "mrm-test"
    group.mkdir()
    yield group
    group.rmdir()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No handle, descriptor, mapping or pretended feature may outlive a test."""
    files, mappings = open_files(), own_mappings()
    missing = mrm.system.features.missing_features()
    yield
    gc.collect()
    assert not any(mrm.live_handles().values()), f"left open: {mrm.live_handles()}"
    assert open_files().keys() - files.keys() == set()
    assert own_mappings() == mappings, "addresses were not given back"
    assert mrm.system.features.missing_features() == missing
