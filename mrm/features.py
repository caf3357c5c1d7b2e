"""What this kernel offers mrm, as Python sees it: ``mrm.features()``.

The table, and most of the trials, are in mrm/system/features.pyx. What that layer cannot
try is tried here: what mount options and tracepoints say.
"""

import dataclasses

from mrm import errors
from mrm.physical.cgroups import ROOT, counts_hugetlb_as_memory
from mrm.physical.files import read_text
from mrm.shootdowns import Shootdowns
from mrm.system import features as table


@dataclasses.dataclass(frozen=True, slots=True)
class Feature:
    """A feature of the kernel; see ``mrm.features``."""

    name: str  #: what it is called in plans, descriptions and by ``mrm doctor``
    present: bool | None  #: whether it is there; None as long as nothing has tried it
    since: str  #: the Linux that brought it, for people: mrm asks no version
    instead: str  #: what mrm does without it
    cost: str  #: what its lack costs


def features() -> tuple[Feature, ...]:
    """Which features this kernel has, each by having tried it.

    What can be tried with system calls alone is tried now, once in a process. Shared page
    tables are known when the first pool of two huge pages or more has been opened, unnamed
    files when one was opened on a hugetlbfs mount. None of it takes a huge page.

    Returns
    -------
    tuple of Feature
        Always the same ones, in the same order.

    Notes
    -----
    Where a filter kills the process for a system call that it does not like, asking may be
    the end of it: pools do not call pkey_alloc, and userfaultfd only to open a kept file that has frames in
    the balloon; this calls both. ``mrm doctor`` asks in a process of its own.
    """
    table.try_all()
    known = table.answers()
    for name, trial in _TRIALS.items():
        if known[name] is None:
            answer = trial()
            if answer is not None:
                table.found(name, answer)
    known = table.answers()
    return tuple(Feature(row.name, known[row.name], row.since, row.instead, row.cost) for row in table.TABLE)


def _accounting() -> bool | None:
    return counts_hugetlb_as_memory() if read_text(ROOT / "proc/self/mountinfo") else None


def _own_shootdowns() -> bool:
    try:
        Shootdowns("process").stop()
    except errors.Error:
        return False
    return True


_TRIALS = {
    "memory_hugetlb_accounting": _accounting,
    "tracepoint tlb:tlb_flush": _own_shootdowns,
}
