"""The machines of the matrix, and why each is there.

First the kernels, from the oldest that mrm works on; then many processors, several
nodes, and machines on which something is limited or missing. What is not said is as
``boot.Machine`` has it.
"""

from dataclasses import dataclass

from tools.machines.boot import Machine
from tools.machines.kernels import NEWEST

# Which call fails has little to do with the kernel: that is tried on one.
_USUAL = (
    *("frames", "features", "space", "model", "economy", "races", "heap"),
    *("funding", "sharing", "pressure", "tools"),
)
_EVERYTHING = (*_USUAL[:4], "failures", *_USUAL[4:])


@dataclass(frozen=True)
class Entry:
    """A row of the matrix.

    Attributes
    ----------
    name : str
        What it is called.
    why : str
        What is special about it.
    machine : Machine
        What is booted.
    suites : tuple of str
        What runs on it.
    quick : bool
        Whether it is one of the few that CI has the time for.
    """

    name: str
    why: str
    machine: Machine
    suites: tuple[str, ...] = _USUAL
    quick: bool = False


LINEUP = (
    Entry(
        "5.10",
        "the oldest: no mremap of huge pages, no MADV_POPULATE_WRITE, no MADV_DONTNEED on huge pages",
        Machine(kernel="5.10"),
        quick=True,
    ),
    Entry("6.1", "Debian 12's kernel", Machine(kernel="6.1")),
    Entry("6.12", "Debian 13's kernel", Machine(kernel="6.12")),
    Entry("6.18", "the kernel that mrm is measured on", Machine(kernel="6.18")),
    Entry("newest", "the newest that Debian has", Machine(kernel=NEWEST), _EVERYTHING, quick=True),
    Entry(
        "8 processors",
        "seven mutators to interrupt, eight stacks of free frames",
        Machine(processors=8, hugepages="600"),
        ("processors", "races"),
    ),
    Entry(
        "2 nodes",
        "with 80 huge pages on one and 20 on the other",
        Machine(processors=4, nodes=2, hugepages="0:80,1:20"),
        ("nodes", "funding"),
    ),
    Entry(
        "limits, 5.10",
        "control groups that know no memory_hugetlb_accounting; the oldest calls",
        Machine(kernel="5.10"),
        ("limits", "settings"),
    ),
    Entry(
        "limits, 6.12",
        "a touch beyond memory.max hangs, where huge pages count as memory",
        Machine(kernel="6.12"),
        ("limits", "settings"),
    ),
    Entry(
        "limits, newest",
        "the same touch is SIGBUS, and memfds may have to be told that nobody executes them",
        Machine(kernel=NEWEST),
        ("limits", "settings"),
    ),
    Entry(
        "balloon, 6.18",
        "a host that asks for most of a pool's memory, and gives it back",
        Machine(kernel="6.18", hugepages="700", balloon=True),
        ("balloon",),
    ),
    Entry(
        "balloon, newest",
        "the same on the newest kernel",
        Machine(kernel=NEWEST, hugepages="700", balloon=True),
        ("balloon",),
    ),
    Entry(
        "no huge pages",
        "hugepages=0",
        Machine(hugepages="0"),
        ("funding", "settings"),
    ),
    Entry(
        "1 GiB pages",
        "as the default size, which vm.nr_hugepages and /proc/meminfo are about",
        Machine(memory="4GiB", hugepages="1", words=("default_hugepagesz=1G",)),
        ("settings", "tools"),
    ),
)
