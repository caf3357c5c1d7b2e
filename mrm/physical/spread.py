"""What ``numa_node="interleave"`` and ``"local"`` come to: which node each frame of a pool is to lie on.

*Interleave* has the kernel take the pages of the file from all nodes in turn (MPOL_INTERLEAVE,
which for shared memory goes by the offset in the file: frame i always comes from the same node, now
and when it is fetched again). A node without a page left is passed over.

*Local* divides the frames' numbers: each node has one stretch of those that are funded now, and one of
those that may come later (``maximum=``). Shares are equal, unless a node has fewer pages free; then
the others make up for it, and that is said. The memory of each stretch is fetched by threads that are
bound to its node, so that it lies there or is refused; nodes.pyx says what takers make of it.

Nodes without any huge page have no share of those. Where one node is left, there is nothing to
spread, and no thread is bound.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from mrm.errors import ArgumentError, FundingError
from mrm.physical.backings import HUGETLB
from mrm.physical.limits import huge_pages, memory_available, numbered
from mrm.physical.topology import Topology, topology
from mrm.sizes import format_size
from mrm.system.pages import frame_size

WORDS = ("interleave", "local")

#: In the place of a node: of a frame without memory.
NOWHERE = -(1 << 16)

# As nodes.pxd has it.
_MOST_PARTS = 1024
# What is left of ordinary memory to others, as ``explain_ordinary_shortage`` leaves it.
_SLACK = 64 << 20


@dataclass(frozen=True)
class Part:
    """Frames with numbers that go on, on one node."""

    node: int
    first: int
    count: int

    @property
    def end(self) -> int:
        """The number behind the last."""
        return self.first + self.count


@dataclass
class Spread:
    """How the frames of a pool lie on several nodes.

    Attributes
    ----------
    kind : str
        ``"interleave"`` or ``"local"``.
    nodes : list of int
        The nodes that take part.
    machine : Topology
        What they are of.
    funded : int
        Frames that get memory now: those with the lowest numbers.
    parts : list of Part
        Local only: all frame numbers, ascending.
    found : dict
        Interleave only: pages that came from each node.
    kept : bool
        Whether some lie where they lay before, whatever the shares would be.
    """

    kind: str
    nodes: list[int]
    machine: Topology
    funded: int
    parts: list[Part] = field(default_factory=list)
    found: dict[int, int] = field(default_factory=dict)
    kept: bool = False

    def node_of(self, frame: int) -> int:
        """The node that a frame belongs to. Local only."""
        return next(part.node for part in self.parts if frame < part.end)

    def pieces(self, start: int, end: int, most: int) -> Iterator[tuple[int, int, int]]:
        """(node, first frame, frames) of no more than ``most`` frames, from each part in turn. Local only.

        So threads that take one after the other are at work on all nodes at once.
        """
        queues = [iter(_cut(part, start, end, most)) for part in self.parts]
        while queues:
            for queue in list(queues):
                piece = next(queue, None)
                if piece is None:
                    queues.remove(queue)
                else:
                    yield piece

    def regroup(self, where: Iterable[int]) -> None:
        """Go by where the first frames really lie, as they were kept as they were.

        One without memory (``NOWHERE``) belongs to where the one before it lies: such is a stretch of
        numbers of a node.
        """
        known = list(where)
        self.kept = True
        before = next((node for node in known if node != NOWHERE), self.nodes[0])
        for frame, node in enumerate(known):
            known[frame] = before = before if node == NOWHERE else node
        if strays := sorted({node for node in known if node < 0}):
            raise FundingError(
                f"the kernel does not say where frames lie that were kept (errno {-strays[0]})"
            )
        rest = [part for part in self.parts if part.end > len(known)]
        lying = [*known, *([rest[0].node] * (rest[0].end - len(known)) if rest else ())]
        parts, first = [], 0
        for node, frames in groupby(lying):
            count = sum(1 for _ in frames)
            parts.append(Part(node, first, count))
            first += count
        self.parts = parts + rest[1:]
        self.nodes = sorted({part.node for part in self.parts})
        if len(self.parts) > _MOST_PARTS:
            raise FundingError(
                f"the file's {len(known)} frames lie on {numbered(self.nodes)} in {len(self.parts)} stretches of "
                f"numbers, and no more than {_MOST_PARTS} can be told apart: leave numa_node out"
            )

    # ---- words ---------------------------------------------------------------------------

    @property
    def words(self) -> str:
        """Where the frames are, to go on with a sentence."""
        wish = f'numa_node="{self.kind}"'
        if self.kind == "interleave":
            shares = ", ".join(f"{n} from node {node}" for node, n in self.found.items())
            return f"{wish} has its pages in turn, {shares}"
        stretches = [part for part in self.parts if part.count]
        named = stretches if len(stretches) <= 16 else stretches[:15]
        said = [f"frames {part.first} to {part.end - 1} on node {part.node}" for part in named]
        if len(named) < len(stretches):
            said.append(f"and {len(stretches) - len(named)} stretches more")
        return f"{wish} has {', '.join(said)}"

    @property
    def uneven(self) -> str:
        """How it is other than it should be; empty if it is not, or if more pages could not mend it."""
        if self.kept:
            return ""
        if self.kind == "interleave":
            has = {node: self.found.get(node, 0) for node in self.nodes}
            fair = sum(self.found.values()) // len(self.nodes)
        else:
            has = dict.fromkeys(self.nodes, 0)
            for part in self.parts:
                has[part.node] += max(0, min(part.end, self.funded) - part.first)
            fair = self.funded // len(self.nodes)
        poor = [node for node, n in has.items() if n < fair]
        if not poor:
            return ""
        shares = ", ".join(f"{n} on node {node}" for node, n in has.items())
        return (
            f"The pool's frames are not spread evenly over NUMA {numbered(self.nodes)}: {shares}. "
            f"{self.advice(dict.fromkeys(poor, fair))}"
        )

    def advice(self, wanted: dict[int, int]) -> str:
        """What each node would have to have free, and how it gets that."""
        ways = [f"`mrm fund {n * frame_size() >> 20}MiB --node {node}`" for node, n in wanted.items() if n]
        return f"For even shares, as root: {', '.join(ways)}." if ways else ""

    def shortage(self) -> str:
        """Which nodes have less than an equal share, now: for a pool that could not be funded."""
        fair = dividing(self.funded, dict.fromkeys(self.nodes, self.funded))
        return self.advice({node: n for node, n in fair.items() if _room(node, HUGETLB, n) < n})

    # ---- for the core ----------------------------------------------------------------------

    def table(self) -> tuple[list[int], list[int], list[int], int, list[int]]:
        """What nodes_open takes: node numbers, parts, orders, how many of these, the order of each processor."""
        nodes = sorted({part.node for part in self.parts if part.count})
        place = {node: i for i, node in enumerate(nodes)}
        parts = [(place[part.node], part.first, part.end) for part in self.parts if part.count]
        # Each node's own order first, then those of processors on nodes that have no frames.
        rows = [*nodes, *sorted(set(self.machine.processors.values()) - set(nodes))]
        orders = [place[node] for row in rows for node in self.machine.nearest(row, nodes)]
        row_of = {node: i for i, node in enumerate(rows)}
        last = max(self.machine.processors, default=-1)
        by_processor = [row_of[self.machine.processors.get(cpu, rows[0])] for cpu in range(last + 1)]
        return nodes, [n for part in sorted(parts) for n in part], orders, len(rows), by_processor


def _cut(part: Part, start: int, end: int, most: int) -> Iterator[tuple[int, int, int]]:
    """A part's frames from ``start`` to before ``end``, in pieces."""
    end = min(part.end, end)
    for first in range(max(part.first, start), end, most):
        yield part.node, first, min(most, end - first)


