"""Autoscaler of real pools, and a neighbour who needs their memory."""

import pytest
from helpers import FRAME, other_process, stamp, stamp_at, wait_until
from machine import throwaway
from madeup import STALL, Kernel
from mutating import Mutators

import mrm
from mrm.errors import ArgumentError
from mrm.physical import kernelpool
from mrm.physical.autoscale import Autoscaler
from mrm.physical.limits import huge_pages


def test_a_pool_that_grows_before_it_is_empty(huge, tmp_path):
    """On a kernel without pressure: bounds hold, and a taker that takes slowly is never refused."""
    sizes = {"headroom": 4 * FRAME, "leave_free": 0, "calm": 0, "interval": 0.01}
    with mrm.Pool(4 * FRAME, maximum=16 * FRAME, huge=huge, name="scaled") as pool:
        scale = Autoscaler(pool, 2 * FRAME, 12 * FRAME, root=Kernel(tmp_path).root, **sizes)
        assert scale.running
        frames = []
        for _ in range(10):
            frames.append(pool.take())
            wait_until(lambda: pool.size // FRAME >= min(12, len(frames) + 2))
        assert pool.size == 12 * FRAME
        assert "shrink" not in [entry.action for entry in scale.entries]
        wait_until(lambda: scale.stats().grown == 8)  # a moment after the frames are there
        pool.give(frames)
        pool.audit()
    wait_until(lambda: not scale.running)
    scale.close()


def test_deferred_aliases_are_left_to_the_runtime(huge):
    """Shrinking takes nothing away that an old address shows, and retires nothing."""
    with mrm.Pool(8 * FRAME, huge=huge) as pool, pool.reserve(8) as slots:
        frames = pool.take(8)
        for frame in frames:
            stamp(pool.address(frame), frame)
        with slots.batch() as batch:
            batch.map(range(8), frames)
        with slots.batch() as batch:
            batch.unmap(range(6), deferred=True)
        pool.give(frames[:6])
        assert pool.inflate(8 * FRAME, retire=False).frames == 0
        assert pool.epoch == 0
        assert [stamp_at(slots.address(slot)) for slot in range(8)] == list(frames)
        assert pool.inflate(8 * FRAME).frames == 6
        with slots.batch() as batch:
            batch.unmap(range(6, 8))
        pool.give(frames[6:])


@pytest.mark.skipif(not kernelpool.writable(), reason="needs the right to change nr_hugepages: run as root")
def test_pages_that_are_sent_on_to_the_system_come_back_from_there(needs_huge):
    with mrm.Pool(8 * FRAME, huge="require") as pool:
        scale = Autoscaler(
            pool,
            FRAME,
            8 * FRAME,
            headroom=16 * FRAME,
            leave_free=0,
            step=2 * FRAME,
            calm=0,
            to="system",
            start=False,
        )
        keeper = pool._keeper()
        scale.turn(STALL)
        assert (pool.size, scale.entries[-1].where) == (6 * FRAME, "system")
        surplus = -2 - sum(keeper.sums.values())  # what was surplus goes by itself
        assert surplus in (0, -1, -2)
        scale.turn()
        assert pool.size == 8 * FRAME
        assert (scale.entries[-1].action, scale.entries[-1].where) == ("grow", "system")
        pool.audit()
    assert keeper.sums == {}


def test_the_next_scaler_takes_the_place_of_the_last(huge):
    with mrm.Pool(4 * FRAME, huge=huge) as pool:
        first = pool.autoscale(4 * FRAME, 4 * FRAME)
        with pytest.raises(ArgumentError):
            pool.autoscale(4 * FRAME, 5 * FRAME)
        assert first.running
        second = pool.autoscale(4 * FRAME, 4 * FRAME)
        assert (first.running, second.running) == (False, True)
    assert not second.running


NEIGHBOUR = """
import ctypes, errno, os, sys, time
from mrm.system.pages import frame_size, memfd_flag
fd = os.memfd_create("neighbour", 4 | memfd_flag())
frame, wanted, refused, began = frame_size(), int(sys.argv[1]), 0, time.monotonic()
os.ftruncate(fd, wanted * frame)
had = 0
while had < wanted and time.monotonic() < began + 100:
    try:
        os.posix_fallocate(fd, had * frame, frame)
        had += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC
        refused += 1
        time.sleep(0.005)
print(had, refused, f"{time.monotonic() - began:.3f}", flush=True)
sys.stdin.read()
"""


@throwaway
def test_a_neighbour_gets_what_it_needs_and_the_pool_grows_back(needs_huge, capsys):
    """All the machine's huge pages are ours but for two cushions; a neighbour wants two thirds of them."""
    there = huge_pages().available
    if there < 160:
        pytest.skip(
            f"needs 160 free huge pages, and there are {there}: `mrm fund {160 * FRAME >> 20}MiB` as root"
        )
    held, cushion = 32, 16
    most = there - 2 * cushion
    wanted = there * 2 // 3
    with mrm.Pool(most * FRAME, huge="require", name="ours") as pool, Mutators(pool, held) as mutators:
        scale = pool.autoscale(
            (held + 8) * FRAME,
            most * FRAME,
            headroom=(most - held) * FRAME,
            leave_free=cushion * FRAME,
            step=32 * FRAME,
            calm=5.0,
        )
        with other_process(NEIGHBOUR, str(wanted)) as neighbour:
            had, refused, seconds = neighbour.stdout.readline().split()
            assert int(had) == wanted

            def shrunk():
                return [entry.done for entry in scale.entries if entry.action == "shrink"]

            # It has its last page a moment before the log has the decision that gave it.
            wait_until(lambda: sum(shrunk()) >= wanted - 2 * cushion)
            # The first when the cushion is gone, and each twice as large as the last: within a second (0.8 s
            # for 341 pages, on two processors).
            assert len(shrunk()) <= 6
            mutators.go_on()
        # The neighbour has ended: what it had comes back to us, with a cushion and a half left.
        wait_until(lambda: pool.size >= (there - 2 * cushion) * FRAME)
        scale.close()
        mutators.end()
        assert mutators.lost == []
        pool.audit()
        with capsys.disabled():
            print(f"\n{wanted} pages, after {refused} refusals and {seconds} s")
            print(*scale.log, scale.stats(), sep="\n")
