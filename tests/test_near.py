"""Local pools on made-up machines of two and of eight nodes: who takes what, and where it goes back to.

On the fake, so the nodes are tables and the frames have no memory; what is real are the free lists and
the processors, two of which are put on any of the nodes. Each take has to be of the nearest node
that has a free frame, whatever was taken, given, inflated and deflated before.
"""

import contextlib
import itertools
import os
import random
import threading

import pytest
from fakenodes import INTERLEAVE, machine, order_of, ring
from helpers import FRAME
from machine import needs_first_processors

import mrm

pytestmark = [needs_first_processors(2), pytest.mark.usefixtures("processors")]

TABLES = [
    ring(2, 0, 1),
    ring(2, 1, 0),
    ring(2, 1, 1),
    ring(3, 1, 1, memory=[0, 2]),
    *(ring(8, a, b) for a, b in [(0, 1), (3, 7), (5, 5), (7, 4)]),
]


def named(table):
    return f"{len(table.online)}-{'-'.join(map(str, table.processors.values()))}-{len(table.memory)}"


def on(processor):
    os.sched_setaffinity(0, {processor})


class Local:
    """A local pool and what should be true of it."""

    def __init__(self, table, frames, maximum=None):
        self.table = table
        self.pool = mrm.Pool(
            frames * FRAME, maximum=(maximum or frames) * FRAME, huge="require", numa_node="local"
        )
        self.nodes = sorted(table.memory)
        self.node = {}
        for count in (frames, (maximum or frames) - frames):
            for i, node in enumerate(self.nodes):
                share = count // len(self.nodes) + (i < count % len(self.nodes))
                for _ in range(share):
                    self.node[len(self.node)] = node
        self.held = []
        self.without = set(range(frames, maximum or frames))
        self.lying = {node: {f for f in self.node if self.node[f] == node} for node in self.nodes}

    def order(self, processor):
        return order_of(self.table, self.table.processors[processor], self.nodes)

    def free(self, node):
        return self.lying[node] - set(self.held) - self.without

    def nearest(self, processor, n):
        """How many of ``n`` frames should come from each node."""
        wanted = {}
        for node in self.order(processor):
            wanted[node] = min(n, len(self.free(node)))
            n -= wanted[node]
        assert n == 0
        return {node: count for node, count in wanted.items() if count}

    def check(self, taken, wanted):
        found = {}
        assert not set(taken) & (set(self.held) | self.without)
        assert len(set(taken)) == len(taken)
        self.held += taken
        for frame in taken:
            found[self.node[frame]] = found.get(self.node[frame], 0) + 1
        assert found == wanted

    def all_free(self):
        return sum(len(self.free(node)) for node in self.nodes)


@contextlib.contextmanager
def local(table, frames, maximum=None):
    with machine(table):
        model = Local(table, frames, maximum)
        with model.pool as pool:
            yield model
            pool.audit()


# ---- one at a time -----------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=named)
@pytest.mark.parametrize("processor", [0, 1])
def test_every_frame_is_taken_the_nearest_first(table, processor):
    with local(table, 45) as model:
        on(processor)
        for _ in range(45):
            wanted = model.nearest(processor, 1)
            model.check([model.pool.take()], wanted)
        with pytest.raises(mrm.OutOfFrames):
            model.pool.take()


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_frames_of_far_nodes_go_back_to_where_they_are_near(table):
    """Else whoever took them would have them again, and nearer ones be left lying."""
    with local(table, 48) as model:
        pool = model.pool
        on(0)
        far = [pool.take() for _ in range(48)]
        for frame in far:
            pool.give(frame)
        for processor in (1, 0):
            on(processor)
            for _ in range(24):
                wanted = model.nearest(processor, 1)
                model.check([pool.take()], wanted)


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_frames_that_another_processor_of_the_node_has_come_before_far_ones(table):
    home = table.processors[1]
    twins = ring(len(table.online), home, home, memory=table.memory)
    with local(twins, 16) as model:
        pool = model.pool
        on(0)
        first = model.order(0)[0]
        near = [pool.take() for _ in model.free(first)]
        for frame in near:
            pool.give(frame)  # all of them are in processor 0's stack
        on(1)
        for _ in near:
            model.check([pool.take()], {first: 1})


