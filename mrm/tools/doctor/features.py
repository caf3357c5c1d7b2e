"""What the answers of the probes mean."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mrm.tools.doctor.finding import NOTE, OK, PROBLEM, WARNING, Finding
from mrm.tools.doctor.probes import Answer
from mrm.tools.doctor.trial import try_all


class Feature(NamedTuple):
    """A probe, and what its answer means."""

    probe: str
    name: str
    without: str  # status where it is missing
    advice: str  # what is lost then


FEATURES = (
    Feature(
        "memfd_hugetlb", "huge pages in a memfd", PROBLEM, "pools fall back to small pages; needs Linux 4.14"
    ),
    Feature(
        "populate_write",
        "MADV_POPULATE_WRITE",
        WARNING,
        "one thread funds pools instead of several; Linux 5.14",
    ),
    Feature("fixed_noreplace", "MAP_FIXED_NOREPLACE", NOTE, "addresses are reserved another way; Linux 4.17"),
    Feature(
        "hugetlb_dontneed",
        "MADV_DONTNEED on huge pages",
        NOTE,
        "scattered slots are unmapped run by run; Linux 5.18",
    ),
    Feature("hugetlb_mremap", "mremap of huge pages", WARNING, "slots are moved by mapping anew; Linux 5.16"),
    Feature("shared_page_tables", "shared page tables", WARNING, "views work, but cost a fault a page"),
    Feature("userfaultfd", "userfaultfd", NOTE, "mrm works without it"),
    Feature(
        "userfaultfd_minor_hugetlbfs",
        "userfaultfd, minor faults of huge pages",
        NOTE,
        "mrm works without it; Linux 5.13",
    ),
    Feature(
        "protection_keys",
        "protection keys",
        NOTE,
        "access is changed by mprotect, with two shootdowns a call",
    ),
    Feature("own_shootdowns", "counting this process's shootdowns", NOTE, ""),
)

Trial = Callable[[Sequence[str]], dict[str, Answer]]


def features(trial: Trial = try_all) -> Iterator[Finding]:
    """What the kernel can do, by having tried it."""
    answers = trial([feature.probe for feature in FEATURES])
    for feature in FEATURES:
        value, said = answers[feature.probe]
        if value:
            yield Finding("features", feature.name, value, OK, said)
        elif value is None:
            yield Finding("features", feature.name, None, NOTE, f"unknown: {said}")
        else:
            advice = "; ".join(filter(None, (said, feature.advice)))
            yield Finding("features", feature.name, value, feature.without, advice)
