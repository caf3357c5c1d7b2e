"""What allocators are measured on: names, sizes, and how much memory each takes."""

from collections.abc import Callable
from dataclasses import dataclass

from mrm.tools.bench.heap.allocator import Allocator
from mrm.tools.bench.heap.handing import HandedOn
from mrm.tools.bench.heap.lanes import Workload
from mrm.tools.bench.heap.large import Grow, GrowWritten, Large
from mrm.tools.bench.heap.larson import Larson
from mrm.tools.bench.heap.mixing import Mixed
from mrm.tools.bench.heap.small import Churn, Lifo, Pairs

KIB, MIB = 1 << 10, 1 << 20

#: What a workload is of.
SMALL, MEDIUM, LARGE, GROWTH = "small", "medium", "large", "growth"


@dataclass(frozen=True)
class Kind:
    """A workload before it is measured.

    Attributes
    ----------
    name, what : str
        In a word, and in a sentence.
    of : str
        Of what blocks: ``"small"``, ``"medium"``, ``"large"`` or ``"growth"``.
    make : type
        The class of its threads.
    slots, least, most, turn : int
        As ``Workload`` has them. ``most`` of a block that grows is what ``--grow-to`` says, of all threads together.
    """

    name: str
    what: str
    of: str
    make: Callable[..., Workload]
    slots: int
    least: int
    most: int
    turn: int = 1

    def most_of(self, threads: int, grow_to: int) -> int:
        """Bytes of the largest block of one thread."""
        if self.of != GROWTH:
            return self.most
        return max(self.least, grow_to // threads)

    def begun(self, allocator: Allocator, threads: int, grow_to: int) -> Workload:
        """Its threads, ready to begin."""
        return self.make(
            allocator,
            threads,
            slots=self.slots,
            least=self.least,
            most=self.most_of(threads, grow_to),
            turn=self.turn,
        )

    def memory(self, threads: int, grow_to: int) -> int:
        """Bytes that blocks have at the very most at one time, growing and copying allowed for."""
        held = self.slots + self.turn if self.of != GROWTH else 2
        return threads * held * self.most_of(threads, grow_to)


KINDS = (
    Kind("pairs", "a block of 16 to 256 bytes is allocated and freed at once", SMALL, Pairs, 1, 16, 256),
    Kind("lifo", "up to 256 such blocks are allocated, then freed in the reverse order", SMALL, Lifo, 256, 16, 256),
    Kind(
        "churn", "of 10,000 blocks of 16 bytes to 16 KiB one at random is replaced by another size's",
        SMALL, Churn, 10_000, 16, 16 * KIB,
    ),
    Kind(
        "larson", "a server (Larson and Krishnan 1998): 20,000 blocks of 8 to 1,000 bytes are replaced at random, and "
        "after 100,000 of them handed to a new thread",
        SMALL, Larson, 20_000, 8, 1_000, 100_000,
    ),
    Kind(
        "xmalloc", "half of the threads allocate blocks of 16 to 512 bytes, the others free them (Lever, Boreham 2000)",
        SMALL, HandedOn, 1, 16, 512, 256,
    ),
    Kind(
        "sh", "rounds of 4,096 blocks of 16 bytes to 4 KiB, freed in two orders, one in 16 later and by another thread "
        "(as sh6bench and sh8bench do)",
        SMALL, Mixed, 4_096, 16, 4 * KIB,
    ),
    Kind(
        "medium", "of 64 blocks of 8 KiB to 1 MiB one at random is replaced, and each of its pages touched",
        MEDIUM, Churn, 64, 8 * KIB, 1 * MIB,
    ),
    Kind(
        "large", "of 4 blocks of 2 to 16 MiB one at random is replaced, and written whole",
        LARGE, Large, 4, 2 * MIB, 16 * MIB,
    ),
    Kind(
        "grow", "a block grows from 1 MiB by an eighth at a time; of what is new a word is written",
        GROWTH, Grow, 1, 1 * MIB, 1 * MIB,
    ),
    Kind(
        "grow-written", "the same, and all that is new is written",
        GROWTH, GrowWritten, 1, 1 * MIB, 1 * MIB,
    ),
)  # fmt: skip

WORKLOADS = {kind.name: kind for kind in KINDS}
