"""One run of ``mrm bench touch``: rounds of all lanes, each round beginning with another."""

from mrm.errors import Error
from mrm.physical import kernelpool
from mrm.physical.keeping import Keeper
from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.balloon.rates import why_not_system
from mrm.tools.bench.machine import Neighbours, machine
from mrm.tools.bench.options import Advance
from mrm.tools.bench.touch.figures import Lane, Result, Round, lane
from mrm.tools.bench.touch.lanes import BASE, KINDS, Ground, Kind
from mrm.tools.doctor.virtual import virtual
from mrm.tools.fund import available

BLIND = (
    "That the host was asked for memory cannot be seen from inside, nor which of its pages it used: what a page "
    "costs beyond the same page out of the kernel's pool is the host's."
)
UNCOUNTED = (
    "This kernel does not count what it told its host of: that pages were reported, only the time shows."
)


def run(size: int, rounds: int, wait: float, advance: Advance) -> Result:
    """Measure everything.

    Parameters
    ----------
    size : int
        Bytes that come and go, a multiple of a frame's; fewer where there are not so many huge pages.
    rounds : int
        How often.
    wait : float
        Seconds that pages lie free in the lanes that wait.
    advance : callable
        Told what is being measured, how many steps are done, and of how many.
    """
    result = Result(machine(), 0, rounds, wait, {f.name: f.value for f in virtual()})
    neighbours = Neighbours()
    why = why_not_system()
    with available(size) as outcome:
        pages = min(size // FRAME_SIZE, outcome.after.available)
        result.nbytes = pages * FRAME_SIZE
        if pages * FRAME_SIZE < size:
            result.notes.append(
                f"Only {pages} huge pages are free: {format_size(result.nbytes)} come and go, instead of "
                f"{format_size(size)}. {kernelpool.why_not_all(outcome)}"
            )
        if pages:
            _rounds(result, why, rounds, wait, advance)
        else:
            none = f"no huge pages are free: {kernelpool.why_not_all(outcome)}"
            result.lanes += [Lane(kind.name, kind.what, note=none) for kind in KINDS]
    result.notes.append(BLIND)
    if all(each.reported_bytes is None for each in result.lanes):
        result.notes.append(UNCOUNTED)
    neighbours.tell(
        result.machine, result.notes, "figures are larger and spreads wider than on a machine at rest"
    )
    return result


def _rounds(result: Result, why: str | None, rounds: int, wait: float, advance: Advance) -> None:
    """All lanes that can be measured, in changing order."""
    kinds = [kind for kind in KINDS if why is None or not kind.on]
    found: dict[str, list[Round]] = {kind.name: [] for kind in kinds}
    failed = None
    keeper = None if why is not None else Keeper()
    try:
        with Ground(result.nbytes, wait, keeper) as ground:
            for number in range(rounds):
                for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                    advance(kind.name, sum(map(len, found.values())), rounds * len(kinds))
                    found[kind.name].append(ground.measure(kind))
    except Error as error:
        failed = f"after {sum(map(len, found.values()))} rounds of lanes: {error}"
        result.notes.append(f"It ended {failed}")
    finally:
        if keeper is not None:
            keeper.close()
    base = found[BASE]
    result.lanes += [_lane(kind, found.get(kind.name), base, why or failed) for kind in KINDS]


def _lane(kind: Kind, rounds: list[Round] | None, base: list[Round], why: str | None) -> Lane:
    return lane(kind.name, kind.what, rounds, base) if rounds else Lane(kind.name, kind.what, note=why)
