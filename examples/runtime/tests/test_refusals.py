"""What becomes of a store when the kernel refuses: a cycle is not begun, or it is finished."""

import errno

import larder
import pytest
from larder.churn import Churn

import mrm
from mrm.system.calls import Script


@pytest.mark.parametrize("times", [1, None], ids=["once", "from then on"])
def test_a_cycle_fails_at_every_system_call(pool, times):
    """Each call of a cycle is refused in turn, until there is a cycle that makes fewer."""
    with larder.Store(pool) as store:
        churn = Churn(store, 30_000)
        refused = finished = 0
        for k in range(1, 100):
            churn.run(25_000)
            before = store.pages
            with Script(fail=k, times=times, error=errno.ENOMEM) as script:
                try:
                    cycle = store.collect()
                    finished += 1
                except mrm.Error:
                    cycle = None
                    refused += 1
                    assert store.pages == before
            assert churn.verify() > 15_000
            pool.audit()
            if script.counted < k:
                break
            if (
                cycle is not None
            ):  # it was a call of the retire: old addresses are taken away by the next cycle
                store.collect()
                churn.verify()
        assert script.counted < k, "there is no end of system calls"
        assert refused > 0
        assert finished > 1
        store.collect()
        stats = pool.audit()
        assert stats.pending == 0
        assert stats.held == store.pages + pool.accounts["larder side"].allocated


@pytest.mark.parametrize("times", [1, None], ids=["once", "from then on"])
def test_making_objects_fails_at_every_system_call(pool, times):
    with larder.Store(pool) as store:
        kept = []
        for k in range(1, 100):
            with Script(fail=k, times=times, error=errno.ENOMEM) as script:
                for i in range(3 * mrm.FRAME_SIZE // 8000):
                    try:
                        one = store.new(data=i.to_bytes(4, "little") * 2000)
                    except mrm.Error:
                        continue
                    if i % 50 == 0:
                        kept.append((i, one))
            pool.audit()
            if script.counted < k:
                break
        assert all(one.data == i.to_bytes(4, "little") * 2000 for i, one in kept)
        assert len(kept) > 10
        assert script.counted < k


def test_opening_fails_at_every_system_call(pool):
    for k in range(1, 100):
        with Script(fail=k, error=errno.ENOMEM) as script:
            try:
                larder.Store(pool).close()
            except mrm.Error:
                pass
        assert pool.audit().held == 0
        assert set(pool.accounts) == {"pool"}
        assert pool.funds["pause_prevention"].frames == 0
        if script.counted < k:
            break
    assert script.counted < k
