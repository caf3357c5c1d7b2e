"""What programs must reach under ``mrm run``, beside other setups in the same run."""

from collections.abc import Callable

from mrm.tools.bench.programs.figures import Result
from mrm.tools.bench.programs.lineup import OURS, PROGRAMS
from mrm.tools.bench.target import Target

NO_SLOWER, NEAR_BEST = 1.02, 1.03


def _over_plain(program: str) -> Callable[[Result], float | None]:
    def measured(result: Result) -> float | None:
        ours = result.figure(program, OURS)
        return None if ours is None else result.over_plain(ours)

    return measured


def _over_best(program: str) -> Callable[[Result], float | None]:
    """Ours over the fastest of all, ours among them."""

    def measured(result: Result) -> float | None:
        ours = result.figure(program, OURS)
        return None if ours is None else ours.seconds / min(f.seconds for f in result.of(program))

    return measured


TARGETS = (
    *(
        Target(f"{p.name}: seconds over the plain interpreter's", NO_SLOWER, _over_plain(p.name))
        for p in PROGRAMS
    ),
    *(Target(f"{p.name}: seconds over the best setup's", NEAR_BEST, _over_best(p.name)) for p in PROGRAMS),
)
