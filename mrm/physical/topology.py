"""The machine's nodes: which have memory, how far they are from each other, and which processors are on them.

From /sys, where the kernel tells the firmware's table of distances (10 is a node's own). Where
that is hidden or says nothing, there is one node. A test can put another table in its
place: ``pretend``.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_text
from mrm.physical.limits import allowed_nodes, nodes, parse_list

_OWN, _OTHER = 10, 20  # distances where the kernel tells none, as it assumes itself


@dataclass(frozen=True)
class Topology:
    """Nodes and processors.

    Attributes
    ----------
    online : tuple of int
        All nodes.
    memory : tuple of int
        Those whose memory this process may use.
    processors : dict
        The node of each processor. Of one that is offline the kernel may not tell it.
    distances : dict
        From one node to each of ``online``, in their order.
    """

    online: tuple[int, ...] = (0,)
    memory: tuple[int, ...] = (0,)
    processors: dict[int, int] = field(default_factory=dict)
    distances: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def distance(self, node: int, other: int) -> int:
        """How far it is from one node to another."""
        told = self.distances.get(node, ())
        if len(told) == len(self.online) and other in self.online:
            return told[self.online.index(other)]
        return _OWN if node == other else _OTHER

    def nearest(self, node: int, among: list[int]) -> list[int]:
        """Nodes by their distance from one; of those at one distance, those that follow it first.

        So nodes that are equally far from all others do not all go to the same one for more.
        """
        return sorted(among, key=lambda other: (self.distance(node, other), other < node, other))


def topology(root: Path = ROOT) -> Topology:
    """What this machine is.

    Parameters
    ----------
    root : Path, optional
        What to read below.
    """
    if pretend.table is not None:
        return pretend.table
    base = root / "sys/devices/system/node"
    online = tuple(nodes(root))
    processors: dict[int, int] = {}
    distances: dict[int, tuple[int, ...]] = {}
    for node in online:
        words = read_text(base / f"node{node}/distance").split()
        if words and all(word.isdigit() for word in words):
            distances[node] = tuple(map(int, words))
        # Links are there for processors that are offline, too, on some kernels; the list has the others.
        for link in base.glob(f"node{node}/cpu[0-9]*"):
            if found := re.fullmatch(r"cpu(\d+)", link.name):
                processors[int(found[1])] = node
        processors |= dict.fromkeys(parse_list(read_text(base / f"node{node}/cpulist")), node)
    return Topology(online, tuple(allowed_nodes(root)), processors, distances)


class pretend:  # noqa: N801
    """Go by another table of nodes, for tests, until the ``with`` ends.

    Parameters
    ----------
    table : Topology
        What to go by.
    """

    table: Topology | None = None

    def __init__(self, table: Topology) -> None:
        self._table = table

    def __enter__(self) -> Topology:
        pretend.table = self._table
        return self._table

    def __exit__(self, *exception: object) -> None:
        pretend.table = None
