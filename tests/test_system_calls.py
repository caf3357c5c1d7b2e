"""Every system call of every operation fails in turn, at every position, once and for good.

What must hold afterwards: the audit passes; the reservation and /proc/self/maps agree;
an operation that says SystemCallError has changed nothing; one that says
InconsistentError has changed what it names, and frames keep their contents; and nothing
is left behind at the end.
"""

import errno

import pytest
from failing import CHANGING, WAYS, failing
from helpers import (
    FRAME,
    after_fork,
    check_contents,
    commit,
    open_files,
    shown,
    stamp_all,
    stamp_at,
    table,
)

import mrm
import mrm.system.calls as calls

# ---- batches ---------------------------------------------------------------------------

# Slots 0-11 show a run; 12-15 single frames; 20-23 deferred aliases of those; the rest is empty.


class Scene:
    """A reservation with something of everything, that can be set up again and again."""

    def __init__(self, pool):
        self.pool = pool
        self.run = list(pool.take_run(12))
        self.single = [pool.take() for _ in range(4)]
        stamp_all(pool)
        self.reservation = None
        self.set_up()

    def set_up(self):
        if self.reservation is not None:
            self.reservation.close()
        self.reservation = r = self.pool.reserve(64)
        commit(r, "map", range(12), self.run)
        commit(r, "map", range(12, 16), self.single[::-1])
        commit(r, "map", range(20, 24), self.single)
        commit(r, "unmap", range(20, 24), deferred=True)
        commit(r, "protect", 14, "r")

    def check(self, hole=False):
        """All is as it must be, but for the ``hole`` that an mremap may have left."""
        self.pool.audit()
        if not hole:
            check_contents(self.reservation)
        told = shown(self.reservation)
        stats = self.pool.stats()
        assert stats.mapped == len(set(told.values()))
        assert stats.pending == self.reservation.deferred
        for frame in range(16):
            assert stamp_at(self.pool.address(frame)) == 0x5EED << 32 | frame, "contents were lost"


@pytest.fixture
def scene(pool):
    scene = Scene(pool)
    yield scene
    scene.reservation.close()


BATCHES = {
    "map a run": lambda b, s: b.map(range(40, 50), s.run[:10]),
    "map scattered": lambda b, s: b.map(range(40, 52, 3), s.single),
    "map neighbours": lambda b, s: b.map(range(40, 44), s.single[::-1]),
    "map for reading": lambda b, s: b.map(range(40, 44), s.single[::-1], "r"),
    "unmap a run": lambda b, s: b.unmap(range(12)),
    "unmap scattered": lambda b, s: b.unmap(range(1, 16, 2)),
    "unmap deferred": lambda b, s: b.unmap(range(12), deferred=True),
    "move a run": lambda b, s: b.move(range(12), range(40, 52)),
    "move scattered": lambda b, s: b.move([0, 5, 13], [40, 50, 60]),
    "move two runs": lambda b, s: b.move([*range(5), *range(7, 12)], [*range(30, 35), *range(50, 55)]),
    "move deferred": lambda b, s: b.move(range(12), range(40, 52), deferred=True),
    "slide": lambda b, s: b.move(range(16), range(1, 17)),
    "alias": lambda b, s: b.alias(range(16), range(40, 56)),
    "swap": lambda b, s: b.swap(range(8), range(15, 7, -1)),
    "protect a few": lambda b, s: b.protect(range(2, 6), "r"),
    "protect many": lambda b, s: b.protect(range(16), "none"),
    "replace": lambda b, s: (b.unmap([0, 5, 10]), b.map([0, 5, 10], s.single[:3])),
    "everything": lambda b, s: (
        b.unmap([0, 2, 9]), b.map([0, 61], s.single[:2]), b.move([3, 4, 13], [4, 62, 50]), b.swap(6, 7),
        b.protect([10, 14], "none"), b.alias(11, 45), b.unmap(15, deferred=True),
    ),
}  # fmt: skip


