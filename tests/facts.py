"""Facts of this machine, as the numbers that tests count with.

Tests that count system calls, shootdowns, steps and faults take their numbers from here,
so that the same test holds on every kernel: what `mrm.features()` says decides which way
a plan goes, and this table says what that way costs. It is written down apart from the
planner, and by hand: a planner that changes its mind is to be noticed.

``huge`` is the ``huge=`` of the test's pool: "require" or "off".
"""

import os

from mrm.system.features import found_by_trial, missing_features

#: Processors that this process may run on: with one, no shootdown is ever sent.
PROCESSORS = len(os.sched_getaffinity(0))

MREMAP = "hugetlb mremap"
POPULATE = "MADV_POPULATE_WRITE"
ZAP = "hugetlb MADV_DONTNEED"
SHARING = "shared page tables"


def has(name):
    """Whether plans may use a feature: the kernel is not known to lack it, and no test pretends so."""
    return name not in missing_features()


def shares_page_tables():
    """Whether this kernel lets mappings of huge pages share page tables; no test can pretend otherwise."""
    return found_by_trial()[SHARING] is not False


def lone_move(huge):
    """How a run that lies alone is moved: steps, system calls, shootdowns."""
    if huge == "off" or has(MREMAP):
        return ["mremap"], 2, 1  # and a seal of the hole
    return ["map", "advise", "seal"], 4, 1  # advice is two calls


def neighbours(n):
    """The steps that fill n neighbours with scattered frames."""
    return ["map"] * n + ["populate"] * has(POPULATE) + ["advise"]


def scattered_ends(huge, n):
    """How n scattered slots of one mapping are unmapped, pages between them: steps, shootdowns."""
    if huge == "off" or not has(ZAP):
        return ["seal"] * n, n
    return ["zap", *["seal"] * n, *["populate"] * ((n - 1) * has(POPULATE))], 1


def view_faults(frames):
    """The fewest and the most faults that the first touch of each frame through a view takes.

    One fault links a GiB where page tables are shared; a few more are the interpreter's own.
    """
    return (0, frames // 2 - 1) if shares_page_tables() else (frames, frames + frames // 2)


def funding_threads(huge, asked):
    """How many threads fund a pool when so many are asked for."""
    return asked if huge == "off" or has(POPULATE) else 1
