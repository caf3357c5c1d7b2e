"""The figures of a run in words: what the terminal and the report both tell."""

from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE, base_page_size
from mrm.tools.demo.results import Outcome, Stale


def duration(ns: float) -> str:
    """Nanoseconds for people: ``"3.4 us"``."""
    for unit, size in (("ns", 1.0), ("us", 1e3), ("ms", 1e6)):
        if ns < size * 1000:
            return f"{ns / size:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def verdict(outcome: Outcome) -> str:
    """Whether everything held, in one sentence."""
    if outcome.flaw is not None:
        return f"FAILED: {outcome.flaw}"
    if outcome.stale is not None and not outcome.stale.trapped:
        return f"FAILED: {outcome.stale.words}"
    if outcome.counters.cycles == 0:
        return "FAILED: the run was too short for a single cycle"
    return (
        f"All {outcome.handles:,} objects and all {outcome.counters.writes:,} writes are accounted for; "
        "no frame was lost"
    )


def stale_access(stale: Stale) -> str:
    """What the process that made a stale access came to."""
    return f"A stale access, tried in a process of its own: {stale.words}."


def moved(outcome: Outcome) -> str:
    """The headline: pages moved in a second."""
    pages = (outcome.remapped + outcome.emptied) / outcome.seconds
    rate = pages * int(outcome.pool["frame_size"])
    return f"{pages:,.0f} pages a second, {_rate(rate)}"


def rows(outcome: Outcome) -> list[tuple[str, str, str]]:
    """What was measured: name, figure, and what it means."""
    c, seconds, nbytes = outcome.counters, outcome.seconds, int(outcome.pool["frame_size"])
    per_page = outcome.shootdowns_per_page
    whole, own = outcome.latency.percentiles(), outcome.own_latency.percentiles()
    fewest = min((sample.free for sample in outcome.samples), default=0)
    return [
        ("pages moved", f"{(outcome.remapped + outcome.emptied) / seconds:,.0f} /s", "the next two together"),
        (
            "  remapped by view flips",
            f"{outcome.remapped / seconds:,.0f} /s",
            f"{_rate(outcome.remapped * nbytes / seconds)}, {c.flips / seconds:,.1f} flips a second",
        ),
        (
            "  emptied and used again",
            f"{outcome.emptied / seconds:,.0f} /s",
            f"{_rate(outcome.emptied * nbytes / seconds)} of frames; one spare frame was held back",
        ),
        (
            "bytes copied",
            _rate(c.copied_bytes / seconds),
            f"{c.copied_objects:,} objects; {c.copied_by_mutators:,} by mutators, who needed them first",
        ),
        (
            "shootdowns a page",
            "not counted" if per_page is None else f"{per_page:.4f}",
            ("" if per_page is None else f"{outcome.shootdowns:,}; ") + outcome.shootdowns_source,
        ),
        ("system calls", f"{c.system_calls:,}", f"by mrm; {c.system_calls / max(c.flips, 1):.1f} a cycle"),
        (
            "operations",
            f"{c.operations / seconds:,.0f} /s",
            f"of {outcome.mutators} mutators: {c.reads:,} read, {c.writes:,} write, {c.replaced:,} replace",
        ),
        (
            "an operation takes",
            duration(whole["p50"]),
            f"in the median; 99 % {duration(whole['p99'])}, 99.99 % {duration(whole['p99.99'])}",
        ),
        (
            "worst stall of a mutator",
            duration(whole["p100"]),
            "the system's scheduler included: threads share the processors with each other and with others",
        ),
        (
            "  of its own time",
            duration(own["p100"]),
            f"without what others had of the processor; mutators slept {c.blocked} times",
        ),
        (
            "replacements refused",
            f"{c.refused:,}",
            f"for want of a free frame: nobody waits for one; at the least {fewest} were free",
        ),
        (
            "the relocator waited",
            duration(c.slowest_checkpoint_ns),
            f"at the longest, for one of {c.checkpoints:,} checkpoints; mutators wait for nothing",
        ),
        (
            "stale addresses tried",
            f"{c.traps:,}",
            "one in each retired view: all of them trap",
        ),
    ]


def setting(outcome: Outcome) -> str:
    """What was run, in a line."""
    backing = {
        "hugetlb": f"{format_size(FRAME_SIZE)} huge pages",
        "thp": "transparent huge pages (no huge pages could be had)",
        "small": f"{format_size(base_page_size())} pages (no huge pages could be had, or were wanted)",
    }[str(outcome.pool["backing"])]
    return (
        f"{format_size(int(outcome.pool['size']))} in {outcome.pool['frames']:,} frames on {backing}, "
        f"{outcome.handles:,} objects, {outcome.mutators} mutators and a relocator, "
        f"{outcome.seconds:.1f} s{' (interrupted)' if outcome.interrupted else ''}, seed {outcome.seed}"
    )


def _rate(bytes_per_s: float) -> str:
    """Decimal, as memory rates are told."""
    for unit, size in (("TB/s", 1e12), ("GB/s", 1e9), ("MB/s", 1e6)):
        if bytes_per_s >= size:
            return f"{bytes_per_s / size:.3g} {unit}"
    return f"{bytes_per_s / 1e3:.3g} kB/s"
