"""Where frames lie and what they are made of: asked for beforehand, and seen afterwards.

The kernel takes a node as an order and huge pages as a wish, and reports neither. So
what came of it is looked up: nodes by move_pages, which moves nothing when it is given
no target, and huge pages in ``/proc/self/smaps``.

A policy belongs to a thread, and threads inherit it. The caller's is never touched: what
needs another one is done by threads of ``labour``, which end with the job.
"""

import array
from collections import Counter
from pathlib import Path

from mrm.system.calls import system_call

_MPOL_DEFAULT, _MPOL_BIND = 0, 2
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
    step = _PAGES_A_CALL * page_size
    for first in range(address, address + nbytes, step):
        pages = array.array("Q", range(first, min(first + step, address + nbytes), page_size))
        where = array.array("i", [-1]) * len(pages)
        system_call("move_pages", 0, len(pages), pages.buffer_info()[0], 0, where.buffer_info()[0], 0)
        found.update(where)
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
