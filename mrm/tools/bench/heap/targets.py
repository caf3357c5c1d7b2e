"""What the heap must reach, beside other allocators in the same run."""

from collections.abc import Callable

from mrm.tools.bench.heap.figures import Result, best, over
from mrm.tools.bench.heap.lineup import BASE, HUGE, OURS
from mrm.tools.bench.heap.workloads import GROWTH, KINDS, LARGE, SMALL
from mrm.tools.bench.target import Target

TIMES = {LARGE: 2.0, GROWTH: 10.0}
NO_MORE = 1.1

OUR_FORMS = (OURS, OURS + HUGE)


def _over_base(workload: str, of: str, worst: Callable[..., float]) -> Callable[[Result], float | None]:
    """Ours over the base's, where it is worst of all numbers of threads."""

    def measured(result: Result) -> float | None:
        ratios = [
            ratio
            for count in result.threads()
            if (ratio := over(result.figure(workload, count, OURS), result.figure(workload, count, BASE), of))
            is not None
        ]
        return worst(ratios) if ratios else None

    return measured


def _over_best(workload: str) -> Callable[[Result], float | None]:
    """The faster form of ours over the fastest of all others, where it is least of all numbers of threads."""

    def measured(result: Result) -> float | None:
        ratios = []
        for count in result.threads():
            figures = result.of(workload, count)
            ours = best(f for f in figures if f.allocator in OUR_FORMS)
            others = best(f for f in figures if f.allocator not in OUR_FORMS)
            if (ratio := over(ours, others)) is not None:
                ratios.append(ratio)
        return min(ratios, default=None)

    return measured


TARGETS = (
    *(
        Target(f"{kind.name}: ops over {BASE}'s, least of all threads", 1.0,
               _over_base(kind.name, "ops_per_s", min), at_most=False)
        for kind in KINDS if kind.of == SMALL
    ),
    *(
        Target(f"{kind.name}: peak memory over {BASE}'s, most of all threads", NO_MORE,
               _over_base(kind.name, "peak_mib", max))
        for kind in KINDS if kind.of == SMALL
    ),
    *(
        Target(f"{kind.name}: ops over the best of the others, least of all threads", TIMES[kind.of],
               _over_best(kind.name), at_most=False)
        for kind in KINDS if kind.of in TIMES
    ),
)  # fmt: skip
