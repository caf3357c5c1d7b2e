"""What tests on real nodes ask the kernel: where pages lie, how many are free, and a thread's memory policy."""

import array
import contextlib
import mmap

import pytest
from helpers import FRAME, peek_at

from mrm.physical.limits import huge_pages, memory_nodes
from mrm.system.calls import system_call

NODES = memory_nodes()
DEFAULT, PREFERRED, BIND, INTERLEAVE = range(4)
_BITS = 1024


def policy():
    """This thread's memory policy and its nodes, as ``(mode, mask)``."""
    mode, mask = array.array("i", [-1]), array.array("Q", bytes(_BITS // 8))
    system_call("get_mempolicy", mode.buffer_info()[0], mask.buffer_info()[0], _BITS, 0, 0)
    return mode[0], int.from_bytes(mask.tobytes(), "little")


@contextlib.contextmanager
def bound(mode, *where):
    """This thread under a memory policy, which must be the same at the end."""
    before = policy()
    mask = sum(1 << node for node in where)
    system_call("set_mempolicy", mode, mask.to_bytes(_BITS // 8, "little"), _BITS + 1)
    try:
        assert policy() == (mode, mask)
        yield
        assert policy() == (mode, mask), "the thread's policy was changed"
    finally:
        system_call("set_mempolicy", before[0], before[1].to_bytes(_BITS // 8, "little"), _BITS + 1)


def places(pool):
    """How many pages of a pool lie on each node, as a dict."""
    step = mmap.PAGESIZE if pool.backing == "small" else FRAME
    found = {}
    for frame in range(len(pool)):
        pages = array.array("Q", range(pool.address(frame), pool.address(frame) + FRAME, step))
        for page in pages:
            peek_at(page)
        where = array.array("i", [-1]) * len(pages)
        system_call("move_pages", 0, len(pages), pages.buffer_info()[0], 0, where.buffer_info()[0], 0)
        for node in where:
            found[node] = found.get(node, 0) + 1
    return found


def free(node):
    """Huge pages that are free on a node."""
    return huge_pages(node=node).free


def needs_free(node, pages):
    """Skip the test where a node has fewer free huge pages."""
    if free(node) < pages:
        command = f"`mrm fund {pages * FRAME >> 20}MiB --node {node}` as root"
        pytest.skip(f"needs {pages} free huge pages on node {node}, and it has {free(node)}: {command}")
