"""What a run of ``mrm bench heap`` found, as plain data: the JSON is this, and so is every table and plot."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

MIB = 1 << 20

Spread = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """An allocator on a workload: medians of its processes.

    Attributes
    ----------
    workload : str
    threads : int
    allocator : str
    ops_per_s : float
        Blocks allocated and freed a second, by all threads together; of blocks that grow, steps a second.
    spread : tuple of float
        The slowest process and the fastest.
    peak_mib : float
        The most memory that it had, in MiB.
    """

    workload: str
    threads: int
    allocator: str
    ops_per_s: float
    spread: Spread
    peak_mib: float


@dataclass
class Result:
    """Everything that a run found."""

    machine: dict[str, Any]
    workloads: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: bool = False

    def figure(self, workload: str, threads: int, allocator: str) -> Figure | None:
        """That of an allocator, if it was measured."""
        return next(
            (
                f
                for f in self.workloads
                if (f.workload, f.threads, f.allocator) == (workload, threads, allocator)
            ),
            None,
        )

    def of(self, workload: str, threads: int) -> list[Figure]:
        """Those of all allocators on a workload."""
        return [f for f in self.workloads if (f.workload, f.threads) == (workload, threads)]

    def names(self, of: str) -> list[str]:
        """The ``"workload"`` or ``"allocator"`` of every figure, once each, in the order measured."""
        return list(dict.fromkeys(getattr(f, of) for f in self.workloads))

    def threads(self) -> list[int]:
        """Numbers of threads that were measured."""
        return sorted({f.threads for f in self.workloads})

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON types."""
        return asdict(self)


def figure(workload: str, threads: int, allocator: str, processes: Sequence[dict[str, Any]]) -> Figure:
    """What several processes found together."""
    rates = [found["ops_per_s"] for found in processes]
    return Figure(
        workload,
        threads,
        allocator,
        median(rates),
        (min(rates), max(rates)),
        median(found["peak_bytes"] for found in processes) / MIB,
    )


def over(mine: Figure | None, other: Figure | None, of: str = "ops_per_s") -> float | None:
    """One's figure over another's; None where either was not measured, or the other's is nothing."""
    if mine is None or other is None or not getattr(other, of):
        return None
    return float(getattr(mine, of) / getattr(other, of))


def best(figures: Iterable[Figure]) -> Figure | None:
    """The fastest."""
    return max(figures, key=lambda f: f.ops_per_s, default=None)
