"""Taking and giving frames: one, many, runs, from a pool that is fresh or in pieces."""

from collections.abc import Iterator

import pytest

import mrm
from mrm.tools.bench.loops import Loops

LOOP = 10_000  # a C loop long enough that the call into it does not count


def test_take_and_give_one_from_c(benchmark, pool: mrm.Pool) -> None:
    benchmark.extra_info["operations"] = LOOP
    benchmark(Loops(pool).take_give, LOOP)


@pytest.mark.parametrize("n", [8, 64, 512])
def test_take_and_give_many_from_c(benchmark, pool: mrm.Pool, n: int) -> None:
    benchmark.extra_info["operations"] = 100 * n
    benchmark(Loops(pool).take_give_many, 100, n)


@pytest.mark.parametrize("n", [1, 16, 256])
def test_take_run_of_a_whole_pool(benchmark, pool: mrm.Pool, n: int) -> None:
    benchmark(lambda: pool.give(pool.take_run(n)))


@pytest.fixture
def in_pieces(pool: mrm.Pool) -> Iterator[mrm.Pool]:
    """Every second frame is held, up to the last quarter."""
    frames = list(pool.take(len(pool)))
    held = [frame for frame in frames if frame % 2 and frame < 3 * len(pool) // 4]
    pool.give([frame for frame in frames if frame not in set(held)])
    yield pool
    pool.give(held)


@pytest.mark.parametrize("n", [2, 64])
def test_take_run_of_a_pool_in_pieces(benchmark, in_pieces: mrm.Pool, n: int) -> None:
    benchmark(lambda: in_pieces.give(in_pieces.take_run(n)))


def test_give_after_retire_and_retire(benchmark, pool: mrm.Pool) -> None:
    def cycle() -> None:
        pool.give(pool.take(64), reuse="after_retire")
        pool.retire()

    benchmark(cycle)
