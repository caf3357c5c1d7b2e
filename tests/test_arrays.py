"""Numbers of frames and slots: what is taken for them, and what is refused."""

import array
import ctypes

import pytest
from helpers import commit, shown

import mrm

numpy = pytest.importorskip("numpy")


NUMBERS = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "range": lambda n: range(n[0], n[-1] + 1),
    "generator": iter,
    "array": lambda n: array.array("I", n),
    "array of bytes": lambda n: array.array("B", n),
    "array of longs": lambda n: array.array("q", n),
    "memoryview": lambda n: memoryview(array.array("i", n)),
    "reversed memoryview": lambda n: memoryview(array.array("I", n[::-1]))[::-1],
    "ctypes": lambda n: (ctypes.c_uint32 * len(n))(*n),
    "uint32": lambda n: numpy.array(n, dtype=numpy.uint32),
    "uint16": lambda n: numpy.array(n, dtype=numpy.uint16),
    "int8": lambda n: numpy.array(n, dtype=numpy.int8),
    "int64": lambda n: numpy.array(n, dtype=numpy.int64),
    "uint64": lambda n: numpy.array(n, dtype=numpy.uint64),
    "every second": lambda n: numpy.repeat(numpy.array(n, dtype=numpy.uint32), 2)[::2],
    "read-only": lambda n: numpy.frombuffer(numpy.array(n, dtype=numpy.uint32).tobytes(), dtype=numpy.uint32),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_come_in_many_kinds(reservation, kind):
    frames = reservation.pool.take_run(3)
    commit(reservation, "map", NUMBERS[kind]([4, 5, 6]), frames)
    assert shown(reservation) == dict(zip([4, 5, 6], frames, strict=True))


@pytest.mark.parametrize(
    "one",
    [5, numpy.uint32(5), numpy.int64(5), numpy.array([5]), [5], (5,), range(5, 6)],
    ids=lambda v: type(v).__name__,
)
def test_a_single_number_is_an_array_of_one(reservation, one):
    commit(reservation, "map", one, reservation.pool.take())
    assert list(shown(reservation)) == [5]


@pytest.mark.parametrize(
    "none", [[], (), range(0), array.array("I"), numpy.array([], dtype=numpy.int64), iter([])]
)
def test_no_numbers_are_no_change(reservation, none):
    report = commit(reservation, "unmap", none)
    assert (report.pages, report.system_calls) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        "12", b"12", bytearray(b"12"), 1.0, [1.0], None, [None], True, [True], [[1]], -1, [-1], 2**32, [2**32], [2**70],
        range(-1, 3), range(2**32, 2**32 + 1), range(2**40), range(2**70), range(3, -2, -1),
        numpy.array([1.0]), numpy.array([-1]), numpy.array([2**32]), numpy.array([2**63], dtype=numpy.uint64),
        numpy.array([-1], dtype=numpy.int8), numpy.array([[1]]), numpy.array([True]), numpy.float64(1),
        numpy.array([1], dtype=">u4"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_number_is_refused(reservation, wrong):
    with reservation.batch() as batch:
        with pytest.raises(mrm.ArgumentError):
            batch.unmap(wrong, missing_ok=True)
        with pytest.raises(mrm.ArgumentError):
            batch.map(0, wrong)
        assert len(batch) == 0


def test_arrays_from_take_are_buffers_of_32_bits(pool):
    frames = numpy.frombuffer(pool.take(5), dtype=numpy.uint32)
    pool.give(frames[::-1])
    assert pool.stats().held == 0


def test_an_array_is_read_at_once(pool, reservation):
    frames = array.array("I", pool.take(3))
    batch = reservation.batch()
    batch.map(range(3), frames)
    wanted = list(frames)
    frames[0] = 99
    del frames[1:]  # not pinned any more, either
    batch.commit()
    assert [reservation[s] for s in range(3)] == wanted
    batch.abort()
