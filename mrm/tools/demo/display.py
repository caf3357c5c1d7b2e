"""The run as it is watched on a terminal, and the summary when it is over."""

from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mrm.tools.demo.results import Counters, Outcome, Sample
from mrm.tools.demo.words import duration, rows

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 48


class Watching:
    """A table that follows a run; on something that is no terminal, nothing.

    Parameters
    ----------
    console : Console
        Where to draw.
    frames : int
        Frames of the pool.
    seconds : float
        How long the run is to last.
    """

    def __init__(self, console: Console, frames: int, seconds: float) -> None:
        self._frames = frames
        self._seconds = seconds
        self._samples: list[Sample] = []
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._shown = console.is_terminal

    def __enter__(self) -> Self:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._live.stop()

    def __call__(self, sample: Sample, counters: Counters) -> None:
        """Show one more sample."""
        self._samples.append(sample)
        if self._shown:
            self._live.update(self._table(sample, counters), refresh=True)

    def _table(self, sample: Sample, counters: Counters) -> Table:
        lately = self._samples[-_WIDTH:]
        pages = sample.remapped_per_s + sample.emptied_per_s
        table = Table(
            title=f"mrm demo, {sample.at:.1f} of {self._seconds:g} s", title_justify="left", box=None
        )
        table.add_column("", style="bold")
        table.add_column("now", justify="right")
        table.add_column(f"last {len(lately) / 10:g} s", style="cyan", no_wrap=True)
        for title, now, values in (
            ("operations a second", f"{sample.operations_per_s:,.0f}", [s.operations_per_s for s in lately]),
            ("pages moved a second", f"{pages:,.0f}", [s.remapped_per_s + s.emptied_per_s for s in lately]),
            (
                "  of these emptied and reused",
                f"{sample.emptied_per_s:,.0f}",
                [s.emptied_per_s for s in lately],
            ),
            ("longest operation", duration(sample.worst_ns), [float(s.worst_ns) for s in lately]),
            ("shootdowns a page", f"{sample.shootdowns_per_s / pages:.4f}" if pages else "", []),
            ("frames free", f"{sample.free} of {self._frames}", [float(s.free) for s in lately]),
            ("objects that mutators moved", f"{counters.copied_by_mutators:,}", []),
            ("cycles", f"{counters.cycles:,}", []),
        ):
            table.add_row(title, now, _sparkline(values))
        return table


def _sparkline(values: list[float]) -> str:
    """Values as a row of bars, from 0 to the highest."""
    highest = max(values, default=0.0)
    if highest <= 0:
        return ""
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)


def summary(outcome: Outcome, console: Console) -> None:
    """The figures of a whole run, and whether its checks held."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right", style="bold")
    table.add_column(style="dim")
    for row in rows(outcome):
        table.add_row(*row)
    console.print(table)
