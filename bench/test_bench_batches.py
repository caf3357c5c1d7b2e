"""Batches by size and by shape: how scattered the frames are decides what a page costs."""

from array import array
from collections.abc import Iterator

import pytest

import mrm

SIZES = [1, 16, 128, 512]
SHAPES = ["scattered", "runs_of_16", "one_run"]


def in_shape(shape: str, frames: range) -> array:
    """The frames in the order that the slots show them in."""
    n = len(frames)
    run = {"scattered": 1, "runs_of_16": min(16, n), "one_run": n}[shape]
    runs = [frames[i : i + run] for i in range(0, n, run)]
    # An odd stride visits all of a power of two, and never a neighbour next.
    return array("I", [frame for i in range(len(runs)) for frame in runs[i * 5 % len(runs)]])


class Shuttle:
    """Frames that go to fresh slots and back; each call is one batch and one retire."""

    def __init__(self, pool: mrm.Pool, shape: str, n: int) -> None:
        self.reservation = pool.reserve(2 * n)
        self.frames = in_shape(shape, range(n))
        self.source, self.target = array("I", range(n)), array("I", range(n, 2 * n))
        with self.reservation.batch() as batch:
            batch.map(self.source, self.frames)

    def move(self) -> None:
        with self.reservation.batch() as batch:
            batch.move(self.source, self.target, deferred=True)
        self.reservation.retire()
        self.source, self.target = self.target, self.source

    def move_at_once(self) -> None:
        with self.reservation.batch() as batch:
            batch.move(self.source, self.target)
        self.source, self.target = self.target, self.source


@pytest.fixture
def held(pool: mrm.Pool) -> Iterator[mrm.Pool]:
    """The pool with all of its frames taken, so that any of them may be mapped."""
    frames = pool.take(len(pool))
    yield pool
    pool.give(frames)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_move_deferred_and_retire(benchmark, held: mrm.Pool, shape: str, n: int) -> None:
    shuttle = Shuttle(held, shape, n)
    with shuttle.reservation:
        benchmark(shuttle.move)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_move_at_once(benchmark, held: mrm.Pool, shape: str, n: int) -> None:
    shuttle = Shuttle(held, shape, n)
    with shuttle.reservation:
        benchmark(shuttle.move_at_once)


@pytest.mark.parametrize("n", SIZES)
def test_protect_and_back(benchmark, held: mrm.Pool, n: int) -> None:
    shuttle = Shuttle(held, "scattered", n)

    def cycle() -> None:
        for protection in ("r", "rw"):
            with shuttle.reservation.batch() as batch:
                batch.protect(shuttle.source, protection)

    with shuttle.reservation:
        benchmark(cycle)


def test_unmap_every_second_slot_and_refill(benchmark, held: mrm.Pool) -> None:
    shuttle = Shuttle(held, "one_run", 512)
    slots, frames = shuttle.source[::2], shuttle.frames[::2]

    def cycle() -> None:
        with shuttle.reservation.batch() as batch:
            batch.unmap(slots, deferred=True)
        shuttle.reservation.retire()
        with shuttle.reservation.batch() as batch:
            batch.map(slots, frames)

    with shuttle.reservation:
        benchmark(cycle)
