"""The kernel's features, as the doctor shows them: mrm's own table, and how grave a lack is."""

from collections.abc import Callable, Iterator, Sequence

from mrm.system.features import NAMES, TABLE
from mrm.tools.doctor.finding import NOTE, OK, PROBLEM, WARNING, Finding
from mrm.tools.doctor.probes import Answer
from mrm.tools.doctor.trial import try_all

# What a lack is to mrm; a note where it is not named.
LACKS = {
    "hugetlb memfd": PROBLEM,
    "hugetlb mremap": WARNING,
    "MADV_POPULATE_WRITE": WARNING,
    "hugetlb MADV_DONTNEED": WARNING,
    "shared page tables": WARNING,
}

Trial = Callable[[Sequence[str]], dict[str, Answer]]


def features(trial: Trial = try_all) -> Iterator[Finding]:
    """What the kernel can do, by having tried it."""
    answers = trial(NAMES)
    for row in TABLE:
        present, said = answers[row.name]
        if present:
            yield Finding("features", row.name, present, OK, said)
        elif present is None:
            yield Finding("features", row.name, None, NOTE, f"unknown: {said}")
        else:
            without = f"{row.instead} (Linux {row.since}). Cost: {row.cost}"
            advice = ". ".join(filter(None, (said.rstrip("."), without)))
            yield Finding("features", row.name, present, LACKS.get(row.name, NOTE), advice)
