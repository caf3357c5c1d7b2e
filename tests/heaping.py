"""What the tests of heaps need: heaps of each kind, contents of any length, and what a heap's figures must obey."""

import contextlib
import ctypes
import os
import threading

from helpers import FRAME, wait_until

import mrm

#: Kinds of memory that a heap has, and the ``huge=`` of its pool.
KINDS = {"huge": "require", "small": "off", "private": None}

FRAMES = 64  # of the pool of a test
SMALL = 1 << 20  # bytes of the largest block that is no run of slots


@contextlib.contextmanager
def opened(kind, frames=FRAMES, **options):
    """A heap of a kind, on a pool of its own where it has one; nothing of the pool is held in the end."""
    if kind == "private":
        with mrm.Heap(**options) as heap:
            yield heap
        return
    with mrm.Pool(frames * FRAME, huge=KINDS[kind]) as pool:
        with mrm.Heap(pool, **options) as heap:
            yield heap
        pool.on_shortage(None)
        assert pool.audit().free == frames, "the heap kept frames"


def write(address, nbytes, seed):
    """Fill bytes with a pattern of their own."""
    ctypes.memmove(address, pattern(nbytes, seed), nbytes)


def holds(address, nbytes, seed):
    """Whether bytes are as ``write`` left them."""
    return ctypes.string_at(address, nbytes) == pattern(nbytes, seed)


def pattern(nbytes, seed):
    """Bytes in which no two places that a block could be mixed up with look alike."""
    piece = seed.to_bytes(8, "little") + bytes(range(1, 102))
    return (piece * (nbytes // len(piece) + 1))[:nbytes]


def mark(address, nbytes, seed):
    """Stamp each 4 KiB of a large block, which is quicker than all of it."""
    for at in range(address, address + nbytes, 4096):
        ctypes.c_uint64.from_address(at).value = seed << 32 | (at - address) >> 12


def marked(address, nbytes, seed):
    """Whether each 4 KiB is as ``mark`` left it."""
    return all(
        ctypes.c_uint64.from_address(at).value == seed << 32 | (at - address) >> 12
        for at in range(address, address + nbytes, 4096)
    )


def is_zero(address, nbytes):
    """Whether bytes are all zero."""
    return not ctypes.string_at(address, nbytes).strip(b"\0")


def check_figures(heap):
    """What must hold of the figures of a heap at rest; they are returned."""
    stats = heap.stats()
    assert stats.memory == stats.segments * FRAME + stats.large_memory + stats.kept
    assert stats.memory <= stats.memory_peak
    assert stats.blocks == sum(each.blocks for each in stats.classes)
    assert stats.bytes == sum(each.bytes for each in stats.classes)
    assert stats.large_bytes <= stats.large_memory
    for each in stats.classes:
        assert 0 <= each.blocks <= each.room
        assert each.bytes + each.waste == each.memory <= stats.segments * FRAME
    assert 0 <= stats.fragmentation <= 1
    return stats


def walked(heap):
    """The blocks that a walk finds, as a dict of bytes by address; none of them overlaps another."""
    blocks = dict(heap.blocks())
    end = 0
    for address in sorted(blocks):
        assert address >= end, f"blocks overlap at {address:#x}"
        end = address + blocks[address]
    return blocks


def fill_up(allocate):
    """What ``allocate()`` returns until memory is out, as a list."""
    made = []
    with contextlib.suppress(mrm.OutOfFrames):
        while True:
            made.append(allocate())
    return made


def started(functions):
    """Threads that run, one for each function, and a list of what these raise."""
    failed = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    return threads, failed


@contextlib.contextmanager
def beside(*functions):
    """While the block runs, each function runs in a thread, with an event that tells it to return."""
    stop = threading.Event()
    threads, failed = started([lambda function=function: function(stop) for function in functions])
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def run(*functions, whole=True):
    """Each function in a thread of its own, until all have ended; what they raised is raised.

    Until 3.12 Python's join returns before a thread has left its heaps: ``whole`` waits for that, too.
    """
    threads, failed = started(functions)
    for thread in threads:
        thread.join()
    if whole:
        wait_until(
            lambda: not any(os.path.exists(f"/proc/self/task/{thread.native_id}") for thread in threads)
        )
    if failed:
        raise failed[0]
