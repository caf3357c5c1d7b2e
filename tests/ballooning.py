"""The audit of a pool with a balloon: what is said to be in it, the kernel has been given."""

import os
import re

from helpers import FRAME


def blocks(pool):
    """Frames that the pool's file has memory for, as the kernel says."""
    [found] = {
        os.stat(f"/proc/self/fd/{fd}").st_blocks * 512
        for fd in os.listdir("/proc/self/fd")
        if re.match(rf"/memfd:{pool.name} ", _target(fd))
    }
    assert found % FRAME == 0, "a frame has some of its pages"
    return found // FRAME


def _target(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def audit(pool):
    """Everything adds up, and the kernel has given as much as is said."""
    stats = pool.audit()
    assert blocks(pool) == stats.frames - stats.inflated
    assert pool.size == stats.nbytes == (stats.frames - stats.inflated) * FRAME
    assert sum(fund.frames for fund in pool.funds.values()) == stats.frames - stats.inflated
    return stats
