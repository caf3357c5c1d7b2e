"""What Python adds: the same calls as from C, made by people."""

from array import array

import pytest

import mrm
from mrm.system.calls import Script


def test_take_and_give_one(benchmark, pool: mrm.Pool) -> None:
    benchmark(lambda: pool.give(pool.take()))


@pytest.mark.parametrize("n", [8, 64, 512])
def test_take_and_give_arrays(benchmark, pool: mrm.Pool, n: int) -> None:
    benchmark(lambda: pool.give(pool.take(n)))


def test_give_a_list(benchmark, pool: mrm.Pool) -> None:
    benchmark(lambda: pool.give(list(pool.take(64))))


def test_address_of_a_frame(benchmark, pool: mrm.Pool) -> None:
    with pool.open_view() as view:
        benchmark(view.address, 5)


def test_buffer_of_a_frame(benchmark, pool: mrm.Pool) -> None:
    with pool.open_view() as view:
        benchmark(lambda: view[5])


def test_classify(benchmark, pool: mrm.Pool) -> None:
    with pool.open_view() as view:
        benchmark(mrm.classify, view.address(5))


@pytest.mark.parametrize("n", [1, 512])
def test_batch_on_a_system_that_maps_nothing(benchmark, n: int) -> None:
    """All that is ours of a batch: its checks, its plan and its books, and Python's part."""
    with Script(fake=True, record=False), mrm.Pool(n * mrm.FRAME_SIZE, huge="require") as pool:
        frames = pool.take(n)
        state = [array("I", range(n)), array("I", range(n, 2 * n))]
        with pool.reserve(2 * n) as reservation:
            with reservation.batch() as batch:
                batch.map(state[0], frames)

            def cycle() -> None:
                with reservation.batch() as batch:
                    batch.move(state[0], state[1], deferred=True)
                reservation.retire()
                state.reverse()

            benchmark(cycle)
        pool.give(frames)
