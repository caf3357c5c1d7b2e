"""Two nodes: pools that are spread over them have each frame where it belongs, and take it where it is near.

What decides that is tried on made-up machines in test_spread.py and test_near.py; here the kernel says
where each page lies.
"""

import mmap
import os
import threading

import pytest
from helpers import FRAME, peek_at, running_on
from machine import needs_nodes, throwaway
from onnodes import BIND, DEFAULT, INTERLEAVE, NODES, bound, free, needs_free, places, policy

import mrm
from mrm.physical.limits import huge_pages
from mrm.physical.topology import topology

pytestmark = [needs_nodes(2), pytest.mark.timeout(600)]

PROCESSORS = os.sched_getaffinity(0)  # before a test binds itself to one


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
    found = [cpu for cpu, place in topology().processors.items() if place == node and cpu in PROCESSORS]
    if not found:
        pytest.skip(
            f"no processor of node {node} may be used: run it without taskset, or in a cpuset that has one"
        )
    return found[0]


def needs_even(pages):
    """Skip the test where any node has fewer free huge pages."""
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
            processors(processor_of(node))
            taken = [pool.take() for _ in range(5)]
            assert {where[f] for f in taken} == {node}
            pool.give(taken)
        processors(processor_of(NODES[0]))
        taken = [pool.take() for _ in range(len(pool))]  # all of it, near first
        assert [where[f] for f in taken[:8]] == NODES[:1] * 8
        with pytest.raises(mrm.OutOfFrames):
            pool.take()
        for frame in taken:
            pool.give(frame)
        processors(processor_of(NODES[1]))
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
        with running_on(processor_of(NODES[0])):
            assert where[pool.take()] == NODES[0]
            assert where[pool.take()] == NODES[1]
        pool.audit()
    with mrm.Pool(8 * FRAME, path=path, keep=True, numa_node="local") as pool:
        assert lying(pool) == where


def test_a_kept_file_with_a_balloon_has_its_frames_where_they_lie(mount, processors):
    """What was inflated stays so, and what comes back belongs to where its memory comes from."""
    needs_even(8)
    path, frames = mount / "heap", 4 * len(NODES)
    with mrm.Pool(frames * FRAME, maximum=2 * frames * FRAME, path=path, numa_node="local") as pool:
        where = lying(pool)
        assert pool.inflate((frames - 3) * FRAME)
        inflated = [f for f in where if pool.state_of(f) == "inflated"]
    options = {"maximum": 2 * frames * FRAME, "path": path, "keep": True, "numa_node": "local"}
    with mrm.Pool(FRAME, **options) as pool:
        assert lying(pool) == {f: node for f, node in where.items() if f not in inflated}
        kept = lying(pool)
        assert pool.deflate(4 * FRAME)
        now = lying(pool)
        assert kept.items() <= now.items()
        fresh = {f: node for f, node in now.items() if f not in kept}
        assert len(fresh) == 4
        for node in list(fresh.values()):
            processors(processor_of(node))
            frame = pool.take()
            assert fresh.pop(frame) == node, "another node's frame was taken while this one had some"
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