@WAYS
@pytest.mark.parametrize("change", BATCHES)
def test_a_commit_fails_at_every_call(pool, scene, change, times, error, features):
    features()
    outcomes = set()

    def operation():
        with scene.reservation.batch() as batch:
            BATCHES[change](batch, scene)

    before = table(scene.reservation)
    for raised in failing(operation, times, error, CHANGING):
        outcomes.add(type(raised))
        scene.check(hole="is not reserved any more" in str(raised))
        if type(raised) is mrm.SystemCallError:
            assert table(scene.reservation) == before
            assert raised.errno == error
            assert raised.call in calls.KINDS
            operation()  # and the same batch succeeds once the kernel lets it
            scene.check()
        elif type(raised) is mrm.InconsistentError:
            assert "cannot be told" not in str(raised)
            assert ("Different: nothing" in str(raised)) == (
                [frame for frame, _ in before] == [frame for frame, _ in table(scene.reservation)]
            ) or "protection" in str(raised)
        else:
            assert raised is None
        scene.set_up()
        features()
        before = table(scene.reservation)
    assert outcomes <= {type(None), mrm.SystemCallError, mrm.InconsistentError}


@pytest.mark.parametrize("change", BATCHES)
def test_a_commit_fails_for_good_and_nothing_can_be_told(scene, change, features):
    """/proc cannot be read, either: the error must say so, and closing must mend it."""
    features()

    def operation():
        with scene.reservation.batch() as batch:
            BATCHES[change](batch, scene)

    for raised in failing(operation, None, errno.ENOMEM):
        assert raised is None or isinstance(raised, mrm.SystemCallError)
        if not isinstance(raised, mrm.InconsistentError):
            scene.check()
        scene.set_up()
        scene.check()
        features()


@WAYS
@pytest.mark.parametrize("retire", ["pool", "reservation"])
@pytest.mark.parametrize(
    "slots", [range(20, 24), range(1, 16, 2), [0, 15, 21]], ids=["a row", "scattered", "few"]
)
def test_a_retire_fails_at_every_call(pool, scene, retire, slots, times, error, features):
    features()

    def begin():
        commit(scene.reservation, "unmap", slots, deferred=True, missing_ok=True)
        scene.check()
        return table(scene.reservation)

    def operation():
        (pool if retire == "pool" else scene.reservation).retire()

    before = begin()
    for raised in failing(operation, times, error, CHANGING):
        scene.check()
        if type(raised) is mrm.SystemCallError:
            assert table(scene.reservation) == before
        if raised is not None:
            assert isinstance(raised, mrm.SystemCallError)
            operation()
            scene.check()
        assert scene.reservation.deferred == 0
        scene.set_up()
        features()
        before = begin()


# ---- opening and closing ---------------------------------------------------------------


@WAYS
@pytest.mark.usefixtures("teardown_ranges")
def test_a_reservation_is_opened_or_not(pool, times, error):
    opened = []
    for raised in failing(lambda: opened.append(pool.reserve(8)), times, error):
        assert (raised is None) == bool(opened)
        assert pool.stats().reservations == len(opened)
        assert raised is None or isinstance(raised, mrm.AddressSpaceError)
        while opened:
            opened.pop().close()


@WAYS
@pytest.mark.usefixtures("teardown_ranges")
def test_a_reservation_is_closed_or_not(pool, scene, times, error):
    before = table(scene.reservation)

    def close():
        scene.reservation.close()

    for raised in failing(close, times, error):
        if raised is None:
            assert scene.reservation.closed
            stats = pool.audit()
            assert (stats.mapped, stats.pending, stats.reservations) == (0, 0, 0)
            scene.reservation = None
            scene.set_up()
        else:
            assert type(raised) is mrm.SystemCallError
            assert table(scene.reservation) == before
            scene.check()


@WAYS
def test_a_view_is_opened_or_not(pool, times, error):
    stamp_all(pool)
    opened = []
    for raised in failing(lambda: opened.append(pool.open_view()), times, error):
        assert (raised is None) == bool(opened)
        assert pool.stats().views_open == len(opened)
        while opened:
            view = opened.pop()
            assert stamp_at(view.address(15)) == 0x5EED << 32 | 15
            view.close()
    assert pool.stats().views_open == pool.stats().views_retired == 0


