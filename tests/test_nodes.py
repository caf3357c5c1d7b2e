"""Two nodes: memory lies where it was asked for, or an error says what each node has.

Where it lies is asked of move_pages, page by page, through the pool's own window. The
thread's memory policy is its own business: it is the same before and after, whether a
pool came of it or not, and it does not decide where a pool with a node of its own lies.
"""

import array
import contextlib
import json
import mmap
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from helpers import FRAME, in_child, peek_at
from machine import needs_nodes, throwaway

import mrm
from mrm.physical.limits import huge_pages, memory_nodes, nodes
from mrm.physical.topology import topology
from mrm.system.calls import system_call
from mrm.tools.doctor import facts

pytestmark = [needs_nodes(2), pytest.mark.timeout(600)]

NODES = memory_nodes()
DEFAULT, PREFERRED, BIND, INTERLEAVE = range(4)
_BITS = 1024


# ---- what the kernel says ------------------------------------------------------------------


def policy():
    """This thread's memory policy and its nodes, as ``(mode, mask)``."""
    mode, mask = array.array("i", [-1]), array.array("Q", bytes(_BITS // 8))
    system_call("get_mempolicy", mode.buffer_info()[0], mask.buffer_info()[0], _BITS, 0, 0)
    return mode[0], int.from_bytes(mask.tobytes(), "little")


@contextlib.contextmanager
def bound(mode, *where):
    """This thread under a memory policy, which must be the same at the end."""
    before = policy()
    mask = sum(1 << node for node in where)
    system_call("set_mempolicy", mode, mask.to_bytes(_BITS // 8, "little"), _BITS + 1)
    try:
        assert policy() == (mode, mask)
        yield
        assert policy() == (mode, mask), "the thread's policy was changed"
    finally:
        system_call("set_mempolicy", before[0], before[1].to_bytes(_BITS // 8, "little"), _BITS + 1)


def places(pool):
    """How many pages of a pool lie on each node, as a dict."""
    step = mmap.PAGESIZE if pool.backing == "small" else FRAME
    found = {}
    for frame in range(len(pool)):
        pages = array.array("Q", range(pool.address(frame), pool.address(frame) + FRAME, step))
        for page in pages:
            peek_at(page)
        where = array.array("i", [-1]) * len(pages)
        system_call("move_pages", 0, len(pages), pages.buffer_info()[0], 0, where.buffer_info()[0], 0)
        for node in where:
            found[node] = found.get(node, 0) + 1
    return found


def free(node):
    """Huge pages that are free on a node."""
    return huge_pages(node=node).free


def needs_free(node, pages):
    if free(node) < pages:
        pytest.skip(f"needs {pages} free huge pages on node {node}, and it has {free(node)}")


@pytest.fixture
def uneven():
    """``(rich, poor)``: nodes with many and with few free huge pages."""
    poor, rich = sorted(NODES[:2], key=free)
    if free(poor) == 0 or free(rich) < free(poor) + 10:
        pytest.skip("needs huge pages on both nodes, ten more on one of them")
    return rich, poor


# ---- where it lies ---------------------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("threads", [1, 3])
def test_huge_pages_lie_on_the_node_that_was_asked_for(node, threads):
    needs_free(node, 8)
    before = {other: free(other) for other in NODES}
    with mrm.Pool(8 * FRAME, huge="require", numa_node=node, threads=threads) as pool:
        assert places(pool) == {node: 8}
        assert {other: before[other] - free(other) for other in NODES} == {
            other: 8 * (other == node) for other in NODES
        }
    assert {other: free(other) for other in NODES} == before


@pytest.mark.parametrize("node", NODES)
def test_small_pages_lie_on_the_node_that_was_asked_for(node):
    with mrm.Pool(4 * FRAME, huge="off", numa_node=node) as pool:
        assert places(pool) == {node: 4 * FRAME // mmap.PAGESIZE}


@pytest.mark.parametrize("mode", [DEFAULT, PREFERRED, BIND, INTERLEAVE])
@pytest.mark.parametrize("huge", ["require", "off"])
def test_the_threads_policy_neither_decides_nor_is_changed(mode, huge):
    node, other = NODES[:2]
    needs_free(node, 8)
    where = {DEFAULT: (), PREFERRED: (other,), BIND: (other,), INTERLEAVE: NODES}[mode]
    with bound(mode, *where), mrm.Pool(8 * FRAME, huge=huge, numa_node=node) as pool:
        assert set(places(pool)) == {node}
        frame = pool.take()
        with pool.open_view() as view, pool.reserve(2) as reservation:
            with reservation.batch() as batch:
                batch.map(0, frame)
            view.retire()
        pool.give(frame)


def test_a_thread_bound_to_the_poor_node_gets_its_pool_on_the_rich_one(uneven):
    """More than the thread's own node has: the kernel must not hold its policy against the pool."""
    rich, poor = uneven
    frames = free(poor) + 5
    with bound(BIND, poor), mrm.Pool(frames * FRAME, huge="require", numa_node=rich) as pool:
        assert places(pool) == {rich: frames}


@pytest.mark.parametrize("node", NODES)
def test_without_a_node_the_threads_policy_decides(node):
    needs_free(node, 8)
    with bound(BIND, node), mrm.Pool(8 * FRAME, huge="require", threads=2) as pool:
        assert places(pool) == {node: 8}


def test_a_file_on_a_mount_lies_on_its_node(mount):
    node = NODES[-1]
    needs_free(node, 4)
    with mrm.Pool(4 * FRAME, path=mount, numa_node=node) as pool:
        assert places(pool) == {node: 4}


# ---- a node that is short --------------------------------------------------------------------


@pytest.mark.parametrize("mode", [DEFAULT, BIND, INTERLEAVE])
def test_a_node_that_is_short_is_an_error_that_says_what_each_has(uneven, mode):
    rich, poor = uneven
    before = {node: free(node) for node in NODES}
    wanted = free(poor) + 1
    where = {DEFAULT: (), BIND: (rich,), INTERLEAVE: NODES}[mode]
    with bound(mode, *where), pytest.raises(mrm.FundingError) as caught:
        mrm.Pool(wanted * FRAME, huge="require", numa_node=poor)
    said = str(caught.value)
    assert f"{wanted} huge pages of {FRAME >> 20} MiB are needed on node {poor}" in said
    for node in NODES:
        assert f"node {node} has {free(node)} of {huge_pages(node=node).total} free" in said
    assert f"mrm fund {wanted * FRAME >> 20}MiB --node {poor}" in said
    assert {node: free(node) for node in NODES} == before


def test_preferred_huge_pages_that_a_node_lacks_become_small_ones_there(uneven):
    _, poor = uneven
    before = {node: free(node) for node in NODES}
    wanted = free(poor) + 1
    with pytest.warns(mrm.BackingWarning, match=f"node {poor} has {free(poor)} of") as caught:
        pool = mrm.Pool(wanted * FRAME, huge="prefer", numa_node=poor)
    with pool:
        assert len(caught) == 1
        assert pool.backing in ("thp", "small")
        assert set(places(pool)) == {poor}
        assert f"on NUMA node {poor}" in str(caught[0].message)
        assert {node: free(node) for node in NODES} == before


def test_a_thread_bound_to_a_node_that_is_short_is_told_of_its_policy(uneven):
    rich, poor = uneven
    wanted = free(poor) + 1
    with bound(BIND, poor), pytest.raises(mrm.FundingError) as caught:
        mrm.Pool(wanted * FRAME, huge="require")
    said = str(caught.value)
    assert f"{free(poor)} are free on node {poor}, whose memory alone this thread's memory policy" in said
    assert f"node {rich} has {free(rich)} of" in said


def test_more_memory_than_a_node_has_is_not_even_tried():
    node = NODES[-1]
    info = Path(f"/sys/devices/system/node/node{node}/meminfo").read_text()
    total = next(int(line.split()[-2]) << 10 for line in info.splitlines() if "MemTotal" in line)
    with pytest.raises(mrm.FundingError, match=f"is available on node {node}"):
        mrm.Pool(-(-total // FRAME) * FRAME, huge="off", numa_node=node)


def test_every_call_of_a_pool_on_a_node_failing_in_turn(uneven):
    """Whatever fails, the policy is the thread's own, and nothing is left of the pool."""
    rich, _ = uneven
    before = {node: free(node) for node in NODES}
    kinds = ["memfd_create", "ftruncate", "mmap", "madvise", "fallocate", "set_mempolicy", "move_pages"]
    failed = set()
    with bound(BIND, rich):
        for turn in range(1, 16):
            with mrm.system.calls.Script(fail=turn, kinds=kinds) as script:
                try:
                    mrm.Pool(2 * FRAME, huge="require", numa_node=rich, threads=1).close()
                except (mrm.FundingError, mrm.AddressSpaceError, mrm.Error):
                    failed.add(next(name for name, _, result in script.calls() if result == -12))
            assert policy() == (BIND, 1 << rich)
    assert {"memfd_create", "ftruncate", "mmap", "set_mempolicy", "move_pages"} <= failed
    assert {node: free(node) for node in NODES} == before


# ---- on several nodes at once ----------------------------------------------------------------


def lying(pool):
    """The node of each frame that has memory, as the kernel says; frames are touched first."""
    found = {}
    for frame in range(len(pool)):
        if pool.state_of(frame) != "inflated":
            peek_at(pool.address(frame))
            found[frame] = pool.node_of(frame)
    return found


def processor_of(node):
    """A processor on a node."""
    mine = os.sched_getaffinity(0)
    found = [cpu for cpu, place in topology().processors.items() if place == node and cpu in mine]
    if not found:
        pytest.skip(f"no processor of node {node} may be used")
    return found[0]


@pytest.fixture
def processors():
    """This thread may be bound to a processor, until the test ends."""
    before = os.sched_getaffinity(0)
    yield lambda node: os.sched_setaffinity(0, {processor_of(node)})
    os.sched_setaffinity(0, before)


def needs_even(pages):
    for node in NODES:
        needs_free(node, pages)


@pytest.mark.parametrize("mode", [DEFAULT, BIND, INTERLEAVE])
@pytest.mark.parametrize("threads", [1, 3])
def test_local_frames_lie_on_the_node_of_their_share(mode, threads):
    needs_even(8)
    before = {node: free(node) for node in NODES}
    where = {DEFAULT: (), BIND: NODES[-1:], INTERLEAVE: NODES}[mode]
    frames = 8 * len(NODES)
    with (
        bound(mode, *where),
        mrm.Pool(frames * FRAME, huge="require", numa_node="local", threads=threads) as pool,
    ):
        assert list(lying(pool).values()) == [node for node in NODES for _ in range(8)]
        assert {node: before[node] - free(node) for node in NODES} == dict.fromkeys(NODES, 8)
        assert f"frames 0 to 7 on node {NODES[0]}, frames 8 to 15 on node {NODES[1]}" in pool.description
    assert {node: free(node) for node in NODES} == before


@pytest.mark.parametrize("mode", [DEFAULT, BIND])
def test_interleaved_frames_lie_on_each_node_in_turn(mode):
    needs_even(8)
    frames = 6 * len(NODES)
    with (
        bound(mode, *(NODES[:1] if mode else ())),
        mrm.Pool(frames * FRAME, maximum=2 * frames * FRAME, huge="require", numa_node="interleave") as pool,
    ):
        assert lying(pool) == {f: NODES[f % len(NODES)] for f in range(frames)}
        assert pool.inflate(5 * FRAME)
        assert pool.deflate(7 * FRAME, threads=2)
        assert lying(pool) == {f: NODES[f % len(NODES)] for f in range(frames + 2)}
        pool.audit()


@pytest.mark.parametrize("kind", ["local", "interleave"])
def test_small_pages_are_spread_as_well(kind):
    with mrm.Pool(4 * len(NODES) * FRAME, huge="off", numa_node=kind) as pool:
        assert places(pool) == dict.fromkeys(NODES, 4 * FRAME // mmap.PAGESIZE)
        if kind == "local":
            assert list(lying(pool).values()) == [node for node in NODES for _ in range(4)]


@pytest.mark.parametrize("huge", ["require", "off"])
def test_a_take_is_of_the_node_that_the_processor_is_on(processors, huge):
    if huge == "require":
        needs_even(8)
    with mrm.Pool(8 * len(NODES) * FRAME, huge=huge, numa_node="local") as pool:
        where = lying(pool)
        for node in NODES:
            processors(node)
            taken = [pool.take() for _ in range(5)]
            assert {where[f] for f in taken} == {node}
            pool.give(taken)
        processors(NODES[0])
        taken = [pool.take() for _ in range(len(pool))]  # all of it, near first
        assert [where[f] for f in taken[:8]] == NODES[:1] * 8
        with pytest.raises(mrm.OutOfFrames):
            pool.take()
        for frame in taken:
            pool.give(frame)
        processors(NODES[1])
        run = pool.take_run(8)
        assert {where[f] for f in run} == {NODES[1]}
        pool.give(run)
        pool.audit()


def test_threads_pinned_to_different_nodes_have_frames_of_their_own():
    needs_even(16)
    with mrm.Pool(16 * len(NODES) * FRAME, huge="require", numa_node="local") as pool:
        where, strays, failures = lying(pool), [], []

        def body(node):
            try:
                os.sched_setaffinity(0, {processor_of(node)})
                for turn in range(150):
                    mine = list(pool.take(3)) if turn % 2 else [pool.take(), pool.take()]
                    strays.extend((node, f) for f in mine if where[f] != node)
                    pool.give(mine)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=body, args=(NODES[i % 2],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert strays == []
        pool.audit()


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_comes_back_to_the_node_that_it_was_on(threads):
    needs_even(12)
    frames, before = 8 * len(NODES), {node: free(node) for node in NODES}
    with (
        bound(BIND, NODES[0]),
        mrm.Pool(frames * FRAME, maximum=frames * 2 * FRAME, huge="require", numa_node="local") as pool,
    ):
        where = lying(pool)
        assert pool.inflate(6 * len(NODES) * FRAME)
        assert {node: before[node] - free(node) for node in NODES} == dict.fromkeys(NODES, 2)
        assert pool.deflate(10 * len(NODES) * FRAME, threads=threads)
        assert {node: before[node] - free(node) for node in NODES} == dict.fromkeys(NODES, 12)
        now = lying(pool)
        assert {f: now[f] for f in where} == where
        assert policy() == (BIND, 1 << NODES[0])
        pool.audit()
    assert {node: free(node) for node in NODES} == before


def test_a_node_that_is_short_gives_what_it_has_and_the_others_the_rest(uneven):
    rich, poor = uneven
    with mrm.Pool(2 * FRAME, maximum=2 * free(poor) * FRAME, huge="require", numa_node="local") as pool:
        with mrm.Pool((free(poor) - 3) * FRAME, huge="require", numa_node=poor):
            done = pool.deflate(8 * FRAME)  # half of which is more than the poor one has
            assert (free(poor), done.frames, done.error) == (0, 8, None)
            missing = pool._missing_by_node()
            assert missing[poor] - missing[rich] == 2
            short = pool.deflate(pool.maximum - pool.size)
            assert short.frames == missing[rich]
            assert f"NUMA node {poor} has 0 of" in str(short.error)
            assert f"--node {poor}`" in str(short.error)
            pool.audit()
        assert pool.deflate(missing[poor] * FRAME)
        pool.audit()


def test_unequal_shares_are_funded_with_a_warning(uneven):
    _, poor = uneven
    frames = 2 * free(poor) + 4
    before = {node: free(node) for node in NODES}
    with pytest.warns(mrm.BackingWarning, match=f"{free(poor)} on node {poor}") as caught:
        pool = mrm.Pool(frames * FRAME, huge="require", numa_node="local")
    with pool:
        assert len(caught) == 1
        assert f"--node {poor}`" in str(caught[0].message)
        assert list(lying(pool).values()).count(poor) == before[poor]
        assert free(poor) == 0
        pool.audit()
    assert {node: free(node) for node in NODES} == before


@pytest.mark.parametrize("kind", ["local", "interleave"])
def test_too_few_on_all_nodes_is_an_error_that_says_what_each_has(kind):
    before = {node: free(node) for node in NODES}
    wanted = sum(before.values()) + 1
    with pytest.raises(mrm.FundingError) as caught:
        mrm.Pool(wanted * FRAME, huge="require", numa_node=kind)
    for node in NODES:
        assert f"node {node} has {free(node)} of {huge_pages(node=node).total} free" in str(caught.value)
    assert "For even shares, as root: `mrm fund" in str(caught.value)
    assert {node: free(node) for node in NODES} == before


@pytest.mark.parametrize("kind", ["local", "interleave"])
def test_every_call_of_a_spread_pool_failing_in_turn(kind):
    needs_even(4)
    before = {node: free(node) for node in NODES}
    kinds = ["memfd_create", "ftruncate", "mmap", "madvise", "fallocate", "set_mempolicy", "move_pages"]
    failed = set()
    with bound(BIND, NODES[0]):
        for turn in range(1, 20):
            with mrm.system.calls.Script(fail=turn, kinds=kinds) as script:
                try:
                    mrm.Pool(4 * FRAME, huge="require", numa_node=kind, threads=1).close()
                except mrm.Error:
                    failed.add(next(name for name, _, result in script.calls() if result == -12))
            assert policy() == (BIND, 1 << NODES[0])
    assert {"memfd_create", "ftruncate", "mmap", "set_mempolicy", "move_pages"} <= failed
    assert {node: free(node) for node in NODES} == before


def test_a_kept_file_has_its_frames_where_they_lie(mount):
    """Also where a node's share was another when it was made, and what comes on top has equal shares."""
    needs_even(8)
    path = mount / "heap"
    with mrm.Pool(3 * FRAME, path=path, numa_node=NODES[1]):
        pass
    with mrm.Pool(8 * FRAME, path=path, keep=True, numa_node="local") as pool:
        where = lying(pool)
        assert [where[f] for f in range(3)] == NODES[1:2] * 3
        assert where[3] == NODES[0]
        assert [where[f] for f in range(4, 8)] == NODES[1:2] * 4
        assert f"frames 0 to 2 on node {NODES[1]}, frames 3 to 3 on node {NODES[0]}" in pool.description
        assert list(pool.kept) == [0, 1, 2]
        pool.give(pool.kept)
        os_before = os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {processor_of(NODES[0])})
            assert where[pool.take()] == NODES[0]
            assert where[pool.take()] == NODES[1]
        finally:
            os.sched_setaffinity(0, os_before)
        pool.audit()
    with mrm.Pool(8 * FRAME, path=path, keep=True, numa_node="local") as pool:
        assert lying(pool) == where


def test_a_kept_file_with_a_balloon_has_its_frames_where_they_lie(mount):
    """What was inflated stays so, and comes back to the node that it was on."""
    needs_even(8)
    path, frames = mount / "heap", 4 * len(NODES)
    with mrm.Pool(frames * FRAME, maximum=2 * frames * FRAME, path=path, numa_node="local") as pool:
        where = lying(pool)
        assert pool.inflate((frames - 3) * FRAME)
        inflated = [f for f in where if pool.state_of(f) == "inflated"]
    options = {"maximum": 2 * frames * FRAME, "path": path, "keep": True, "numa_node": "local"}
    with mrm.Pool(FRAME, **options) as pool:
        assert lying(pool) == {f: node for f, node in where.items() if f not in inflated}
        assert pool.deflate(3 * FRAME)
        assert {f: where.get(f) for f in lying(pool)}.items() <= where.items()
        pool.audit()
    with mrm.Pool(frames * FRAME, **options) as pool:
        assert len(lying(pool)) == frames
        pool.audit()


@throwaway
def test_pages_go_on_to_the_system_from_their_nodes_and_come_back(uneven):
    needs_even(8)
    before = {node: huge_pages(node=node).total for node in NODES}
    frames = 8 * len(NODES)
    with mrm.Pool(frames * FRAME, huge="require", numa_node="local") as pool:
        assert pool.inflate(4 * len(NODES) * FRAME, to="system")
        assert {node: before[node] - huge_pages(node=node).total for node in NODES} == dict.fromkeys(NODES, 4)
        assert pool.deflate(4 * len(NODES) * FRAME, source="system")
        assert {node: huge_pages(node=node).total for node in NODES} == before
        assert list(lying(pool).values()) == [node for node in NODES for _ in range(8)]
        pool.audit()
    assert {node: huge_pages(node=node).total for node in NODES} == before


# ---- nodes that are out of reach -------------------------------------------------------------


@throwaway
def test_a_node_that_the_cpuset_forbids_is_named(cpuset):
    (cpuset / "cpuset.mems").write_text(str(NODES[0]))
    code = f"""
    open("{cpuset}/cgroup.procs", "w").write(str(os.getpid()))
    for kind in ("require", "off", "prefer"):
        try:
            mrm.Pool(4 * FRAME, huge=kind, numa_node={NODES[1]})
        except mrm.FundingError as error:
            assert "may use memory of node {NODES[0]} only, and not of node {NODES[1]}" in str(error), error
            assert "cpuset.mems" in str(error), error
        else:
            sys.exit(kind)
    mrm.Pool(4 * FRAME, huge="off", numa_node={NODES[0]}).close()
    """
    ending = in_child(code, timeout=300)
    assert ending.code == 0, ending


@throwaway
def test_pages_that_the_cpuset_puts_out_of_reach_are_not_counted(cpuset, uneven):
    """Enough on the machine, and too few on the node that the process may use."""
    rich, poor = uneven
    (cpuset / "cpuset.mems").write_text(str(poor))
    code = f"""
    open("{cpuset}/cgroup.procs", "w").write(str(os.getpid()))
    try:
        mrm.Pool({free(poor) + 1} * FRAME, huge="require")
    except mrm.FundingError as error:
        assert "{free(poor)} are free on node {poor}, whose memory alone" in str(error), error
        assert "node {rich} has {free(rich)} of" in str(error), error
    else:
        sys.exit("got them")
    mrm.Pool(FRAME, huge="require").close()
    """
    ending = in_child(code, timeout=300)
    assert ending.code == 0, ending


@pytest.mark.skipif(nodes() == memory_nodes(), reason="every node has memory here")
def test_a_node_without_memory_is_refused_by_name():
    (node, *_) = set(nodes()) - set(memory_nodes())
    for huge in ("require", "off"):
        with pytest.raises(mrm.FundingError, match=f"node {node} has no memory of its own"):
            mrm.Pool(4 * FRAME, huge=huge, numa_node=node)


# ---- the tools -----------------------------------------------------------------------------


def mrm_command(*arguments):
    """Exit status and JSON of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "mrm.tools.cli", *arguments, "--json"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@throwaway
@pytest.mark.parametrize("node", NODES)
def test_fund_raises_the_pages_of_its_node_alone(node):
    pytest.importorskip("click")
    before = {other: huge_pages(node=other) for other in NODES}
    more = before[node].free + 6
    setting = f"/sys/devices/system/node/node{node}/hugepages/hugepages-{FRAME >> 10}kB/nr_hugepages"
    status, said = mrm_command("fund", f"{more * FRAME >> 20}MiB", "--node", str(node))
    try:
        assert status == 0, said
        assert (said["added"], said["node"], free(node)) == (6, node, more)
        assert said["persist"]["line"] == f"w {setting} - - - - {before[node].total + 6}"
        for other in set(NODES) - {node}:
            assert huge_pages(node=other) == before[other]
        assert mrm_command("fund", f"{more * FRAME >> 20}MiB", "--node", str(node))[1]["added"] == 0
    finally:
        status, said = mrm_command("fund", "--release", f"{6 * FRAME >> 20}MiB", "--node", str(node))
    assert (status, said["added"]) == (0, -6)
    assert {other: huge_pages(node=other) for other in NODES} == before


def test_the_doctor_says_what_each_node_has():
    found = {finding.name: finding for finding in facts.huge_page_pools()}
    for node in NODES:
        pages = huge_pages(node=node)
        finding = found[f"of {FRAME >> 20} MiB on node {node}"]
        assert finding.value == f"{pages.total} in all, {pages.free} free, {pages.surplus} surplus"
        assert bool(finding.advice) == (pages.free == 0)
    there = {finding.name: finding for finding in facts.machine()}["NUMA nodes"]
    assert str(there.value).startswith(str(len(nodes())))


def test_the_doctor_says_which_nodes_are_out_of_reach(tmp_path):
    for name, text in {
        "sys/devices/system/node/online": "0-2",
        "sys/devices/system/node/has_memory": "0-1",
        "proc/self/status": "Name:\tx\nMems_allowed_list:\t1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    finding = {finding.name: finding for finding in facts.machine(tmp_path)}["NUMA nodes"]
    assert finding.value == "3, memory of node 1 allowed"


def test_warnings_are_the_only_way_to_small_pages(uneven):
    """Made an error, the warning leaves no pool, and no page of the poor node."""
    _, poor = uneven
    before = free(poor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mrm.BackingWarning):
            mrm.Pool((before + 1) * FRAME, numa_node=poor)
    assert free(poor) == before
