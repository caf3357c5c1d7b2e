"""Where frames lie and what they are made of: asked for beforehand, and seen afterwards.

The kernel takes a node as an order and huge pages as a wish, and reports neither. So
what came of it is looked up: nodes by move_pages, which moves nothing when it is given
no target, and huge pages in ``/proc/self/smaps``.
"""

import array
from pathlib import Path

from mrm.system.calls import system_call
from mrm.system.pages import frame_size

_MPOL_BIND = 2
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


def frames_elsewhere(address: int, count: int, node: int) -> int:
    """How many of the frames mapped at ``address`` lie on another node.

    Parameters
    ----------
    address : int
        Of the first one.
    count : int
        How many there are.
    node : int
        Where they should be. A frame whose place the kernel does not tell counts as
        being there.
    """
    wrong = 0
    size = frame_size()
    for first in range(0, count, _PAGES_A_CALL):
        n = min(_PAGES_A_CALL, count - first)
        pages = array.array("Q", (address + (first + i) * size for i in range(n)))
        found = array.array("i", [-1]) * n
        system_call("move_pages", 0, n, pages.buffer_info()[0], 0, found.buffer_info()[0], 0)
        wrong += sum(1 for place in found if place >= 0 and place != node)
    return wrong


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
