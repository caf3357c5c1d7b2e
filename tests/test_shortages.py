"""Shortages: a function is called, and the taker tried again; on the fake, as nothing is touched."""

import sys

import pytest
from helpers import FRAME, MANY

import mrm


@pytest.fixture
def pool(fake_pool):
    return fake_pool


def test_a_shortage_is_told_and_the_taker_tried_again(pool):
    heap = pool.account("heap")
    heap.fund(4)
    held, told = list(heap.take(4)), []

    def relieve(name, wanted):
        told.append((name, wanted))
        pool.give([held.pop() for _ in range(wanted)])

    pool.on_shortage(relieve)
    heap.take()
    heap.take(2)
    assert told == [("heap", 1), ("heap", 2)]
    pool.on_shortage(None)
    with pytest.raises(mrm.OutOfFrames):
        heap.take(2)
    assert len(told) == 2


def test_a_callback_that_frees_nothing_or_to_another_is_called_once(pool):
    heap = pool.account("heap")
    held, told = pool.take(MANY), []
    pool.on_shortage(lambda *what: told.append(what))
    with pytest.raises(mrm.OutOfFrames):
        pool.take()
    with pytest.raises(mrm.OutOfFrames):
        heap.take_run(2)
    assert told == [("pool", 1), ("heap", 2)]
    pool.on_shortage(lambda name, wanted: pool.give(held[0]))
    with pytest.raises(mrm.OutOfFrames):
        heap.take()


def test_a_callback_may_close_the_pool():
    pool = mrm.Pool(2 * FRAME, huge="off")
    pool.take(2)
    pool.on_shortage(lambda name, wanted: pool.close())
    with pytest.raises(mrm.OutOfFrames):
        pool.take()
    assert pool.closed


def test_what_a_callback_takes_does_not_call_it_again(pool):
    pool.take(MANY)
    told = []

    def take_more(name, wanted):
        told.append(wanted)
        with pytest.raises(mrm.OutOfFrames):
            pool.take(3)

    pool.on_shortage(take_more)
    with pytest.raises(mrm.OutOfFrames):
        pool.take()
    with pytest.raises(mrm.OutOfFrames):
        pool.take(MANY + 1)  # which nobody could give: no shortage
    assert told == [1]


def test_a_callback_that_raises_is_reported_and_the_taker_refused(pool, monkeypatch):
    pool.take(MANY)
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    pool.on_shortage(lambda name, wanted: 1 / 0)
    with pytest.raises(mrm.OutOfFrames):
        pool.take()
    assert [type(report.exc_value) for report in reported] == [ZeroDivisionError]
    reported.clear()
    with pytest.raises(mrm.ArgumentError, match="a function"):
        pool.on_shortage(3)
