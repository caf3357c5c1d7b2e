"""What a run of ``mrm bench programs`` found, as plain data: the JSON is this, and so is every table and plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mrm.tools.bench.programs.lineup import PLAIN

Spread = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """A program in a setup: medians of its processes.

    Attributes
    ----------
    program, setup : str
    seconds : float
        Of what is timed, once.
    spread : tuple of float
        The fastest process and the slowest.
    huge_share : float or None
        The part of its memory that lay on huge pages at the end, from 0 to 1; None where the kernel does not tell.
    """

    program: str
    setup: str
    seconds: float
    spread: Spread
    huge_share: float | None


@dataclass
class Result:
    """Everything that a run found."""

    machine: dict[str, Any]
    sizes: dict[str, int] = field(default_factory=dict)
    programs: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stopped: bool = False

    def figure(self, program: str, setup: str) -> Figure | None:
        """That of a setup, if it was measured."""
        return next((f for f in self.of(program) if f.setup == setup), None)

    def of(self, program: str) -> list[Figure]:
        """Those of a program, in all setups."""
        return [f for f in self.programs if f.program == program]

    def names(self) -> list[str]:
        """Programs that were measured."""
        return list(dict.fromkeys(f.program for f in self.programs))

    def over_plain(self, figure: Figure) -> float | None:
        """Its seconds over those of the plain interpreter."""
        plain = self.figure(figure.program, PLAIN)
        return None if plain is None else figure.seconds / plain.seconds

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON types."""
        return asdict(self)


def figure(program: str, setup: str, processes: Sequence[tuple[float, float | None]]) -> Figure:
    """What several processes found together: of each the seconds, and the share on huge pages."""
    seconds = [took for took, _ in processes]
    shares = [share for _, share in processes if share is not None]
    return Figure(
        program, setup, median(seconds), (min(seconds), max(seconds)), median(shares) if shares else None
    )
