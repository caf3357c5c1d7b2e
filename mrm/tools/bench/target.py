"""A target: a bound on one figure of a run, and whether a result reaches it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """A bound on one figure of a run.

    Attributes
    ----------
    text : str
        What is asked, for people.
    bound : float
        The figure may be no less, or, when ``at_most``, no more.
    measure : callable
        The figure of a result; None where it was not measured.
    excuse : callable
        Whether a result shows that this machine cannot reach it, whoever tries: by the kernel's
        own figure in the same run.
    """

    text: str
    bound: float
    measure: Callable[[Any], float | None]
    at_most: bool = True
    excuse: Callable[[Any], bool] = lambda result: False

    def holds(self, result: Any) -> bool | None:
        """Whether ``result`` reaches it; None where it was not measured, or cannot be reached here."""
        figure = self.measure(result)
        if figure is None:
            return None
        holds = figure <= self.bound if self.at_most else figure >= self.bound
        return None if not holds and self.excuse(result) else holds

    def verdict(self, result: Any) -> str:
        """The same in a word or two."""
        if self.measure(result) is not None and self.holds(result) is None:
            return "not here"
        return {True: "reached", False: "missed", None: "not measured"}[self.holds(result)]

    @property
    def asked(self) -> str:
        """The bound, with its direction."""
        return f"{'<=' if self.at_most else '>='} {self.bound:g}"


def reached(targets: Iterable[Target], result: Any) -> bool:
    """Whether all of them hold, but for those that nobody could reach here."""
    return all(target.verdict(result) in ("reached", "not here") for target in targets)