def check_node(numa_node: object, there: list[int]) -> tuple[int | None, str | None]:
    """A node, or how to spread over all, out of what somebody gave as ``numa_node``.

    Raises
    ------
    ArgumentError
        If it is neither; it says what is allowed.
    """
    if numa_node is None:
        return None, None
    if isinstance(numa_node, str) and numa_node in WORDS:
        return None, numa_node
    if isinstance(numa_node, int) and not isinstance(numa_node, bool) and numa_node in there:
        return numa_node, None
    allowed = f'{", ".join(map(str, there))}, "interleave" or "local"'
    if isinstance(numa_node, int) and not isinstance(numa_node, bool):
        raise ArgumentError(f"this machine has no NUMA node {numa_node!r}: numa_node is one of {allowed}")
    raise ArgumentError(f"numa_node is one of {allowed}, not {numa_node!r}")


def dividing(count: int, room: dict[int, int]) -> dict[int, int]:
    """Equal shares of ``count``; what a node has no room for, the others have, evenly too.

    Where all have too little room, shares are equal: the kernel will say what it says.
    """
    shares: dict[int, int] = {}
    left, open_nodes = count, list(room)
    while open_nodes:
        fair, more = divmod(left, len(open_nodes))
        even = {node: fair + (i < more) for i, node in enumerate(open_nodes)}
        poor = [node for node in open_nodes if room[node] < even[node]]
        if not poor:
            return {node: (shares | even)[node] for node in room}
        for node in poor:
            shares[node] = room[node]
            left -= room[node]
            open_nodes.remove(node)
    return dividing(count, dict.fromkeys(room, count)) if room else {}


