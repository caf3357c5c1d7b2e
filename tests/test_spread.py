"""Where the frames of spread pools come from: shares, shortages, words; on made-up machines of several nodes."""

import ctypes
import re
import warnings

import pytest
from fakenodes import BIND, INTERLEAVE, Kernel, machine, ring
from helpers import FRAME, MIB, open_files, own_mappings

import mrm
from mrm.physical import spread, topology
from mrm.physical.spread import Part, Spread, dividing, levelling
from mrm.physical.topology import Topology

TWO, EIGHT = ring(2, 0, 1), ring(8, 0, 5)


def opened(frames, kind, **options):
    return mrm.Pool(frames * FRAME, huge="require", numa_node=kind, **options)


# ---- what may be asked for -----------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["", "Local", "everywhere", "0", True, False, 0.0, b"local", ["local"]])
def test_what_is_no_node_is_refused_with_what_is_allowed(wrong):
    with pytest.raises(
        mrm.ArgumentError, match=r'numa_node is one of 0.*, "interleave" or "local", not '
    ) as caught:
        mrm.Pool(FRAME, huge="off", numa_node=wrong)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("wrong", [-1, -2, 4095])
def test_a_node_that_is_not_there_is_refused_with_what_is_allowed(wrong):
    with pytest.raises(mrm.ArgumentError, match=f'no NUMA node {wrong}: numa_node is one of 0.*"local"'):
        mrm.Pool(FRAME, huge="off", numa_node=wrong)


# ---- one node ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["interleave", "local"])
def test_one_node_has_nothing_to_spread_and_the_pool_says_so(kind, huge):
    with (
        topology.pretend(ring(1, 0, 0)),
        mrm.system.calls.Script() as script,
        mrm.Pool(4 * FRAME, maximum=8 * FRAME, huge=huge, numa_node=kind) as pool,
    ):
        assert pool.numa_node == kind
        assert (
            f'on NUMA node 0, the only one with memory here: numa_node="{kind}" has nothing'
            in pool.description
        )
        frames = pool.take(4)
        assert pool.deflate(2 * FRAME)
        pool.give(frames)
        pool.audit()
    assert not [name for name, *_ in script.calls() if "mempolicy" in name or name == "mbind"]


@pytest.mark.parametrize("kind", ["interleave", "local"])
def test_one_node_with_huge_pages_among_several_has_all(kind):
    with machine(TWO, {0: 0, 1: 20}) as (kernel, _), warnings.catch_warnings():
        warnings.simplefilter("error")
        with opened(8, kind) as pool:
            assert set(kernel.places.values()) == {1}
            assert "on NUMA node 1, the only one with huge pages here" in pool.description


