"""Heaps around heaps, which stack: each does one thing, and hands the rest on.

::

    heap = mrm.Heap(pool)
    counted = mrm.adaptors.Statistics(heap)
    logged = mrm.adaptors.Log(mrm.adaptors.Limit(counted, "256MiB"), "calls.csv")

    block = logged.malloc(4096)           # written down, then checked, then counted, then made
    with counted.scope("load") as load:
        array = logged.zeros((1000, 1000))
    print(load.counts().peak_bytes)

Whatever has a heap's methods can be wrapped, and is what a wrapper is itself; so an order is chosen by
what one is after. ``Limit`` says how much, ``Statistics`` counts, ``Log`` writes every call to a file that
``mrm replay`` runs again, ``Track`` knows where live blocks were made, and ``OnFailure`` has a last word when
memory is short.

Two sizes are meant. Where bytes are counted (``Limit``, ``Statistics``) they are those that a block *has*,
which is what it costs, and can be asked of the heap again when it is freed: no table is kept. Where a call is
written down (``Log``, ``Track``) they are those that were *asked for*: that is what has to be
asked for again, and what the code at that place knows.

An adaptor sees the calls that go through it: blocks that C code takes from the heap below, by its
handle, it does not. So it has no handle of its own, and who wants one (``mrm.numpy``, ``mrm.cffi``) calls the
adaptor's methods instead.
"""

from mrm.adaptors.adaptor import Adaptor, HeapLike
from mrm.adaptors.failure import OnFailure
from mrm.adaptors.limit import Limit
from mrm.adaptors.log import Log
from mrm.adaptors.statistics import Counts, Scope, ScopeTotals, Statistics
from mrm.adaptors.track import Track, Tracked

__all__ = [
    "Adaptor",
    "Counts",
    "HeapLike",
    "Limit",
    "Log",
    "OnFailure",
    "Scope",
    "ScopeTotals",
    "Statistics",
    "Track",
    "Tracked",
]