@pytest.mark.parametrize("table", TABLES, ids=named)
@pytest.mark.parametrize("seed", range(6))
def test_whatever_happened_before_a_take_is_of_the_nearest_node(table, seed):
    chance = random.Random(f"{seed} {named(table)}")
    frames = chance.choice([20, 45, 200])
    with local(table, frames, frames + 37) as model:
        pool = model.pool
        for _ in range(400):
            processor = chance.randrange(2)
            on(processor)
            what = chance.choice(["take", "take", "many", "give", "gives", "strict", "inflate", "deflate"])
            there = model.all_free()
            if what == "take" and there:
                wanted = model.nearest(processor, 1)
                model.check([pool.take()], wanted)
            elif what == "many" and there:
                n = chance.randint(1, min(there, chance.choice([5, 63, 100])))
                wanted = model.nearest(processor, n)
                model.check(pool.take(n), wanted)
            elif what == "give" and model.held:
                pool.give(model.held.pop(chance.randrange(len(model.held))))
            elif what == "gives" and model.held:
                chance.shuffle(model.held)
                n = chance.randint(1, min(len(model.held), chance.choice([5, 63, 100])))
                pool.give(model.held[:n])
                del model.held[:n]
            elif what == "strict" and model.held:
                pool.give(model.held.pop(), reuse="after_retire")
                pool.retire()
            elif what == "inflate":
                n = chance.randint(0, min(there, 20))
                assert pool.inflate(n * FRAME).frames == n
                now = {f for f in model.node if pool.state_of(f) == "inflated"}
                assert not now & set(model.held)
                assert len(now) == len(model.without) + n
                model.without = now
            elif what == "deflate":
                n = chance.randint(0, min(len(model.without), 20))
                assert pool.deflate(n * FRAME).frames == n
                model.without = {f for f in model.node if pool.state_of(f) == "inflated"}
        pool.audit()
        pool.give(model.held)


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_arrays_come_from_the_nearest_nodes_and_ascend_there(table):
    with local(table, 400) as model:
        on(1)
        wanted = model.nearest(1, 130)
        taken = model.pool.take(130)
        model.check(taken, wanted)
        nodes = [node for node, _ in itertools.groupby(model.node[frame] for frame in taken)]
        assert nodes == [node for node in model.order(1) if node in wanted]
        for _, group in itertools.groupby(taken, lambda frame: model.node[frame]):
            frames = list(group)
            assert frames == list(range(frames[0], frames[0] + len(frames)))


# ---- runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_a_run_lies_on_the_nearest_node_that_has_one(table):
    with local(table, 20 * len(table.memory)) as model:
        on(0)
        for node in model.order(0):
            model.check(model.pool.take_run(16), {node: 16})


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_a_run_that_no_node_has_spans_several(table):
    with local(table, 20 * len(table.memory)) as model:
        on(0)
        pool = model.pool
        run = pool.take_run(25)
        assert len({model.node[f] for f in run}) == 2
        pool.give(run)
        assert pool.take_run(len(pool)) == range(len(pool))
        pool.give(range(len(pool)))
        model.check([pool.take()], {model.order(0)[0]: 1})


@pytest.mark.parametrize("seed", range(8))
def test_runs_within_an_interval_are_the_lowest_there(seed):
    """The bounded search of the bitmap, against a search frame by frame; on both sides of words and of their nodes."""
    chance = random.Random(seed)
    table = ring(3, 0, 1)
    frames = chance.choice([190, 700, 3500])
    with local(table, frames) as model:
        pool = model.pool
        taken = pool.take(frames)
        density = chance.choice([0.5, 0.9, 0.97])
        free = {f for f in taken if chance.random() < density}
        pool.give(sorted(free))  # past the stacks, as so many are: all that is free is in the bitmap
        for _ in range(60):
            n = chance.choice([1, 2, 3, 7, 20, 64, 65, 130])
            processor = chance.randrange(2)
            on(processor)
            wanted = None
            for node in [*model.order(processor), None]:
                for first in sorted(free):
                    run = range(first, first + n)
                    if all(f in free and node in (None, model.node[f]) for f in run):
                        wanted = first
                        break
                if wanted is not None:
                    break
            if wanted is None:
                with pytest.raises(mrm.OutOfFrames):
                    pool.take_run(n)
                continue
            assert pool.take_run(n) == range(wanted, wanted + n)
            free -= set(range(wanted, wanted + n))
            if chance.random() < 0.3 and len(free) < frames - 100:
                back = chance.sample(sorted(set(range(frames)) - free), 64)
                pool.give(back)
                free |= set(back)
        pool.give(sorted(set(range(frames)) - free))


