"""Measurements in rounds, which Ctrl-C ends without a loss of those that are complete.

Whatever drifts on the machine meanwhile drifts for all: each round has everyone once, one after another, and each
begins with another one. A round is kept when it is complete, so that whoever stops a run after an hour
has the figures of that hour, and everyone was measured as often as the others.
"""

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from mrm.errors import Error
from mrm.tools.bench.options import Advance


class Named(Protocol):
    """Who is measured."""

    @property
    def name(self) -> str:
        """As in the figures."""


One = TypeVar("One", bound=Named)
Step = TypeVar("Step")
Found = TypeVar("Found")


class Rounds(Generic[Step, Found]):
    """The rounds of all steps of a run; a context that Ctrl-C leaves, once there is something to be kept.

    Parameters
    ----------
    repeats : int
        Rounds of each step.
    total : int
        Measurements of all steps together.
    no_figure : str
        What is noted of one that fails, with places for ``step`` and ``name``.
    notes : list of str
        Where to.
    advance : callable
        Told what is being measured, how many measurements are done, and of how many.

    Attributes
    ----------
    stopped : str
        How far it came when it was stopped, as a sentence; an empty string when it was not.
    """

    def __init__(self, repeats: int, total: int, no_figure: str, notes: list[str], advance: Advance) -> None:
        self._repeats, self._total, self._no_figure = repeats, total, no_figure
        self._notes, self._advance = notes, advance
        self._done = self._complete = 0
        self._words = ""
        self._found: dict[Step, dict[str, list[Found]]] = {}
        self.stopped = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None or not issubclass(kind, KeyboardInterrupt) or not self.kept():
            return False
        self.stopped = (
            f"It was stopped after {self._done} of {self._total} measurements: {self._words} has {self._complete} of "
            f"{self._repeats} rounds, and what comes after it has none."
        )
        return True

    def kept(self) -> list[tuple[Step, str, list[Found]]]:
        """What complete rounds found: step, name and all of its measurements, in the order measured."""
        return [
            (step, name, measured)
            for step, found in self._found.items()
            for name, measured in found.items()
            if measured
        ]

    @property
    def each(self) -> str:
        """How often everyone was measured, in a word or two: a step that was stopped has fewer rounds."""
        return f"up to {self._repeats}" if self.stopped else str(self._repeats)

    def tell(self, notes: list[str]) -> bool:
        """Whether it was stopped; then it is the first of the notes."""
        if self.stopped:
            notes.insert(0, self.stopped)
        return bool(self.stopped)

    def measure(self, step: Step, words: str, everyone: Sequence[One], once: Callable[[One], Found]) -> None:
        """Measure everyone as often as was said; who fails has a note, and no figure of this step.

        Parameters
        ----------
        step : object
            What is measured, as ``kept`` has it.
        words : str
            The same for people.
        everyone : sequence
            Who.
        once : callable
            Measures one of them, and raises Error where that fails.
        """
        self._words, self._complete = words, 0
        self._found[step] = {one.name: [] for one in everyone}
        for number in range(self._repeats):
            kept, found = self._found[step], {}
            for one in _in_turn(everyone, number):
                self._advance(f"{words}: {one.name}", self._done, self._total)
                if one.name in kept:
                    try:
                        found[one.name] = once(one)
                    except Error as failure:
                        del kept[one.name]
                        said = self._no_figure.format(step=words, name=one.name)
                        self._notes.append(f"{said}: {str(failure).rstrip('.')}.")
                self._done += 1
            # A round is kept by one assignment: Ctrl-C comes before it or after it.
            self._found[step] = {name: [*before, found[name]] for name, before in kept.items()}
            self._complete = number + 1


def _in_turn(everyone: Sequence[One], number: int) -> Iterator[One]:
    """All of them, in each round beginning with another one."""
    at = number % max(1, len(everyone))
    yield from everyone[at:]
    yield from everyone[:at]
