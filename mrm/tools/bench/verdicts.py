"""Targets beside the figures that were measured, as a table for a terminal."""

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from mrm.tools.bench.target import Target

_STYLES = {"reached": "green", "missed": "bold red"}


def targets_table(targets: Iterable[Target], result: Any) -> Table:
    """Every target beside the figure of ``result``."""
    table = Table(title="Targets", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("what", "asked", "measured", ""):
        table.add_column(heading, justify="left" if heading in ("what", "") else "right")
    for target in targets:
        figure, verdict = target.measure(result), target.verdict(result)
        word = Text("MISSED" if verdict == "missed" else verdict, _STYLES.get(verdict, ""))
        table.add_row(target.text, target.asked, "" if figure is None else f"{figure:,.4g}", word)
    return table
