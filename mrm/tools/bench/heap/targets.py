"""What the heap must reach, beside other allocators in the same run."""

from collections.abc import Callable

from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.heap.figures import MIB, Result, best, over
from mrm.tools.bench.heap.lineup import BASE, HUGE, OURS
from mrm.tools.bench.heap.workloads import GROWTH, KINDS, LARGE, SMALL
from mrm.tools.bench.target import Target

TIMES = {LARGE: 2.0, GROWTH: 10.0}
NO_MORE = 1.1
# Memory comes in pages of 2 MiB: with two of them for each thread, a ratio says nothing but that.
GRAIN_MIB = 2 * FRAME_SIZE / MIB

OUR_FORMS = (OURS, OURS + HUGE)


def _rate_over_base(workload: str) -> Callable[[Result], float | None]:
    """Ours over the base's, where it is least of all numbers of threads."""

    def measured(result: Result) -> float | None:
        ratios = (
            over(result.figure(workload, count, OURS), result.figure(workload, count, BASE))
            for count in result.threads()
        )
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    return measured


def _peak_over_base(workload: str) -> Callable[[Result], float | None]:
    """Ours over the base's, where it is most of all numbers of threads at which ours is more than the grain."""

    def measured(result: Result) -> float | None:
        ratios = []
        for count in result.threads():
            ours = result.figure(workload, count, OURS)
            ratio = over(ours, result.figure(workload, count, BASE), "peak_mib")
            if ours is not None and ratio is not None and ours.peak_mib > count * GRAIN_MIB:
                ratios.append(ratio)
        return max(ratios, default=None)

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
               _rate_over_base(kind.name), at_most=False)
        for kind in KINDS if kind.of == SMALL
    ),
    *(
        Target(f"{kind.name}: peak over {BASE}'s, most of all threads, if more than {GRAIN_MIB:g} MiB a thread",
               NO_MORE, _peak_over_base(kind.name))
        for kind in KINDS if kind.of == SMALL
    ),
    *(
        Target(f"{kind.name}: ops over the best of the others, least of all threads", TIMES[kind.of],
               _over_best(kind.name), at_most=False)
        for kind in KINDS if kind.of in TIMES
    ),
)  # fmt: skip
