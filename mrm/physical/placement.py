"""Where frames lie and what they are made of: asked for beforehand, and seen afterwards.

The kernel takes a node as an order and huge pages as a wish, and reports neither. So
what came of it is looked up: nodes by move_pages, which moves nothing when it is given
no target, and huge pages in ``/proc/self/smaps``. Where a container's filter refuses
move_pages, as Docker's does, get_mempolicy tells the same, an address a call.

A policy belongs to a thread, and threads inherit it. The caller's is never touched: what
needs another one is done by threads of ``labour``, which end with the job. mbind would not do:
hugetlbfs keeps no policy of a file, so that fallocate and other mappings do not see it
(system/policy.pyx).
"""

import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mrm.physical.permission import is_refused
from mrm.system.calls import system_call

_MPOL_DEFAULT, _MPOL_BIND, _MPOL_INTERLEAVE = 0, 2, 3
_MPOL_F_NODE_ADDR = 1 | 2  # the node of the page at an address
_NODE_BITS = 1024
# One call's share: 4096 addresses and answers are 48 KiB.
_PAGES_A_CALL = 4096


def bind_thread(node: int) -> None:
    """Bind the calling thread's memory to a NUMA node, for the rest of its life.

    Parameters
    ----------
    node : int
        Which. Memory that is not there is refused from then on, not taken elsewhere.
    """
    mask = (1 << node).to_bytes(_NODE_BITS // 8, "little")
    # The kernel reads one bit less than it is told.
    system_call("set_mempolicy", _MPOL_BIND, mask, _NODE_BITS + 1)


def interleave_thread(nodes: Iterable[int]) -> None:
    """Have the calling thread take memory from nodes in turn, for the rest of its life.

    Parameters
    ----------
    nodes : iterable of int
        Which. Where one has none left, the kernel goes to another.
    """
    mask = sum(1 << node for node in nodes).to_bytes(_NODE_BITS // 8, "little")
    system_call("set_mempolicy", _MPOL_INTERLEAVE, mask, _NODE_BITS + 1)


def free_thread() -> None:
    """Rid the calling thread of the memory policy that it inherited, for the rest of its life."""
    system_call("set_mempolicy", _MPOL_DEFAULT, 0, 0)


def bound_nodes() -> list[int] | None:
    """Nodes that the calling thread's memory policy binds it to; None if it binds it to none."""
    mode, mask = array.array("i", [_MPOL_DEFAULT]), array.array("Q", bytes(_NODE_BITS // 8))
    try:
        system_call("get_mempolicy", mode.buffer_info()[0], mask.buffer_info()[0], _NODE_BITS, 0, 0)
    except OSError:
        return None
    # Above the modes are flags: whether the nodes are counted within those allowed.
    if mode[0] & 0xFF != _MPOL_BIND:
        return None
    bits = int.from_bytes(mask.tobytes(), "little")
    return [node for node in range(_NODE_BITS) if bits >> node & 1]


def places(address: int, nbytes: int, page_size: int) -> Counter[int]:
    """How many of the pages mapped at ``address`` lie on each node.

    Parameters
    ----------
    address : int
        Of the first page.
    nbytes : int
        How much to look at. Pages that this process has not mapped there yet have no
        place, even if the file has them.
    page_size : int
        Bytes of one page.

    Returns
    -------
    Counter
        Pages by node; those that the kernel tells no node of by ``-errno``.
    """
    found: Counter[int] = Counter()
    for where in nodes_of(address, nbytes, page_size):
        found.update(where)
    return found


def node_at(address: int) -> int | None:
    """The node of the page at an address; None if the kernel tells none, as of a page not touched from here yet."""
    [where] = next(nodes_of(address, 1, 1))
    return where if where >= 0 else None


def nodes_of(address: int, nbytes: int, page_size: int) -> "Iterator[array.array[int]]":
    """The node of each of these pages, some thousand at a time, or ``-errno``."""
    step = _PAGES_A_CALL * page_size
    for first in range(address, address + nbytes, step):
        pages = array.array("Q", range(first, min(first + step, address + nbytes), page_size))
        where = array.array("i", [-1]) * len(pages)
        try:
            system_call("move_pages", 0, len(pages), pages.buffer_info()[0], 0, where.buffer_info()[0], 0)
        except OSError as error:
            if not is_refused(error):
                raise
            where = _nodes_one_by_one(pages)
        yield where


def _nodes_one_by_one(pages: Sequence[int]) -> "array.array[int]":
    """The node of each page, which is there and mapped."""
    found = array.array("i", [-1]) * len(pages)
    for i, page in enumerate(pages):
        system_call(
            "get_mempolicy", found.buffer_info()[0] + i * found.itemsize, 0, 0, page, _MPOL_F_NODE_ADDR
        )
    return found


def has_huge_frames(address: int) -> bool:
    """Whether any of the shared memory mapped from ``address`` on is in huge pages.

    Parameters
    ----------
    address : int
        Where the mapping begins. True if the kernel does not tell.
    """
    inside = False
    try:
        with Path("/proc/self/smaps").open() as lines:
            for line in lines:
                if line.startswith(f"{address:x}-"):
                    inside = True
                elif inside and line.startswith("ShmemPmdMapped:"):
                    return int(line.split()[1]) > 0
    except OSError:
        pass
    return True