def spreading(kind: str, backing: int, funded: int, numbers: int, keep: bool) -> tuple[Spread | None, str]:
    """How so many frames of one kind of memory are to be spread, and in words why not, if there is one node.

    Parameters
    ----------
    kind : str
        One of ``WORDS``.
    backing : int
        What the frames are made of.
    funded : int
        Frames that get memory now.
    numbers : int
        Frame numbers there are to be.
    keep : bool
        Whether some of them may have memory already: then shares go by number alone.
    """
    machine = topology()
    nodes = list(machine.memory)
    what = "memory"
    if backing == HUGETLB:
        pools = {node: huge_pages(node=node) for node in nodes}
        if with_pages := [node for node, pages in pools.items() if pages and pages.total]:
            nodes = with_pages
            what = "huge pages" if len(machine.memory) > 1 else what
    if len(nodes) < 2:
        why = f'on NUMA {numbered(nodes)}, the only one with {what} here: numa_node="{kind}" has nothing to spread'
        return None, why
    room = {node: _room(node, backing, funded) for node in nodes}
    spread = Spread(kind, nodes, machine, funded)
    if kind == "local":
        first = 0
        for count in (funded, numbers - funded):
            unlimited = keep or first
            shares = dividing(count, dict.fromkeys(nodes, count) if unlimited else room)
            for node, n in shares.items():
                if n:
                    spread.parts.append(Part(node, first, n))
                    first += n
    return spread, ""


def _room(node: int, backing: int, most: int) -> int:
    """Frames that a node has memory for, as far as can be told; ``most`` where it cannot."""
    if backing == HUGETLB:
        pages, machine = huge_pages(node=node), huge_pages()
        if pages is None or machine is None:
            return most
        return min(most, pages.available + machine.growth)
    available = memory_available(node)
    if available is None:
        return most
    return min(most, max(0, (available - _SLACK) * 64 // 65) // frame_size())


def levelling(has: dict[int, int], n: int) -> dict[int, int]:
    """``n`` frames of these, so that what each node has left is as even as it can be: as nodes_share divides them.

    But for what is left over at the end, less than one for each node.
    """
    left = dividing(max(0, sum(has.values()) - n), dict(reversed(has.items())))
    return {node: has[node] - left[node] for node in has}


def missing_on(by_node: dict[int, int]) -> str:
    """A sentence about nodes that have too few huge pages for the frames of theirs that are to have memory."""
    said = []
    for node, n in by_node.items():
        pages = huge_pages(node=node)
        if n and pages is not None and pages.available < n:
            fund = f"`mrm fund {n * frame_size() >> 20}MiB --node {node}`"
            said.append(
                f"NUMA node {node} has {pages.free} of {pages.total} huge pages of {format_size(frame_size())} free, "
                f"and {n} frames that belong there have no memory: run {fund} as root."
            )
    return " ".join(said)
