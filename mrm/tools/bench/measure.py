"""Windows of measurement, interleaved: every lane in every round, in changing order.

A machine drifts: neighbours come and go, clocks rise and fall. So no lane is measured
to its end before the next one begins: a round measures each lane for a short window,
the next round begins with another lane, and what is reported is the median of the
rounds with the slowest and the fastest. What mutators lose is measured against the
window without a relocator of the same round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mrm.errors import Error
from mrm.shootdowns import received
from mrm.tools.bench.figures import LaneFigure
from mrm.tools.bench.ground import FRAME
from mrm.tools.bench.lanes import Lane
from mrm.tools.bench.mutators import Mutators

IDLE = "none"


@dataclass(frozen=True)
class Window:
    """What one lane did in one round."""

    pages: int
    seconds: float
    shootdowns: int | None
    reads: int


class Series:
    """The windows of all lanes, collected round by round.

    Parameters
    ----------
    lanes : mapping of str to Lane
        What to measure; ``IDLE`` must be among them.
    heap : tuple of int
        Address and bytes that mutators read.
    seconds : float
        How long a window lasts at least.
    """

    def __init__(self, lanes: Mapping[str, Lane], heap: tuple[int, int], seconds: float) -> None:
        self._lanes = lanes
        self._heap = heap
        self._seconds = seconds
        self._windows: dict[tuple[str, int], list[Window]] = {}
        self.refused: dict[str, str] = {}
        self._notes: dict[str, str | None] = {}

    def round(self, number: int, threads: int, advance: Callable[[str], None]) -> None:
        """Measure every lane once beside ``threads`` mutators."""
        names = list(self._lanes)
        turn = number % len(names)
        with Mutators(*self._heap, threads) as mutators:
            for name in names[turn:] + names[:turn]:
                advance(name)
                if name in self.refused:
                    continue
                try:
                    window = self._window(name, mutators)
                except (OSError, MemoryError, Error) as refusal:
                    self.refused[name] = str(refusal)
                    continue
                self._windows.setdefault((name, threads), []).append(window)

    def _window(self, name: str, mutators: Mutators) -> Window:
        lane = self._lanes[name]
        lane.open()
        try:
            self._notes[name] = lane.note()
            # The first cycle pays for page tables and caches that the others find there.
            lane.run(0)
            shootdowns, reads = count_received(), mutators.reads
            pages, seconds = lane.run(self._seconds)
            reads = mutators.reads - reads
            after = count_received()
        finally:
            lane.close()
        return Window(
            pages, seconds, None if after is None or shootdowns is None else after - shootdowns, reads
        )

    def figures(self, threads: Sequence[int], twins: Mapping[str, str]) -> list[LaneFigure]:
        """Medians and spreads; ``twins`` names the lane by hand of each lane of ours."""
        found = []
        for name in self._lanes:
            for n in threads:
                if name in self.refused:
                    found.append(LaneFigure(name, n, note=self.refused[name]))
                elif name != IDLE:
                    found.append(self._figure(name, n, twins.get(name)))
        return found

    def _figure(self, name: str, threads: int, twin: str | None) -> LaneFigure:
        windows = self._windows[name, threads]
        idle = self._windows[IDLE, threads]
        rates = [w.pages * FRAME / w.seconds / 1e9 for w in windows]
        shot = [w.shootdowns / w.pages for w in windows if w.shootdowns is not None]
        relative = [(w.reads / w.seconds) / (i.reads / i.seconds) for w, i in zip(windows, idle) if i.reads]
        over = None
        if twin is not None and (twin, threads) in self._windows:
            # Round by round: what drifts, drifts for both.
            pairs = zip(self._windows[twin, threads], windows)
            over = median((t.pages / t.seconds) / (w.pages / w.seconds) for t, w in pairs)
        return LaneFigure(
            name,
            threads,
            gb_per_s=median(rates),
            gb_per_s_spread=(min(rates), max(rates)),
            shootdowns_per_page=median(shot) if shot else None,
            mutator_relative=median(relative) if relative else None,
            us_per_page=FRAME / median(rates) / 1e3,
            over_by_hand=over,
            note=self._notes[name],
        )


def count_received() -> int | None:
    """Shootdowns that the system has received so far, or None where they are not counted."""
    try:
        return received()
    except Error:
        return None