@WAYS
@pytest.mark.parametrize("end", ["retire", "close"])
def test_a_view_is_retired_or_not(pool, times, error, end):
    stamp_all(pool)
    views = [pool.open_view()]

    def operation():
        getattr(views[-1], end)()

    for raised in failing(operation, times, error):
        view = views.pop()
        if raised is None:
            assert view.state == {"retire": "retired", "close": "closed"}[end]
        else:
            assert type(raised) is mrm.SystemCallError
            assert view.state == "open"
            assert stamp_at(view.address(15)) == 0x5EED << 32 | 15
            assert pool.stats().views_open == 1
        view.close()
        views.append(pool.open_view())
    views.pop().close()


@WAYS
@pytest.mark.parametrize("dump", [False, True], ids=["", "dumped"])
@pytest.mark.usefixtures("teardown_ranges")
def test_a_pool_is_opened_or_not(huge, times, error, dump):
    def scenario():
        opened = []
        for raised in failing(lambda: opened.append(mrm.Pool(2 * FRAME, huge=huge, dump=dump)), times, error):
            assert (raised is None) == bool(opened)
            assert raised is None or isinstance(
                raised, (mrm.FundingError, mrm.SystemCallError, mrm.AddressSpaceError)
            )
            while opened:
                pool = opened.pop()
                stamp_all(pool)
                with pool.open_view() as view:
                    assert stamp_at(view.address(1)) == 0x5EED << 32 | 1
                pool.audit()
                pool.close()
        return "done"

    if times is None:
        # Addresses that cannot be given back stay registered as the pool's, and end with the child.
        assert after_fork(scenario) == "done"
    else:
        scenario()


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EINVAL], ids=errno.errorcode.get)
@pytest.mark.usefixtures("teardown_ranges")
def test_a_pool_is_closed_whatever_one_call_says(huge, error):
    pools = [mrm.Pool(2 * FRAME, huge=huge)]
    files = open_files()

    def close():
        pools[-1].close()

    for raised in failing(close, 1, error, ["mmap", "munmap"]):
        assert raised is None
        pool = pools.pop()
        assert pool.closed
        assert mrm.live_handles()["pools"] == 0
        assert len(open_files()) == len(files) - 2  # the frames, and the books
        pools.append(mrm.Pool(2 * FRAME, huge=huge))
    pools.pop().close()


def test_an_error_says_the_call_and_the_bytes(pool, reservation):
    frame = pool.take()
    with (
        calls.Script(fail=1, error=errno.ENOMEM, kinds=["mmap"]),
        pytest.raises(mrm.SystemCallError) as caught,
    ):
        commit(reservation, "map", 7, frame)
    error = caught.value
    assert (error.call, error.errno, error.address, error.nbytes) == (
        "mmap",
        errno.ENOMEM,
        reservation.address(7),
        FRAME,
    )
    assert error.strerror == "Cannot allocate memory"
    for words in (
        "mmap (map) of 1 slots from slot 7 on",
        "Cannot allocate memory",
        "Nothing is changed",
        "vm.max_map_count",
    ):
        assert words in str(error)


def test_an_undoing_that_fails_over_many_mappings_is_told_slot_by_slot():
    with mrm.Pool(256 * FRAME, huge="off") as pool, pool.reserve(400) as r:
        frames = list(pool.take_run(256))
        commit(r, "map", range(200), frames[::2] + frames[1:145:2])
        stamp_all(pool)
        # A run shall come to lie over 200 mappings; the call for it fails, and all after it.
        batch = r.batch()
        batch.unmap(range(200))
        batch.map(range(200), frames[:200])
        batch.map(300, frames[0])
        with (
            calls.Script(fail=2, times=None, kinds=["mmap", "munmap", "mprotect"]),
            pytest.raises(mrm.InconsistentError, match="slot 300 shows frame 0") as caught,
        ):
            batch.commit()
        batch.abort()
        assert "cannot be told" not in str(caught.value)
        assert r[300] == 0
        check_contents(r)
        pool.audit()
