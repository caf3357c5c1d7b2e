"""Cycles: what lives is kept, what does not is given back, and old addresses trap."""

import itertools
import random

import larder
import pytest
from larder import demo
from larder.churn import Churn

import mrm

FRAME = mrm.FRAME_SIZE


def sparse_pages(store, pages, every=8, nbytes=2000):
    """Fill so many pages, and keep one object in ``every``."""
    kept = []
    for i in range(pages * FRAME // (nbytes + 16)):
        one = store.new(data=i.to_bytes(4, "little") * (nbytes // 4))
        if i % every == 0:
            kept.append(one)
    return kept


def check(kept, every=8, nbytes=2000):
    for i, one in enumerate(kept):
        assert one.data == (i * every).to_bytes(4, "little") * (nbytes // 4)


def test_sparse_pages_are_moved_together(pool, store):
    kept = sparse_pages(store, 16)
    before = [one.address for one in kept]
    cycle = store.collect()
    assert cycle.objects == len(kept)
    assert cycle.emptied >= 15
    assert cycle.filled == 2 + (cycle.bytes_copied > 2 * FRAME)
    assert cycle.bytes_copied <= cycle.live_bytes
    check(kept)
    moved = [old for old, one in zip(before, kept, strict=True) if one.address != old]
    assert len(moved) * 2016 >= cycle.bytes_copied - FRAME
    # An address that was moved away from shows nothing: a load that forgot the barrier would trap.
    assert {mrm.classify(old).state for old in moved} == {"empty"}
    stats = pool.audit()
    assert stats.pending == stats.released == stats.strict == 0


def test_objects_keep_their_order_when_they_move(store):
    kept = sparse_pages(store, 8)
    before = [one.address for one in kept]
    store.collect()
    one_page = [one.address for old, one in zip(before, kept) if old // FRAME == before[0] // FRAME]
    assert one_page == sorted(one_page)


def test_a_cycle_is_one_batch_and_one_retire(pool, store):
    kept = sparse_pages(store, 12)
    before = pool.stats()
    cycle = store.collect()
    after = pool.stats()
    assert cycle.emptied > 8
    assert after.batches - before.batches == 1
    assert after.epoch - before.epoch == 1
    assert after.system_calls - before.system_calls == cycle.system_calls
    assert cycle.shootdowns <= 2  # the pages lie side by side
    check(kept)


def test_references_heal_as_they_are_used(store):
    nodes = [store.new(fields=1, data=bytes([i])) for i in range(100)]
    for one, other in itertools.pairwise(nodes):
        one[0] = other
    head = nodes[0]
    del nodes, one, other
    sparse_pages(store, 3)
    store.collect()
    seen, one = [], head
    while one is not None:
        seen.append(one.data[0])
        one = one[0]
    assert seen == list(range(100))


def test_cycles_of_garbage_are_garbage(store):
    for _ in range(1000):
        a, b = store.new(fields=1, data=bytes(1000)), store.new(fields=1)
        a[0], b[0] = b, a
    del a, b
    assert store.collect().objects == 0
    assert store.collect().pages <= 1


def test_the_reserve_is_enough_for_a_store_that_is_full(pool, store):
    """Whatever others took: a cycle finds its first page, and hands the rest on to itself."""
    kept = sparse_pages(store, 10)
    others = []
    with pytest.raises(mrm.OutOfFrames):
        while True:
            others.append(pool.take())
    try:
        cycle = store.collect()
        assert cycle.emptied > 8
        assert cycle.filled >= 2
        check(kept)
        assert pool.accounts["larder collector"].stats().balance == 1
        assert pool.accounts["larder collector"].allocated == 0
        assert pool.accounts["larder objects"].stats().balance == pool.accounts["larder objects"].allocated
        pool.audit()
    finally:
        pool.give(others)


def test_a_full_store_refuses_and_goes_on(pool, store):
    kept = []
    with pytest.raises(mrm.OutOfFrames):
        while True:
            kept.append(store.new(data=len(kept).to_bytes(4, "little") * 2000))
    assert len(kept) > 5000
    assert store.cycles > 0
    pool.audit()
    with pytest.raises(mrm.OutOfFrames):
        store.new(data=bytes(4 * FRAME))
    assert all(one.data == i.to_bytes(4, "little") * 2000 for i, one in enumerate(kept))
    kept = dict(list(enumerate(kept))[::2])
    for _ in range(1000):  # the first of these runs a cycle
        store.new(data=bytes(8000))
    assert all(one.data == i.to_bytes(4, "little") * 2000 for i, one in kept.items())


def test_blocks_of_the_heap_go_with_their_objects(pool, store):
    side = pool.accounts["larder side"]
    tables = side.allocated
    kept = store.new(data=bytes(range(256)) * 1000)
    for _ in range(5):
        store.new(data=bytes(FRAME))
    assert store.collect().blocks_freed == 5
    assert kept.data == bytes(range(256)) * 1000
    for _ in range(100):  # more than there are frames: dead ones make room
        store.new(data=bytes(FRAME))
    assert store.cycles > 1
    assert kept.data == bytes(range(256)) * 1000
    assert tables <= side.allocated < pool.stats().frames


@pytest.mark.parametrize("mark_stack", [1, 7, 1 << 16])
def test_marking_finds_everything_with_any_stack(pool, mark_stack):
    with larder.Store(pool, mark_stack=mark_stack) as store:
        rng = random.Random(mark_stack)
        nodes = [store.new(fields=4, data=i.to_bytes(4, "little")) for i in range(2000)]
        edges = {i: [rng.randrange(2000) for _ in range(4)] for i in range(2000)}
        for i, targets in edges.items():
            for k, target in enumerate(targets):
                nodes[i][k] = nodes[target]
        reachable, front = set(), {0}
        while front:
            reachable |= front
            front = {t for i in front for t in edges[i]} - reachable
        root = nodes[0]
        del nodes
        cycle = store.collect()
        assert cycle.objects == len(reachable)
        assert (cycle.passes > 0) == (mark_stack < 1000)
        assert root[2][1].data == edges[edges[0][2]][1].to_bytes(4, "little")


@pytest.mark.parametrize("sparse", [0.3, 0.75, 0.99])
@pytest.mark.parametrize("seed", [1, 2])
def test_churn_keeps_every_object(pool, sparse, seed):
    with larder.Store(pool, sparse=sparse) as store:
        churn = Churn(store, 40_000, seed)
        for _ in range(5):
            churn.run(200_000)
            assert churn.verify() > 39_000
            store.collect()
            churn.verify()
            pool.audit()
        assert store.cycles > 5
        assert all(cycle.emptied > cycle.filled for cycle in store.history[:-1])


def test_the_demo_runs(capsys, monkeypatch, recwarn):
    monkeypatch.setattr("sys.argv", ["demo", "--pool", "96MiB", "--rounds", "2"])
    demo.main()
    said = capsys.readouterr().out
    assert "objects are what was last put there" in said
    assert "the old address is a slot that is empty" in said
    assert "and none when the store is closed" in said