# ---- accounts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_accounts_take_from_near_and_are_charged_for_it(table):
    with local(table, 48) as model:
        pool = model.pool
        heap = pool.account("heap")
        heap.fund(20)
        for processor in (0, 1):
            on(processor)
            wanted = model.nearest(processor, 10)
            taken = heap.take(10)
            model.check(taken, wanted)
            assert {pool.account_of(f).name for f in taken} == {"heap"}
        with pytest.raises(mrm.OutOfFrames):
            heap.take()
        pool.audit()
        pool.give(model.held)
        model.held.clear()
        heap.fund(-20)
        heap.close()
        on(0)
        model.check([pool.take()], model.nearest(0, 1))


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_what_is_lent_comes_from_near_too(table):
    with local(table, 48) as model:
        pool = model.pool
        pool.funds["committed"].transfer("overdraft", 12)
        heap = pool.account("heap")
        heap.fund(2)
        on(1)
        for _ in range(14):
            wanted = model.nearest(1, 1)
            model.check([heap.take(overdraft=True)], wanted)
        assert heap.stats().overdrawn == 12
        pool.give(model.held)
        heap.close()


# ---- zeros -------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=named)
def test_zeros_from_stock_are_of_the_nearest_node(table):
    with local(table, 10 * len(table.memory)) as model:
        pool = model.pool
        pool.give(pool.take(len(pool)))
        heap = pool.account("heap")
        heap.fund(len(pool))
        pool.keep_zeroed(3 * len(table.memory))
        pool.audit()
        while pool.stats().zeroed < 3 * len(table.memory):
            os.sched_yield()
        on(0)
        late = pool.stats().cleared_late
        for _ in range(3):
            wanted = model.nearest(0, 1)
            model.check([heap.take(zeroed=True)], wanted)
        assert pool.stats().cleared_late == late
        for _ in range(len(pool) - 3):
            wanted = model.nearest(0, 1)
            model.check([heap.take(zeroed=True)], wanted)
        pool.audit()
        pool.give(model.held)
        pool.audit()
        heap.close()


# ---- the balloon -------------------------------------------------------------------------------


def balloon(pool):
    """How many frames of each node are without memory."""
    return pool._missing_by_node()


@pytest.mark.parametrize("table", TABLES, ids=named)
@pytest.mark.parametrize("n", [1, 7, 24, 40])
def test_the_balloon_takes_from_all_nodes_as_evenly_as_can_be(table, n):
    with local(table, 48) as model:
        assert model.pool.inflate(n * FRAME)
        shares = balloon(model.pool).values()
        assert sum(shares) == n
        assert max(shares) - min(shares) <= 1
        assert model.pool.deflate(n * FRAME)
        assert set(balloon(model.pool).values()) == {0}


def test_the_balloon_levels_what_is_left():
    """Of a node of which more is held, less goes."""
    with local(ring(2, 0, 1), 40) as model:
        on(0)
        model.check(model.pool.take(15), {0: 15})
        assert model.pool.inflate(9 * FRAME)
        assert balloon(model.pool) == {0: 0, 1: 9}
        assert model.pool.inflate(10 * FRAME)
        assert balloon(model.pool) == {0: 2, 1: 17}
        assert model.pool.deflate(5 * FRAME)
        assert balloon(model.pool) == {0: 2, 1: 12}
        assert model.pool.deflate(14 * FRAME)
        assert balloon(model.pool) == {0: 0, 1: 0}