# ---- shares --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [TWO, EIGHT], ids=["two", "eight"])
@pytest.mark.parametrize("frames", [1, 7, 8, 33, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_local_shares_are_equal_stretches_of_numbers(table, frames, threads):
    with machine(table) as (kernel, _), opened(frames, "local", threads=threads) as pool:
        where = [kernel.places[frame] for frame in range(frames)]
        assert where == sorted(where)
        shares = [where.count(node) for node in table.memory]
        assert sum(shares) == frames
        assert max(shares) - min(shares) <= 1
        for node in set(where):
            first, last = where.index(node), frames - 1 - where[::-1].index(node)
            assert f"frames {first} to {last} on node {node}" in pool.description


@pytest.mark.parametrize("table", [TWO, EIGHT], ids=["two", "eight"])
@pytest.mark.parametrize("frames", [1, 8, 33])
def test_interleaved_frames_come_from_each_node_in_turn(table, frames):
    with machine(table) as (kernel, _), opened(frames, "interleave") as pool:
        assert [kernel.places[f] for f in range(frames)] == [f % len(table.memory) for f in range(frames)]
        for node in set(kernel.places.values()):
            assert f"{list(kernel.places.values()).count(node)} from node {node}" in pool.description


def test_what_may_come_later_has_shares_of_its_own():
    with machine(TWO), opened(6, "local", maximum=16 * FRAME) as pool:
        said = "frames 0 to 2 on node 0, frames 3 to 5 on node 1, frames 6 to 10 on node 0, frames 11 to 15 on node 1"
        assert said in pool.description
        assert pool._missing_by_node() == {0: 5, 1: 5}


def test_parts_larger_than_a_call_are_cut_at_the_borders_of_nodes():
    call = 64 * MIB // FRAME
    half, rest = 2 * call + call // 2 + 2, 2 * call + call // 2 + 1  # neither is a multiple of a call's
    with machine(TWO) as (kernel, _), opened(half + rest, "local", threads=2):
        assert [kernel.places[frame] for frame in range(half + rest)] == [0] * half + [1] * rest
        wanted = [(node, n) for node, share in ((0, half), (1, rest)) for n in (call, call, share - 2 * call)]
        fetched = sorted(kernel.fetched)
        assert [(kernel.places[first], n) for first, n in fetched] == wanted


# ---- a node that has less ------------------------------------------------------------------------


def test_what_a_node_lacks_the_others_make_up_for_and_that_is_said():
    with machine(TWO, {0: 3, 1: 50}) as (kernel, _):
        with pytest.warns(
            mrm.BackingWarning, match="not spread evenly over NUMA .*: 3 on node 0, 13 on"
        ) as told:
            pool = opened(16, "local")
        with pool:
            assert f"`mrm fund {8 * FRAME >> 20}MiB --node 0`" in str(told[0].message)
            assert told[0].filename == __file__
            assert [kernel.places[f] for f in range(16)] == [0] * 3 + [1] * 13
            assert "frames 0 to 2 on node 0, frames 3 to 15 on node 1" in pool.description


def test_a_node_without_any_page_left_is_passed_over():
    """Its pages are all in use: the takers on it are served from the next node, without a look at it each time."""
    with machine(ring(3, 0, 1), {0: 0, 1: 50, 2: 50}) as (kernel, _):
        kernel.total[0] = 8
        with pytest.warns(mrm.BackingWarning, match="0 on node 0, 5 on node 1, 5 on node 2"):
            pool = opened(10, "local")
        with pool:
            assert sorted(pool.take(10)) == list(range(10))
            pool.give(range(10))
            pool.audit()


def test_interleaving_passes_over_a_node_that_has_no_more_and_says_so():
    with machine(TWO, {0: 3, 1: 50}) as (kernel, _):
        with pytest.warns(mrm.BackingWarning, match="3 on node 0, 13 on node 1"):
            pool = opened(16, "interleave")
        with pool:
            assert list(kernel.places.values()).count(0) == 3
            assert "3 from node 0, 13 from node 1" in pool.description


def test_a_warning_that_is_an_error_leaves_no_pool():
    with machine(TWO, {0: 3, 1: 50}), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(mrm.BackingWarning):
            opened(16, "local")


@pytest.mark.parametrize("kind", ["interleave", "local"])
def test_too_few_on_all_nodes_together_is_an_error_with_the_way_out(kind):
    with machine(TWO, {0: 3, 1: 5}), pytest.raises(mrm.FundingError) as caught:
        opened(16, kind)
    said = str(caught.value)
    assert caught.value.call == "mmap"
    assert "huge pages of 2 MiB on NUMA nodes 0, 1 cannot be funded" in said
    assert f"`mrm fund {8 * FRAME >> 20}MiB --node 0`, `mrm fund {8 * FRAME >> 20}MiB --node 1`" in said


def test_a_neighbour_that_takes_a_nodes_pages_after_our_look_is_an_error_and_nothing_is_left():
    """The reservation is the machine's, so it is had; then the node has too few, and nothing else is taken."""
    with machine(TWO, {0: 8, 1: 50}) as (kernel, _):
        looked = spread.spreading

        before = open_files(), own_mappings()

        def robbed(*arguments):
            found = looked(*arguments)
            kernel.free[0] = 2
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mrm.physical.funding.spreading", robbed)
            with pytest.raises(mrm.FundingError, match=r"fallocate says No space left.*--node 0`"):
                opened(16, "local")
        assert (open_files(), own_mappings()) == before


@pytest.mark.parametrize("place", [1, -2])
def test_memory_that_does_not_lie_where_its_share_is_is_refused(place, monkeypatch):
    def lies(self, count, pages, _, where):
        (ctypes.c_int * count).from_address(where)[:] = [place] * count

    monkeypatch.setattr(Kernel, "_tell", lies)
    with machine(TWO), pytest.raises(mrm.FundingError, match="4 of 4 frames came from another node than 0"):
        opened(8, "local")
    if place < 0:
        with (
            machine(TWO),
            pytest.raises(mrm.FundingError, match="does not say of all frames where they lie: 8"),
        ):
            opened(8, "interleave")


# ---- how it is asked for -------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "mode"), [("local", BIND), ("interleave", INTERLEAVE)])
def test_the_callers_policy_is_never_changed(kind, mode):
    with machine(TWO) as (kernel, _):
        asked, before = [], kernel._policy
        call = kernel.call

        def seen(name, *arguments):
            if name == "set_mempolicy":
                asked.append(arguments[0])
            return call(name, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            for module in ("filling", "placement"):
                patch.setattr(f"mrm.physical.{module}.system_call", seen)
            opened(16, kind).close()
        assert mode in asked
        assert not hasattr(before, "now"), "the policy of the thread that opened the pool was set"


# ---- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "room", "shares"),
    [
        (10, {0: 10, 1: 10}, {0: 5, 1: 5}),
        (11, {0: 10, 1: 10}, {0: 6, 1: 5}),
        (10, {0: 2, 1: 10}, {0: 2, 1: 8}),
        (10, {0: 10, 1: 0}, {0: 10, 1: 0}),
        (12, {0: 1, 3: 3, 5: 20}, {0: 1, 3: 3, 5: 8}),
        (12, {0: 4, 3: 3, 5: 5}, {0: 4, 3: 3, 5: 5}),
        (12, {0: 4, 3: 3, 5: 4}, {0: 4, 3: 4, 5: 4}),
        (0, {0: 4, 1: 4}, {0: 0, 1: 0}),
        (5, {}, {}),
    ],
)
def test_shares(count, room, shares):
    assert dividing(count, room) == shares


def test_levelling_leaves_what_is_left_as_even_as_can_be():
    assert levelling({0: 5, 1: 9}, 6) == {0: 1, 1: 5}
    assert levelling({0: 5, 1: 9}, 3) == {0: 0, 1: 3}
    assert levelling({0: 1, 1: 1}, 9) == {0: 1, 1: 1}
    assert levelling({}, 9) == {}


# ---- a file that is kept -------------------------------------------------------------------------


def parts_after(known, funded, numbers):
    half, rest = funded // 2, numbers - funded
    parts = [Part(0, 0, half), Part(1, half, funded - half)]
    if rest:
        parts += [Part(0, funded, rest // 2), Part(1, funded + rest // 2, rest - rest // 2)]
    found = Spread("local", [0, 1], TWO, funded, parts=parts)
    found.regroup(known)
    return [(part.node, part.first, part.count) for part in found.parts]


def test_kept_frames_belong_to_where_they_lie():
    assert parts_after([0, 0, 1, 1], 4, 4) == [(0, 0, 2), (1, 2, 2)]
    assert parts_after([0, 1, 1, 1], 4, 4) == [(0, 0, 1), (1, 1, 3)]
    assert parts_after([0, 0, 1, 1], 8, 8) == [(0, 0, 2), (1, 2, 6)]
    assert parts_after([1, 0], 8, 12) == [(1, 0, 1), (0, 1, 3), (1, 4, 4), (0, 8, 2), (1, 10, 2)]
    none = spread.NOWHERE
    assert parts_after([none, 0, none, 1, 1, none], 6, 8) == [(0, 0, 3), (1, 3, 3), (0, 6, 1), (1, 7, 1)]
    assert parts_after([none, 1, none], 4, 4) == [(1, 0, 4)]
    with pytest.raises(mrm.FundingError, match="does not say where frames lie"):
        parts_after([0, -14], 4, 4)
    with pytest.raises(mrm.FundingError, match="in 2000 stretches of numbers, and no more than 1024"):
        parts_after([0, 1] * 1000, 2000, 2000)


# ---- the table of the machine --------------------------------------------------------------------


def test_the_machines_table_is_read_from_sys(tmp_path):
    base = tmp_path / "sys/devices/system/node"
    for node, (cpus, distances) in {0: ("0-1", "10 21"), 3: ("2,5", "21 10")}.items():
        (base / f"node{node}").mkdir(parents=True)
        (base / f"node{node}/cpulist").write_text(f"{cpus}\n")
        (base / f"node{node}/distance").write_text(f"{distances}\n")
    (base / "node3/cpu7").mkdir()  # offline: the list has it no more
    (base / "node3/cpumap").write_text("24\n")
    (base / "online").write_text("0,3\n")
    (base / "has_memory").write_text("0,3\n")
    found = topology.topology(tmp_path)
    assert (found.online, found.memory) == ((0, 3), (0, 3))
    assert found.processors == {0: 0, 1: 0, 2: 3, 5: 3, 7: 3}
    assert (found.distance(0, 3), found.distance(3, 3)) == (21, 10)
    assert found.nearest(3, [0, 3]) == [3, 0]


def test_a_machine_without_a_table_has_one_node(tmp_path):
    found = topology.topology(tmp_path)
    assert found == Topology()
    assert (found.distance(0, 0), found.distance(0, 1)) == (10, 20)


def test_nodes_that_are_equally_far_follow_in_a_circle():
    """So that the nodes of a machine do not all go to its first one for more."""
    flat = Topology((0, 1, 2, 3), (0, 1, 2, 3))
    assert flat.nearest(2, [0, 1, 2, 3]) == [2, 3, 0, 1]
    assert EIGHT.nearest(1, [0, 1, 2, 3]) == [1, 2, 0, 3]


def test_the_real_machine_has_a_processor_on_each_node_that_it_is_on():
    found = topology.topology()
    assert set(found.processors.values()) <= set(found.online)
    assert re.fullmatch(r"\d+", str(found.memory[0]))


# ---- C -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "kind"), [("MRM_NODE_INTERLEAVE", "interleave"), ("MRM_NODE_LOCAL", "local")]
)
def test_the_c_interface_has_words_for_both(word, kind):
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    options, opened = ffi.new("mrm_pool_options *"), ffi.new("mrm_pool **")
    options.size = ffi.sizeof("mrm_pool_options")
    options.bytes, options.maximum = 8 * FRAME, 16 * FRAME
    options.huge = wanted = ffi.new("char[]", b"require")
    options.numa_node = getattr(api, word, None) or getattr(ffi.dlopen(None), word)
    with machine(TWO) as (kernel, _):
        assert api.pool_open(options, opened) == 0
        pool, frames, done = opened[0], ffi.new("uint32_t[8]"), ffi.new("uint32_t *")
        assert list(kernel.places.values()).count(1) == 4
        assert f'numa_node="{kind}" has' in ffi.string(api.pool_description(pool)).decode()
        assert api.take_many(pool, frames, 8) == 0
        assert api.give_many(pool, frames, 8, 0) == 0
        assert api.pool_deflate(pool, 8, done) == 0
        assert done[0] == 8
        assert api.pool_audit(pool, ffi.new("mrm_stats *")) == 0
        api.pool_release(pool)
    options.numa_node = -3
    assert api.pool_open(options, opened) == ffi.dlopen(None).MRM_BAD_ARGUMENT
    del wanted
