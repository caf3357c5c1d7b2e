"""What a run of ``mrm bench balloon`` found, as plain data: the JSON is this, and so is every table and plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

Spread = tuple[float, float]


@dataclass(frozen=True)
class Rate:
    """One direction, beside the kernel's own rate for as many pages: medians over the cycles.

    Attributes
    ----------
    gb_per_s, kernel_gb_per_s : float or None
        Bytes a second of what was asked of the pool, and of the plain calls by hand. None where it
        was not measured; ``note`` says why.
    gb_per_s_spread, kernel_gb_per_s_spread, ratio_spread : tuple of float or None
        The slowest cycle and the fastest.
    ratio : float or None
        Ours over the kernel's, cycle by cycle: what drifts, drifts for both.
    kernel_way : str or None
        The calls by hand that were the fastest of all that were tried.
    """

    backing: str
    gb_per_s: float | None = None
    kernel_gb_per_s: float | None = None
    gb_per_s_spread: Spread | None = None
    kernel_gb_per_s_spread: Spread | None = None
    ratio: float | None = None
    ratio_spread: Spread | None = None
    kernel_way: str | None = None
    cycles: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Inflate(Rate):
    """Memory given to the kernel: to its pool of huge pages, or on to the system."""

    to: str = "pool"


@dataclass(frozen=True)
class Deflate(Rate):
    """Memory fetched, by so many threads, out of the kernel's pool or from the system."""

    threads: int = 1
    source: str = "pool"


@dataclass(frozen=True)
class Commits:
    """What a commit of one slot takes, in microseconds, at rest and while memory is fetched."""

    median_us: float
    worst_us: float
    beside_median_us: float
    beside_worst_us: float
    commits: int


@dataclass(frozen=True)
class Neighbour:
    """A thread that streams through memory which is not the pool's, beside inflate and deflate.

    Attributes
    ----------
    mean_relative, tail_relative : float
        Its rate on the clock, and the first percentile of its windows, over the same of the
        undisturbed windows of the same run.
    mean_relative_by_processor, tail_relative_by_processor : float
        The same by the second of processor time that it had: without what it lost to
        whoever ran on its processor.
    kernel_mean_relative, kernel_tail_relative, kernel_mean_relative_by_processor : float
        Beside the kernel's own calls.
    gb_per_s, tail_gb_per_s, beside_gb_per_s, beside_tail_gb_per_s : float
        What they are of.
    mean_relative_spread : tuple of float
        Over the cycles.
    fetching_processor_seconds, beside_seconds : float
        Processor time that the process had beside the neighbour's, and the time that it was in.
    undisturbed, beside, beside_kernel : list of float
        Percentiles 0 to 100 of the windows' rates, in GB/s.
    """

    mean_relative: float
    tail_relative: float
    mean_relative_by_processor: float
    tail_relative_by_processor: float
    kernel_mean_relative: float
    kernel_tail_relative: float
    kernel_mean_relative_by_processor: float
    gb_per_s: float
    tail_gb_per_s: float
    beside_gb_per_s: float
    beside_tail_gb_per_s: float
    mean_relative_spread: Spread
    fetching_processor_seconds: float
    beside_seconds: float
    window_ms: float
    windows: int
    threads: int
    undisturbed: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    beside_kernel: list[float] = field(default_factory=list)
    commits: Commits | None = None


@dataclass
class Result:
    """Everything that a run found."""

    machine: dict[str, Any]
    cycles: int = 0
    nbytes: int = 0
    inflate: list[Inflate] = field(default_factory=list)
    deflate: list[Deflate] = field(default_factory=list)
    deflate_from_system: list[Deflate] = field(default_factory=list)
    inflate_other_backings: list[Inflate] = field(default_factory=list)
    neighbour: Neighbour | None = None
    kernel_ways: dict[str, float] = field(default_factory=dict)
    literature: list[dict[str, Any]] = field(default_factory=lambda: [dict(row) for row in LITERATURE])
    notes: list[str] = field(default_factory=list)

    def inflated(self, to: str) -> Inflate | None:
        """The figure of a place, if it was measured."""
        return next((f for f in self.inflate if f.to == to and f.gb_per_s is not None), None)

    def deflated(self, threads: int) -> Deflate | None:
        """The figure of so many threads, if it was measured."""
        return next((f for f in self.deflate if f.threads == threads and f.gb_per_s is not None), None)

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON types."""
        return asdict(self)


_GIB = 2**30 / 1e9
# Other people's figures on another machine: beside ours for the order of magnitude, no more.
LITERATURE: tuple[dict[str, Any], ...] = (
    {"name": "virtio-balloon, 4 KiB", "inflate_gb_per_s": 0.95 * _GIB},
    {"name": "virtio-balloon, 2 MiB", "inflate_gb_per_s": 136 * _GIB},
    {"name": "virtio-mem", "inflate_gb_per_s": 34 * _GIB},
    {"name": "HyperAlloc", "inflate_gb_per_s": 345 * _GIB, "install_gb_per_s": 4 * _GIB},
)
LITERATURE_NOTE = (
    "Literature, for comparison: HyperAlloc (EuroSys 2025), 2 MiB pages in virtual machines on another machine: it "
    "gives touched memory back at 345 GiB/s, virtio-balloon at 0.95, its huge-page form at 136, virtio-mem at 34; "
    "installing is about 4 GiB/s; STREAM beside HyperAlloc has 72 GB/s on average and 70 at its tail."
)


def spread(values: Sequence[float]) -> Spread:
    """The least and the greatest."""
    return min(values), max(values)


def beside_kernel(nbytes: int, ours: Sequence[float], kernels: Sequence[float]) -> dict[str, Any]:
    """The figures of a ``Rate`` from the seconds of each cycle, of us and of the kernel."""
    rates = [nbytes / seconds / 1e9 for seconds in ours]
    kernel = [nbytes / seconds / 1e9 for seconds in kernels]
    ratios = [mine / its for mine, its in zip(rates, kernel, strict=True)]
    return {
        "gb_per_s": median(rates),
        "kernel_gb_per_s": median(kernel),
        "gb_per_s_spread": spread(rates),
        "kernel_gb_per_s_spread": spread(kernel),
        "ratio": median(ratios),
        "ratio_spread": spread(ratios),
        "cycles": len(rates),
    }
