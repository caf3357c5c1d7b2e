"""Views: opening, linking, retiring and closing them, and a collector's whole flip."""

from collections.abc import Iterator

import pytest

import mrm
from mrm.tools.bench.flips import Flip, FlipByHand
from mrm.tools.bench.ours import file_of


@pytest.fixture
def flip(pool: mrm.Pool) -> Iterator[Flip]:
    flipper = Flip(pool)
    yield flipper
    flipper.close()


@pytest.fixture
def flip_by_hand(pool: mrm.Pool) -> Iterator[FlipByHand]:
    flipper = FlipByHand(file_of(pool), len(pool) * pool.frame_size)
    yield flipper
    flipper.close()


def test_flip_from_c(benchmark, flip: Flip) -> None:
    benchmark(flip.run, 1)


def test_flip_by_hand(benchmark, flip_by_hand: FlipByHand) -> None:
    benchmark(flip_by_hand.run, 1)


def test_flip_from_python(benchmark, pool: mrm.Pool) -> None:
    def cycle() -> None:
        view = pool.open_view()
        bytes(view[0][:1])
        view.retire()
        view.close()

    benchmark(cycle)


def test_open_and_close_without_a_touch(benchmark, pool: mrm.Pool) -> None:
    benchmark(lambda: pool.open_view().close())


def test_reach_every_frame_of_a_fresh_view(benchmark, pool: mrm.Pool) -> None:
    def cycle() -> None:
        with pool.open_view() as view:
            for frame in range(len(pool)):
                view[frame][0]

    benchmark(cycle)
