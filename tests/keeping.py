"""Files of frames that outlive their pools: what is written in them, and how they look from outside."""

import os

from helpers import FRAME, stamp_at

import mrm.system.calls as calls
from mrm.physical.kept import pages_at

FRAMES = 16
SIZE = FRAMES * FRAME
STAMPED = [0x5EED << 32 | frame for frame in range(FRAMES)]
# What a close that is made to fail leaves open, and munmap, is the test's doing.
FAILING = sorted(set(calls.KINDS) - {"close", "munmap"})


def punch(path, *frames):
    """Take pages of a file away."""
    fd = os.open(path, os.O_RDWR)
    for frame in frames:
        calls.system_call("fallocate", fd, 3, frame * FRAME, FRAME)
    os.close(fd)


def stamps(pool, count=None):
    """The stamps of all frames, or of the first ones."""
    return [stamp_at(pool.address(frame)) for frame in range(len(pool) if count is None else count)]


def state(path):
    """A file as it can be seen: its size, its pages, and what they hold."""
    if not path.exists():
        return None
    size, pages = path.stat().st_size, pages_at(str(path))
    fd = os.open(path, os.O_RDONLY)
    words = [os.pread(fd, 8, frame * FRAME) for frame in range(size // FRAME)]
    os.close(fd)
    return size, pages, words
