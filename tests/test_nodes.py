"""Two nodes: memory lies where it was asked for, or an error says what each node has.

Where it lies is asked of move_pages, page by page, through the pool's own window. The
thread's memory policy is its own business: it is the same before and after, whether a
pool came of it or not, and it does not decide where a pool with a node of its own lies.
"""

import json
import mmap
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from helpers import FRAME, in_child
from machine import needs_nodes, throwaway
from onnodes import BIND, DEFAULT, INTERLEAVE, NODES, PREFERRED, bound, free, needs_free, places, policy

import mrm
from mrm.physical.limits import huge_pages, memory_nodes, nodes
from mrm.tools.doctor import facts

pytestmark = [needs_nodes(2), pytest.mark.timeout(600)]

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
