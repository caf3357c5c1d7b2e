"""What frames and batches cost beside the kernel's part: nanoseconds, fastest of several.

These are loops of our own code, which anything else on the machine can only slow
down; so the fastest repetition is reported, as timeit does, not the median.
"""

import random
import threading
import time
from array import array
from collections.abc import Callable

from mrm import Pool
from mrm.errors import OutOfFrames
from mrm.system.calls import Script
from mrm.tools.bench.ground import FRAME
from mrm.tools.bench.lanes import Lane
from mrm.tools.bench.loops import Loops, kernel_cycle
from mrm.tools.bench.replay import Replay

REPEATS = 7
ARRAY = 512
MILLION = 1 << 20
BETWEEN_LOOKS = 50
PARTS = 5


def overheads(pool: Pool, seconds: float, advance: Callable[[str, int], None]) -> dict[str, float | None]:
    """Every figure of the block ``frames``, on a pool whose frames are all free."""
    loops = Loops(pool)
    n = 100_000
    advance("take and give, from C", 0)
    one = _fastest(lambda: loops.take_give(n)) / n
    frames = min(ARRAY, len(pool))
    many = _fastest(lambda: loops.take_give_many(200, frames)) / 200 / frames
    two = n / _fastest(lambda: _two_threads(loops, n)) * 2
    advance("take and give, from Python", 1)
    python = _fastest(lambda: _take_give(pool, 20_000)) / 20_000
    arrays = _fastest(lambda: _take_give_array(pool, 200, frames)) / 200 / frames
    advance("the kernel's own", 2)
    cycles = [spent for _ in range(3) if (spent := kernel_cycle(20)) is not None]
    advance("a batch of one page", 3)
    batch, by_hand = _batch_of_one(pool, seconds)
    advance("a million frames", 4)
    return {
        "take_give_ns": one,
        "take_give_python_ns": python,
        "take_give_array_ns": arrays,
        "take_give_many_ns": many,
        "two_threads_over_one": two * one,
        "kernel_cycle_ns": min(cycles) / 20 if cycles else None,
        "batch_of_one_us": batch,
        "batch_of_one_by_hand_us": by_hand,
        "batch_of_one_overhead_us": batch - by_hand,
        **_million(),
    }


def _fastest(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(REPEATS))


def _take_give(pool: Pool, n: int) -> float:
    take, give = pool.take, pool.give
    begin = time.perf_counter_ns()
    for _ in range(n):
        give(take())
    return time.perf_counter_ns() - begin


def _take_give_array(pool: Pool, n: int, frames: int) -> float:
    begin = time.perf_counter_ns()
    for _ in range(n):
        pool.give(pool.take(frames))
    return time.perf_counter_ns() - begin


def _two_threads(loops: Loops, n: int) -> float:
    """Two threads at once, ``n`` times each: the time of the slower."""
    spent = [0, 0]
    together = threading.Barrier(2)

    def work(number: int) -> None:
        together.wait()
        spent[number] = loops.take_give(n)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(spent)


class _BatchOfOne(Lane):
    """One frame between two slots, by the public interface from Python."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(-1, 1, FRAME)
        self._pool = pool

    def open(self) -> None:
        """A reservation of two slots, the first of which shows a frame."""
        self._frame = self._pool.take()
        self._reservation = self._pool.reserve(2)
        self._source, self._target = 0, 1
        with self._reservation.batch() as batch:
            batch.map(0, self._frame)

    def close(self) -> None:
        """Give both back."""
        self._reservation.close()
        self._pool.give(self._frame)

    def run(self, seconds: float) -> tuple[int, float]:
        """As the other lanes: pages moved, and seconds."""
        begin = time.perf_counter()
        moved = 0
        # A look at the clock costs what is being measured; one cycle when no time is given.
        between_looks = BETWEEN_LOOKS if seconds else 1
        while moved == 0 or time.perf_counter() - begin < seconds:
            for _ in range(between_looks):
                with self._reservation.batch() as batch:
                    batch.move(self._source, self._target, deferred=True)
                self._reservation.retire()
                self._source, self._target = self._target, self._source
            moved += between_looks
        return moved, time.perf_counter() - begin


def _batch_of_one(pool: Pool, seconds: float) -> tuple[float, float]:
    """Microseconds of a batch of one page and its retire, and of its system calls by hand."""
    ours = _BatchOfOne(pool)
    spent: dict[Lane, list[float]] = {ours: [], Replay(ours, touched=False): []}
    for _ in range(REPEATS):
        for lane, times in spent.items():
            lane.open()
            pages, took = lane.run(seconds / REPEATS)
            lane.close()
            times.append(took / pages * 1e6)
    whole, by_hand = (min(times) for times in spent.values())
    return whole, by_hand


def _million() -> dict[str, float | None]:
    """A pool of a million frames on a system that maps nothing: what our own books cost."""
    with Script(fake=True, record=False):
        begin = time.perf_counter()
        pool = Pool(MILLION * FRAME, huge="require")
        opened = time.perf_counter() - begin
        pool.take(MILLION)
        # Half of them come back, at random; then one run, wherever it lies.
        run = range(MILLION // 3, MILLION // 3 + 1024)
        pool.give(
            array("I", [frame for frame in range(MILLION) if frame not in run and random.getrandbits(1)])
        )
        missing = _fastest(lambda: _take_run(pool, len(run)))
        pool.give(array("I", run))
        found = _fastest(lambda: _take_run(pool, len(run)))
        pool.close()
    return {"million_open_s": opened, "million_take_run_us": found / 1e3, "million_no_run_us": missing / 1e3}


def _take_run(pool: Pool, n: int) -> float:
    """Nanoseconds that it takes to find a run, or to say that there is none; it is given back."""
    begin = time.perf_counter_ns()
    try:
        run = pool.take_run(n)
    except OutOfFrames:
        return time.perf_counter_ns() - begin
    spent = time.perf_counter_ns() - begin
    pool.give(run)
    return spent
