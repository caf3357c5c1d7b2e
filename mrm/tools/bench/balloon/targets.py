"""What the balloon must reach, most of it beside the kernel's own figures of the same run."""

from collections.abc import Callable

from mrm.tools.bench.balloon.figures import Result
from mrm.tools.bench.target import Target

TWICE = 1.8  # two threads over one
LOST = 5  # percent


def _inflate(to: str) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float | None:
        found = result.inflated(to)
        return None if found is None else found.gb_per_s

    return figure


def _deflate_over_kernel(threads: int) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float | None:
        found = result.deflated(threads)
        return None if found is None else found.ratio

    return figure


def _two_over_one(name: str) -> Callable[[Result], float | None]:
    def figure(result: Result) -> float | None:
        one, two = result.deflated(1), result.deflated(2)
        return None if one is None or two is None else getattr(two, name) / getattr(one, name)

    return figure


def _kernel_cannot(result: Result) -> bool:
    """Whether two threads are less than that for the kernel itself: then the memory has no more to give."""
    its = _two_over_one("kernel_gb_per_s")(result)
    return its is not None and its < TWICE


def _lost(result: Result) -> float | None:
    """What a neighbour loses, in percent, beyond the processor time that was taken from it."""
    found = result.neighbour
    return None if found is None else 100 * (1 - found.mean_relative_by_processor)


def _lost_to_us(result: Result) -> float | None:
    """The same, beyond what it loses beside the kernel's own calls as well."""
    found = result.neighbour
    if found is None:
        return None
    return 100 * (1 - found.mean_relative_by_processor / found.kernel_mean_relative_by_processor)


TARGETS = (
    Target("inflate, to the kernel's pool, GB/s", 500, _inflate("pool"), at_most=False),
    Target("inflate, on to the system, GB/s", 136, _inflate("system"), at_most=False),
    Target("deflate by one thread, over the kernel's own", 0.95, _deflate_over_kernel(1), at_most=False),
    Target("deflate by two threads, over the kernel's own", 0.95, _deflate_over_kernel(2), at_most=False),
    Target(
        "deflate by two threads, over one",
        TWICE,
        _two_over_one("gb_per_s"),
        at_most=False,
        excuse=_kernel_cannot,
    ),
    Target("a neighbour loses beyond processor time, %", LOST, _lost),
    Target("... and beyond what the kernel's own calls take from it, %", LOST, _lost_to_us),
)
