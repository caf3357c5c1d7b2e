"""Runs both clients from several threads at once, on one pool, and prints what they say."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import cworker
import cyworker

import mrm

THREADS, ROUNDS = 4, 25


def in_threads(function, *arguments):
    with ThreadPoolExecutor(THREADS) as threads:
        return [f.result() for f in [threads.submit(function, *arguments) for _ in range(THREADS)]]


def c(pool):
    said = cworker.lib.work(mrm.api_address(), id(pool), THREADS, ROUNDS)
    return said and cworker.ffi.string(said).decode()


assert mrm.__file__.startswith(os.environ["PYTHONPATH"]), mrm.__file__
with mrm.Pool("128MiB", huge="off") as pool:
    said = in_threads(c, pool) + in_threads(cyworker.work, pool, THREADS, ROUNDS)
    stats = pool.audit()
    assert stats.held == stats.mapped == stats.pending == stats.views_open == stats.reservations == 0, stats
    assert stats.views_opened == 2 * THREADS * ROUNDS, stats
own = cworker.lib.own_pool(mrm.api_address())
said.append(own and cworker.ffi.string(own).decode())
if any(said):
    sys.exit("\n".join(filter(None, said)))
