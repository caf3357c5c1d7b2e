"""What a run of ``mrm bench touch`` found, as plain data: the JSON is this, and so is the table."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mrm.system.pages import FRAME_SIZE

Spread = tuple[float, float]


@dataclass(frozen=True)
class Lane:
    """Where pages have been, and what touching them first then cost.

    Attributes
    ----------
    name, what : str
        In a word, and in a sentence.
    us_per_page, gb_per_s : float or None
        Of each round the mean, of these the median. None where it was not measured; ``note`` says why.
    us_per_page_spread, gb_per_s_spread : tuple of float or None
        The least and the greatest of the rounds.
    relative : float or None
        Over the same of pages out of the kernel's pool, round by round: what drifts, drifts for both.
    relative_spread : tuple of float or None
        The least and the greatest of that.
    us_tail, us_worst : float or None
        The 99th percentile of all pages of all rounds, and the slowest.
    setting_us_per_page : float or None
        What lowering nr_hugepages and raising it again took, a page, without what was waited in between.
    pages : int
        That were touched in a round.
    same_pages : int or None
        How many of them were the very pages that had been given away, by their number in memory; the median. None
        where the kernel does not tell.
    reported_bytes : int or None
        What the kernel told its host of meanwhile, in all rounds; None where it does not count that.
    rounds : int
        How many.
    """

    name: str
    what: str
    us_per_page: float | None = None
    us_per_page_spread: Spread | None = None
    gb_per_s: float | None = None
    gb_per_s_spread: Spread | None = None
    relative: float | None = None
    relative_spread: Spread | None = None
    us_tail: float | None = None
    us_worst: float | None = None
    setting_us_per_page: float | None = None
    pages: int = 0
    same_pages: int | None = None
    reported_bytes: int | None = None
    rounds: int = 0
    note: str | None = None


@dataclass(frozen=True)
class Round:
    """A lane, once.

    Attributes
    ----------
    seconds : list of float
        Of each page.
    setting_seconds : float or None
        Of lowering nr_hugepages and raising it.
    same : int or None
        Pages that came back.
    reported_bytes : int or None
        What the host was told of.
    """

    seconds: list[float]
    setting_seconds: float | None = None
    same: int | None = None
    reported_bytes: int | None = None

    @property
    def mean(self) -> float:
        """Seconds of a page."""
        return sum(self.seconds) / len(self.seconds)


@dataclass
class Result:
    """Everything that a run found."""

    machine: dict[str, Any]
    nbytes: int = 0
    rounds: int = 0
    wait_seconds: float = 0.0
    hypervisor: dict[str, Any] = field(default_factory=dict)
    lanes: list[Lane] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON types."""
        return asdict(self)


def lane(name: str, what: str, rounds: Sequence[Round], base: Sequence[Round] = ()) -> Lane:
    """The figures of a lane from its rounds, and over the same rounds of another."""
    means = [each.mean for each in rounds]
    ratios = [each.mean / other.mean for each, other in zip(rounds, base, strict=False)]
    rates = [FRAME_SIZE / mean / 1e9 for mean in means]
    pages = sorted(seconds for each in rounds for seconds in each.seconds)
    settings = [
        each.setting_seconds / len(each.seconds) for each in rounds if each.setting_seconds is not None
    ]
    same = [each.same for each in rounds if each.same is not None]
    told = [each.reported_bytes for each in rounds if each.reported_bytes is not None]
    return Lane(
        name,
        what,
        median(means) * 1e6,
        (min(means) * 1e6, max(means) * 1e6),
        median(rates),
        (min(rates), max(rates)),
        median(ratios) if ratios else None,
        (min(ratios), max(ratios)) if ratios else None,
        pages[(len(pages) - 1) * 99 // 100] * 1e6,
        pages[-1] * 1e6,
        median(settings) * 1e6 if settings else None,
        len(rounds[0].seconds),
        int(median(same)) if same else None,
        sum(told) if told else None,
        len(rounds),
    )