@pytest.mark.parametrize("kind", ["local", "interleave"])
def test_memory_is_fetched_under_a_policy_and_the_threads_own_is_put_back(kind):
    with (
        machine(ring(2, 0, 1), record=True) as (_, script),
        mrm.Pool(8 * FRAME, maximum=24 * FRAME, huge="require", numa_node=kind) as pool,
    ):
        before = len(script.calls())
        done, error = pool._deflate(16)
        assert (done, error) == (16, None)
        calls = script.calls()[before:]
        names = [name for name, *_ in calls if "mempolicy" in name or name == "fallocate"]
        if kind == "local":
            assert names == ["get_mempolicy", *(["set_mempolicy", "fallocate"] * 2), "set_mempolicy"]
        else:
            assert names == ["get_mempolicy", "set_mempolicy", "fallocate", "set_mempolicy"]
            assert next(a[0] for name, a, _ in calls if name == "set_mempolicy") == INTERLEAVE
        assert [a[0] for name, a, _ in calls if name == "set_mempolicy"][-1] == 0


def test_a_node_that_has_no_more_leaves_it_to_the_others():
    """Every fetch of node 0's fails (the share, then its first frame), and node 1 makes up for it."""
    with machine(ring(2, 0, 1)):
        pool = mrm.Pool(8 * FRAME, maximum=40 * FRAME, huge="require", numa_node="local")
    with pool:
        with mrm.system.calls.Script(fail=1, times=2, error=28, kinds=["fallocate"], fake=True):
            done, error = pool._deflate(16)
        assert (done, error) == (16, None)
        assert balloon(pool) == {0: 16, 1: 0}
        with mrm.system.calls.Script(fail=1, times=None, error=28, kinds=["fallocate"], fake=True):
            done, error = pool._deflate(4)
        assert done == 0
        assert isinstance(error, mrm.FundingError)
        assert "of 4 frames that were to get memory, 0 did" in str(error)
        assert balloon(pool) == {0: 16, 1: 0}
        pool.audit()
        with mrm.system.calls.Script(fake=True):
            pool.close()


@pytest.mark.parametrize("turn", range(1, 5))
def test_a_policy_that_is_refused_is_an_error_and_what_was_fetched_stays(turn):
    with machine(ring(2, 0, 1)):
        pool = mrm.Pool(8 * FRAME, maximum=24 * FRAME, huge="require", numa_node="local")
    with pool:
        kinds = ["get_mempolicy", "set_mempolicy"]
        with mrm.system.calls.Script(fail=turn, error=1, kinds=kinds, fake=True):
            done, error = pool._deflate(16)
        assert done == {1: 0, 2: 0, 3: 8, 4: 16}[turn]
        assert "memory policy of this thread cannot be" in str(error)
        assert sum(balloon(pool).values()) == 16 - done
        pool.audit()
        with mrm.system.calls.Script(fake=True):
            pool.close()


# ---- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES[:1] + TABLES[4:6], ids=named)
def test_threads_on_different_nodes_keep_to_their_own_while_there_is_some(table):
    """They take and give at once; half a node's frames each, so that nobody ever has to go far."""
    with local(table, 64 * len(table.memory)) as model:
        pool, strays, failures = model.pool, [], []

        def body(processor):
            try:
                on(processor)
                chance = random.Random(processor)
                home, mine = model.order(processor)[0], []
                for _ in range(4000):
                    if len(mine) < 20 and chance.random() < 0.6:
                        mine.append(pool.take())
                        strays.extend(f for f in mine[-1:] if model.node[f] != home)
                    elif len(mine) > 3 and chance.random() < 0.3:
                        pool.give(mine[:3])
                        del mine[:3]
                    elif mine:
                        pool.give(mine.pop())
                pool.give(mine)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=body, args=(i % 2,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        assert strays == []
        assert pool.stats().ready == len(pool)


def test_threads_that_take_all_there_is_are_refused_nothing_that_is_free():
    """Four threads empty the pool together, from both nodes: each frame is had once."""
    with local(ring(2, 0, 1), 400) as model:
        pool, had = model.pool, []

        def body(processor):
            on(processor)
            with contextlib.suppress(mrm.OutOfFrames):
                while True:
                    had.append(pool.take())

        for _ in range(5):
            threads = [threading.Thread(target=body, args=(i % 2,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(had) == list(range(400))
            pool.audit()
            pool.give(had)
            had.clear()
