"""The threads of ``mrm stress``, and the checks when they are at rest.

Half of the threads race for frames without the GIL (racer), half map them (mapper), all
on one pool. A thread that finds something wrong notes it, and the others end with it.
Racers leave the first word of a free frame 0, and mappers do too, so either kind notices
a frame that the other one holds.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mrm import Pool, Reservation
from mrm.tools.stress.mapper import Mapper, Mismatch
from mrm.tools.stress.racer import Racer

BURST = 1000  # a racer's operations that count as one step

Progress = Callable[[int, float], None]


@dataclass(frozen=True)
class Broken:
    """What broke, and how to see it again."""

    seed: int
    thread: str
    step: int
    operation: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"seed {self.seed}, {self.thread}, step {self.step}, {self.operation}: {self.what}; "
            f"expected {self.expected}, found {self.found}"
        )


@dataclass
class Outcome:
    """A run: how much was done, and what broke, if anything."""

    seed: int
    threads: int
    backing: str
    seconds: float = 0.0
    steps: int = 0
    frame_operations: int = 0
    broken: list[Broken] = field(default_factory=list)
    interrupted: bool = False


class _Finder(ABC):
    """What does things that may find something broken: it is noted, with who did what, and ends all threads."""

    def __init__(self, title: str, outcome: Outcome, over: threading.Event) -> None:
        self._title, self._outcome, self._over = title, outcome, over
        self.done = 0

    @abstractmethod
    def operation(self) -> str:
        """What it does at the moment."""

    def guarded(self, act: Callable[[], None]) -> bool:
        """Do something; False after what broke was noted."""
        what, expected, found = "", "no error", ""
        try:
            act()
        except Mismatch as mismatch:
            what, expected, found = mismatch.what, _word(mismatch.expected), _word(mismatch.found)
        except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
            what, found = "an error that nothing explains", f"{type(error).__name__}: {error}"
        else:
            return True
        self._outcome.broken.append(
            Broken(self._outcome.seed, self._title, self.done, self.operation(), what, expected, found)
        )
        self._over.set()
        return False


class _Worker(_Finder, threading.Thread):
    """A thread that steps until it has done its steps, its time is up, or something broke."""

    def __init__(
        self, kind: str, number: int, outcome: Outcome, steps: int | None, over: threading.Event
    ) -> None:
        _Finder.__init__(self, f"{kind} {number}", outcome, over)
        threading.Thread.__init__(self, name=self._title)
        self._limit = steps

    def run(self) -> None:
        """Step until it is over."""
        while not self._over.is_set() and (self._limit is None or self.done < self._limit):
            if not self.guarded(self.step):
                return
            self.done += 1

    @abstractmethod
    def step(self) -> None:
        """One step."""


class _MapperThread(_Worker):
    def __init__(
        self, mapper: Mapper, number: int, outcome: Outcome, steps: int | None, over: threading.Event
    ) -> None:
        super().__init__("mapper", number, outcome, steps, over)
        self.subject = mapper

    def step(self) -> None:
        self.subject.step()

    def operation(self) -> str:
        return self.subject.operation


class _RacerThread(_Worker):
    def __init__(
        self, racer: Racer, number: int, outcome: Outcome, steps: int | None, over: threading.Event
    ) -> None:
        super().__init__("racer", number, outcome, steps, over)
        self.subject = racer
        self._doing = "burst"

    def step(self) -> None:
        self._tell(self.subject.burst(BURST))

    def finish(self) -> None:
        """Give every frame back."""
        self._tell(self.subject.finish())

    def operation(self) -> str:
        return self._doing

    def _tell(self, wrong: tuple[str, int, int, int] | None) -> None:
        if wrong is not None:
            self._doing = f"{wrong[0]} (operation {self.subject.steps})"
            raise Mismatch(f"the owner's tag of frame {wrong[1]}", wrong[2], wrong[3])


def run(
    seconds: float | None = None,
    steps: int | None = None,
    *,
    seed: int = 0,
    threads: int = 8,
    size: int | str = "128MiB",
    huge: str = "prefer",
    progress: Progress | None = None,
) -> Outcome:
    """Let threads race on a pool, and check everything that can be checked.

    Parameters
    ----------
    seconds : float, optional
        How long; five when neither this nor ``steps`` is given.
    steps : int, optional
        Steps of each thread; a racer's is 1000 operations.
    seed : int
        What each thread does follows from it and from the thread's number.
    threads : int
        Half of them map, half of them race for frames.
    size : int or str
        Of the pool: four frames a thread at least.
    huge : {"prefer", "require", "off"}
    progress : callable, optional
        Called some times a second with the steps done and the seconds gone.

    Returns
    -------
    Outcome
        ``broken`` is empty if all is well.
    """
    if seconds is None and steps is None:
        seconds = 5.0
    with Pool(size, huge=huge, name="mrm stress") as pool:
        outcome = Outcome(seed, threads, pool.backing)
        mappers = max(threads // 2, 1)
        room = max(len(pool) // max(threads, 1) - 1, 1)
        with pool.reserve(mappers * max(room, 16)) as shared:
            over = threading.Event()
            workers: list[_MapperThread | _RacerThread] = []
            for i in range(threads):
                if i < mappers:
                    mapper = Mapper(pool, i, seed, shared, mappers, room)
                    workers.append(_MapperThread(mapper, i, outcome, steps, over))
                else:
                    workers.append(
                        _RacerThread(Racer(pool, i + 1, seed * 1000 + i, room), i, outcome, steps, over)
                    )
            try:
                begun = time.monotonic()
                _race(workers, over, None if seconds is None else begun + seconds, outcome, progress)
                outcome.seconds = time.monotonic() - begun
                outcome.steps = sum(worker.done for worker in workers)
                outcome.frame_operations = sum(
                    w.subject.steps for w in workers if isinstance(w, _RacerThread)
                )
                if not outcome.broken:
                    _settle(pool, shared, workers, outcome)
            finally:
                for worker in workers:
                    if isinstance(worker, _MapperThread):
                        worker.subject.close()
    return outcome


def _race(
    workers: Sequence[_Worker],
    over: threading.Event,
    until: float | None,
    outcome: Outcome,
    progress: Progress | None,
) -> None:
    """Run all of them to their end, to the end of time, or to Ctrl-C."""
    begun = time.monotonic()
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            if until is not None and time.monotonic() >= until:
                break
            over.wait(0.1)
            if over.is_set():
                break
            if progress is not None:
                progress(sum(worker.done for worker in workers), time.monotonic() - begun)
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        over.set()
        for worker in workers:
            worker.join()


def _settle(
    pool: Pool, shared: Reservation, workers: "Sequence[_MapperThread | _RacerThread]", outcome: Outcome
) -> None:
    """Check every slot and frame, the kernel's mappings, and the pool's books; then free all."""
    for worker in workers:
        if isinstance(worker, _MapperThread) and not worker.guarded(worker.subject.check):
            return
    books = _Books(outcome)
    if not books.guarded(shared.check):
        return
    held = sum(worker.subject.holds for worker in workers)
    if not books.guarded(lambda: books.compare(pool, held)):
        return
    for worker in workers:
        if not worker.guarded(worker.finish if isinstance(worker, _RacerThread) else worker.subject.finish):
            return
    shared.retire()
    pool.retire()
    books.guarded(lambda: books.compare(pool, 0))


class _Books(_Finder):
    """The checks at the end, so that what they find is told as a thread's findings are."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("the last check", outcome, threading.Event())

    def operation(self) -> str:
        return "audit"

    def compare(self, pool: Pool, held: int) -> None:
        """The pool's own audit, and the frames that the threads say they hold."""
        stats = pool.audit()
        if stats.held != held:
            raise Mismatch("frames held", held, stats.held)


def _word(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and value > 1 << 16 else str(value)
