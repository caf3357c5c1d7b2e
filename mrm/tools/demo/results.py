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
    blocked: int
    system_calls: int
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


class Sample(NamedTuple):
    """What happened in a short stretch of the run."""

    at: float  # seconds since the start, at the stretch's end
    operations_per_s: float
    remapped_per_s: float  # pages
    emptied_per_s: float  # pages
    worst_ns: int
    shootdowns_per_s: float
    free: int  # frames of the pool that nobody holds


class Stale(NamedTuple):
    """What a stale access did, in a process of its own."""

    trapped: bool
    words: str


@dataclass
class Outcome:
    """A whole run."""

    pool: dict[str, Any]  # size, backing, frames, frame_size
    mutators: int
    seed: int
    handles: int
    seconds: float
    counters: Counters
    latency: Latency
    own_latency: Latency
    cycles: list[Cycle]
    samples: list[Sample]
    shootdowns: int | None
    shootdowns_source: str
    interrupted: bool = False
    flaw: str | None = None
    stale: Stale | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every check held."""
        return self.flaw is None and self.counters.cycles > 0 and (self.stale is None or self.stale.trapped)

    @property
    def remapped(self) -> int:
        """Pages that came to new addresses by flips: every frame, each time."""
        return self.counters.flips * int(self.pool["frames"])

    @property
    def emptied(self) -> int:
        """Pages whose objects were moved out, or that had none left, and that were given back."""
        return self.counters.sparse + self.counters.empty

    @property
    def shootdowns_per_page(self) -> float | None:
        """Invalidations for each page remapped or emptied."""
        pages = self.remapped + self.emptied
        return None if self.shootdowns is None or not pages else self.shootdowns / pages

    def figures(self) -> dict[str, Any]:
        """Everything, for ``--json``."""
        nbytes = int(self.pool["frame_size"])
        return {
            "held": self.held,
            "flaw": self.flaw,
            "interrupted": self.interrupted,
            "stale_access": None if self.stale is None else self.stale._asdict(),
            "pool": self.pool,
            "mutators": self.mutators,
            "seed": self.seed,
            "objects": self.handles,
            "seconds": self.seconds,
            "cycles_per_s": self.counters.cycles / self.seconds,
            "pages_moved_per_s": (self.remapped + self.emptied) / self.seconds,
            "pages_remapped": self.remapped,
            "pages_remapped_per_s": self.remapped / self.seconds,
            "remapped_gb_per_s": self.remapped * nbytes / self.seconds / 1e9,
            "pages_emptied": self.emptied,
            "pages_emptied_per_s": self.emptied / self.seconds,
            "emptied_gb_per_s": self.emptied * nbytes / self.seconds / 1e9,
            "copied_gb_per_s": self.counters.copied_bytes / self.seconds / 1e9,
            "operations_per_s": self.counters.operations / self.seconds,
            "shootdowns": self.shootdowns,
            "shootdowns_source": self.shootdowns_source,
            "shootdowns_per_page": self.shootdowns_per_page,
            "system_calls": self.counters.system_calls,
            "fewest_free_frames": min((sample.free for sample in self.samples), default=None),
            "latency_ns": self.latency.percentiles(),
            "latency_own_ns": self.own_latency.percentiles(),
            "latency_hdr": self.latency.encoded(),
            "counters": self.counters._asdict(),
            "notes": self.notes,
        }
