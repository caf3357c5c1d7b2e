"""Threads that use a pool while something else is done to it, and see whether anything is lost."""

import ctypes
import threading

from helpers import FRAME, stamp, stamp_at, wait_until

_MIDDLE = slice(8, FRAME - 8)  # what stamps leave alone


class Mutators:
    """Threads with frames of their own, full of a pattern, that they look at and change all the time.

    Each takes, fills and gives others meanwhile. A context manager: at its end every byte of their frames has been
    compared, and they are given back.

    Attributes
    ----------
    rounds : list of int
        How often each thread has been through its frames.
    lost : list of int
        Frames that did not hold what they should.

    Parameters
    ----------
    pool : Pool
        The pool.
    held : int
        Frames that they hold together.
    threads : int, optional
        How many there are.
    """

    def __init__(self, pool, held, threads=2):
        self.pool = pool
        self.rounds = [0] * threads
        self.lost = []
        self._share = held // threads
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(which,)) for which in range(threads)]

    def __enter__(self):
        for each in self._threads:
            each.start()
        wait_until(lambda: all(self.rounds), 300)
        return self

    def __exit__(self, *exception):
        self.end()

    def end(self):
        """Have them compare every byte, give their frames back, and end. Idempotent."""
        self._ended.set()
        for each in self._threads:
            each.join()

    def go_on(self):
        """Wait until each has been through its frames twice more."""
        before = list(self.rounds)
        wait_until(lambda: all(now > then + 2 for now, then in zip(self.rounds, before, strict=True)), 300)

    def _work(self, which):
        pool, number = self.pool, self.rounds
        mine = pool.take(self._share)
        for frame in mine:
            ctypes.memset(pool.address(frame), _pattern(frame), FRAME)
            stamp(pool.address(frame), frame)
        while not self._ended.is_set():
            for frame in mine:
                if stamp_at(pool.address(frame)) != frame + number[which] * 4096:
                    self.lost.append(frame)
                stamp(pool.address(frame), frame + (number[which] + 1) * 4096)
            number[which] += 1
            other = pool.take()
            stamp(pool.address(other), 1 << 40 | other)
            if stamp_at(pool.address(other)) != 1 << 40 | other:
                self.lost.append(other)
            pool.give(other)
        for frame in mine:
            if bytes(pool[frame][_MIDDLE]) != bytes([_pattern(frame)]) * (FRAME - 16):
                self.lost.append(frame)
        pool.give(mine)


def _pattern(frame):
    """A byte that a cleared page does not have."""
    return frame % 255 + 1
