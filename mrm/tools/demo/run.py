"""A run of the demo: starts the threads, looks at them ten times a second, and settles accounts.

Mutators are stopped first, and then the relocator, which completes its cycle; a Ctrl-C
does the same, only earlier. The check comes last, when all of them are at rest, and with
it the pool's own audit.
"""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from mrm.errors import AuditError, Error
from mrm.shootdowns import Shootdowns
from mrm.tools.demo.results import Counters, Outcome, Sample
from mrm.tools.demo.world import World

if TYPE_CHECKING:
    from mrm import Pool

INTERVAL = 0.1  # seconds from one look to the next

Watch = Callable[[Sample, Counters], None]


def run(
    pool: "Pool",
    *,
    seconds: float,
    mutators: int = 2,
    seed: int = 0,
    live: float = 0.65,
    jitter: int = 0,
    sabotage: str | None = None,
    watch: Watch | None = None,
) -> Outcome:
    """Let mutators and a relocator work on a pool for a while, and check all that they did.

    Parameters
    ----------
    pool : Pool
        Its frames are all used, and free again afterwards.
    seconds : float
        How long the mutators work.
    mutators, seed, live, jitter, sabotage
        See ``World``.
    watch : callable, optional
        Called with each ``Sample`` and the running totals.

    Returns
    -------
    Outcome
        With ``flaw`` set if anything was wrong.
    """
    with Shooting() as shooting:
        world = World(pool, mutators=mutators, seed=seed, live=live, jitter=jitter, sabotage=sabotage)
        try:
            outcome = _run(pool, world, seconds, seed, shooting, watch)
        finally:
            world.close()
    if outcome.flaw is None:
        outcome.flaw = _audited(pool)
    return outcome


class Shooting:
    """Shootdowns as they are counted here, or None where there is nothing to count."""

    def __init__(self) -> None:
        self._counter: Shootdowns | None = None
        try:
            self._counter = Shootdowns()
            self.source = self._counter.source
        except Error as refusal:
            self.source = str(refusal)

    @property
    def count(self) -> int | None:
        """So far."""
        return None if self._counter is None else self._counter.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._counter is not None:
            self._counter.stop()


def _run(
    pool: "Pool", world: World, seconds: float, seed: int, shooting: Shooting, watch: Watch | None
) -> Outcome:
    numbers = range(world.mutators)
    _side_by_side([threading.Thread(target=world.fill, args=(i,)) for i in numbers])
    mutators = [threading.Thread(target=world.mutate, args=(i,), name=f"mutator {i}") for i in numbers]
    relocator = threading.Thread(target=world.collect, name="relocator")
    shot = shooting.count
    begun = time.monotonic()
    interrupted = False
    samples: list[Sample] = []
    for thread in [*mutators, relocator]:
        thread.start()
    try:
        _watch(pool, world, begun + seconds, shooting, samples, watch)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        world.stop()
        for thread in mutators:
            thread.join()
        took = time.monotonic() - begun
        world.finish()
        relocator.join()
    shot = None if shot is None else (shooting.count or 0) - shot
    flaw = world.check()
    return Outcome(
        pool={
            "size": pool.size,
            "backing": pool.backing,
            "frames": len(pool),
            "frame_size": pool.frame_size,
        },
        mutators=world.mutators,
        seed=seed,
        handles=world.handles,
        seconds=took,
        counters=world.counters(),
        latency=world.latency(),
        own_latency=world.latency(own=True),
        cycles=world.cycles(),
        samples=samples,
        shootdowns=shot,
        shootdowns_source=shooting.source,
        interrupted=interrupted,
        flaw=flaw,
    )


def _side_by_side(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _watch(
    pool: "Pool", world: World, until: float, shooting: Shooting, samples: list[Sample], watch: Watch | None
) -> None:
    """Look every tenth of a second, until the time is up or something is wrong."""
    before, shot, then = world.counters(), shooting.count, time.monotonic()
    begun, frames = then, len(pool)
    while (left := until - time.monotonic()) > 0 and not world.stopped:
        time.sleep(min(INTERVAL, left))
        if left < INTERVAL / 2 and samples:
            break  # too short a stretch to tell a rate
        now, counters, count = time.monotonic(), world.counters(), shooting.count
        span = now - then
        emptied = counters.sparse + counters.empty - before.sparse - before.empty
        sample = Sample(
            at=now - begun,
            operations_per_s=(counters.operations - before.operations) / span,
            remapped_per_s=(counters.flips - before.flips) * frames / span,
            emptied_per_s=emptied / span,
            worst_ns=counters.worst_lately_ns,
            shootdowns_per_s=0.0 if count is None or shot is None else (count - shot) / span,
            free=pool.stats().free,
        )
        samples.append(sample)
        if watch is not None:
            watch(sample, counters)
        before, shot, then = counters, count, now


def _audited(pool: "Pool") -> str | None:
    """What the pool's books say, now that every frame should be free."""
    try:
        stats = pool.audit()
    except AuditError as error:
        return f"the pool's audit failed: {error}"
    return None if stats.held == 0 else f"{stats.held} frames were not given back"
