"""Who may end what while somebody else looks at it, or is about to; and what ends with the interpreter."""

import pickle
import subprocess
import sys
import threading
import weakref

import pytest
from helpers import FRAME

import mrm


def held_back(pool, reservation=None):
    """A held frame, shown by slot 0 of the reservation if there is one."""
    frame = pool.take()
    if reservation is not None:
        with reservation.batch() as batch:
            batch.map(0, frame)
    return frame


def test_a_buffer_kept_by_a_memoryview_is_asked_anew(pool):
    frame = held_back(pool)
    with pool.open_view() as view:
        memory = view[frame]
        kept = memory.obj
        memory.release()
        view.retire()
        with pytest.raises(mrm.ClosedError):
            memoryview(kept)
    with pytest.raises(mrm.ClosedError):
        memoryview(kept)


def test_a_slots_buffer_kept_by_a_memoryview_is_asked_anew(pool, reservation):
    frame = held_back(pool, reservation)
    memory = reservation.buffer(0)
    kept = memory.obj
    memory.release()
    with reservation.batch() as batch:
        batch.protect(0, "r")
    with pytest.raises(mrm.SlotError, match="reading only"):
        memoryview(kept)
    with reservation.batch() as batch:
        batch.unmap(0)
    with pytest.raises(mrm.SlotError, match="shows nothing"):
        memoryview(kept)
    pool.give(frame)
    reservation.close()
    with pytest.raises(mrm.ClosedError):
        memoryview(kept)


def test_a_pool_closed_by_the_argument_of_a_call_is_closed(huge):
    def closing(pool, number):
        pool.close()
        yield number

    class Closing:
        def __init__(self, pool):
            self.pool = pool

        def __index__(self):
            self.pool.close()
            return 1

    for use in (
        lambda pool: pool.give(closing(pool, 0)),
        lambda pool: pool.zero(closing(pool, 0)),
        lambda pool: pool.take(Closing(pool)),
        lambda pool: pool.address(Closing(pool)),
        lambda pool: pool.state_of(Closing(pool)),
        lambda pool: pool.mappings(Closing(pool)),
        lambda pool: pool.reserve(Closing(pool)),
    ):
        pool = mrm.Pool(4 * FRAME, huge=huge)
        with pytest.raises(mrm.ClosedError):
            use(pool)


def test_a_batch_may_be_aborted_inside_its_block(reservation):
    with reservation.batch() as batch:
        batch.unmap(0)
        batch.abort()
    assert reservation[0] is None


def test_no_buffer_is_made_of_a_slot_that_a_commit_takes_away(pool):
    """It either pins the slot before the commit, or finds it empty after."""
    slots = 2000
    frame = held_back(pool)
    with pool.reserve(slots) as reservation:
        for _ in range(5):
            with reservation.batch() as batch:
                batch.map(range(slots), [frame] * slots)
            emptying = reservation.batch()
            emptying.unmap(range(slots))
            started = threading.Event()

            def empty(batch=emptying, started=started):
                started.set()
                try:
                    batch.commit()
                except mrm.PinnedError:
                    pass
                finally:
                    batch.abort()

            thread = threading.Thread(target=empty)
            thread.start()
            started.wait()
            try:
                memory = reservation.buffer(0)
                memory[0] = 1
                thread.join()
                memory[0] = 2
                memory.release()
            except mrm.SlotError:
                thread.join()
            with reservation.batch() as batch:
                batch.unmap(range(slots), missing_ok=True)
    pool.give(frame)


def test_an_address_may_be_asked_for_while_its_range_is_closed(pool):
    with pool.reserve(1) as reservation:
        at = reservation.base  # free again in a moment, wherever other pools lie
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            place = mrm.classify(at)
            assert place.kind in ("nothing", "reservation")

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(200):
        pool.reserve(1, at=at).close()
    stop.set()
    asking.join()
    assert mrm.classify(0).kind == "nothing"


@pytest.mark.parametrize(
    "cls",
    [*mrm.Pool.__mro__[1:-1], mrm.Window, mrm.View, mrm.Reservation, mrm.Account, mrm.Fund, mrm.Attachment],
)
def test_what_is_not_made_by_hand_says_who_makes_it(cls):
    with pytest.raises(TypeError, match=r"by (its|mrm\.|pool|a pool)"):
        cls()
    assert not any(mrm.live_handles().values())


def test_a_subclass_has_what_a_pool_has(huge):
    class Own(mrm.Pool):
        def take(self, n=None):
            return super().take(n)

    with Own("4MiB", huge=huge, name="own") as pool:
        assert isinstance(pool, mrm.Pool)
        held = pool.take()
        assert pool.account_of(held).name == "pool"
        assert pool.state_of(held) == "held"
        assert [each.kind for each in pool.mappings(held)] == ["window"]
        pool.give(held)
        pool.audit()
    assert weakref.ref(pool)() is pool
    with pytest.raises(TypeError, match="pickling"):
        pickle.dumps(pool)


def test_things_end_in_their_order_and_each_whatever_another_raises():
    code = """
import os
from mrm.system.atend import AtEnd
class Thing:
    def __init__(self, name): self.name = name
    def end(self):
        print(self.name, flush=True)
        if self.name == "first":
            raise ValueError("no")
late = AtEnd(1, lambda thing: print("forgot", thing.name, flush=True), Thing.end)
early = AtEnd(0, lambda thing: 1 / 0, Thing.end)
things = [Thing("last"), Thing("first")]
late.add(things[0])
early.add(things[1])
if (child := os.fork()) == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["forgot last", "first", "last"]
    assert "ValueError: no" in done.stderr
    assert "ZeroDivisionError" in done.stderr
