"""What a run of the bench found, as plain data: the JSON is this, and so is every table and plot."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LaneFigure:
    """One lane beside so many mutator threads; medians over the rounds.

    Attributes
    ----------
    gb_per_s : float or None
        Bytes of frames relocated; None when the lane cannot run here, and ``note`` says why.
    gb_per_s_spread : tuple of float or None
        The slowest round and the fastest.
    shootdowns_per_page : float or None
        None when it cannot be counted here.
    mutator_relative : float or None
        The mutators' reads per second, over those beside no relocator in the same round.
    us_per_page : float or None
        The same as ``gb_per_s``, the other way round.
    over_by_hand : float or None
        For a lane of ours: its time over that of the same system calls made by hand.
    """

    lane: str
    threads: int
    gb_per_s: float | None = None
    gb_per_s_spread: tuple[float, float] | None = None
    shootdowns_per_page: float | None = None
    mutator_relative: float | None = None
    us_per_page: float | None = None
    over_by_hand: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class FlipFigure:
    """A whole pool to a new view: medians of a flip's three steps.

    ``close_us`` is what comes once nobody has an old address any more; it is no part of
    the flip and of ``tb_per_s``. ``by`` says whose: ``"mrm"``, or ``"hand"`` for the same
    steps as lanes.c makes them.
    """

    gib: float
    threads: int
    open_us: float
    link_us: float
    retire_us: float
    tb_per_s: float
    shootdowns: float | None
    tb_per_s_spread: tuple[float, float]
    close_us: float = 0.0
    by: str = "mrm"


@dataclass
class Result:
    """Everything that a run found."""

    machine: dict[str, Any]
    lanes: list[LaneFigure] = field(default_factory=list)
    flip: list[FlipFigure] = field(default_factory=list)
    frames: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lane(self, name: str, threads: int) -> LaneFigure | None:
        """The figure of a lane, if it ran."""
        for figure in self.lanes:
            if (figure.lane, figure.threads) == (name, threads) and figure.gb_per_s is not None:
                return figure
        return None

    def to_json(self) -> dict[str, Any]:
        """The run as plain JSON types; the flips by hand under a key of their own."""
        data = asdict(self)
        data["flip"] = [asdict(f) for f in self.flip if f.by == "mrm"]
        data["flip_by_hand"] = [asdict(f) for f in self.flip if f.by == "hand"]
        return data
