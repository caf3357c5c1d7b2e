"""What a run of the demo found, in figures: for the display, the report and ``--json``."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99, 100.0)


class Counters(NamedTuple):
    """Running totals of a world, read while it runs."""

    cycles: int
    flips: int
    sparse: int
    empty: int
    batches: int
    checkpoints: int
    copied_bytes: int
    copied_objects: int
    copied_by_mutators: int
    copies_lost: int
    traps: int
    slowest_checkpoint_ns: int
    operations: int
    reads: int
    writes: int
    replaced: int
    refused: int
    healed: int
    in_place: int
    again: int
    worst_lately_ns: int


class Cycle(NamedTuple):
    """One cycle of the relocator; times in nanoseconds."""

    begun: int
    mark: int
    settle: int
    open: int
    flip: int
    retire: int
    relocate: int
    slowest: int
    live_objects: int
    sparse: int
    empty: int
    batches: int
    copied: int
    live: int


class Latency:
    """Operations by how long they took."""

    def __init__(self, counts: list[tuple[int, int]], worst: int) -> None:
        merged: dict[int, int] = {}
        for ns, n in counts:
            merged[ns] = merged.get(ns, 0) + n
        self.counts = sorted(merged.items())
        self.worst = worst
        self.total = sum(n for _, n in self.counts)

    def percentile(self, percent: float) -> int:
        """Nanoseconds that ``percent`` of the operations did not exceed."""
        if percent >= 100.0:
            return self.worst
        below = self.total * percent / 100.0
        seen = 0
        for ns, n in self.counts:
            seen += n
            if seen >= below:
                return min(ns, self.worst)
        return self.worst

    def percentiles(self) -> dict[str, int]:
        """The usual ones, in nanoseconds, by name."""
        return {f"p{p:g}": self.percentile(p) for p in PERCENTILES}

    def encoded(self) -> str | None:
        """As an HDR histogram in its interchange format; None without ``hdrhistogram``."""
        try:
            from hdrh.histogram import HdrHistogram
        except ImportError:
            return None
        histogram = HdrHistogram(1, 2**40, 2)
        for ns, n in self.counts:
            histogram.record_value(max(ns, 1), n)
        return str(histogram.encode().decode())


@dataclass
class Sample:
    """What happened in a short stretch of the run."""

    at: float
    operations_per_s: float
    pages_per_s: float
    worst_ns: int
    shootdowns: int
