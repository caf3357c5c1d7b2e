"""The machines of the matrix, and why each is there.

First the kernels, from the oldest that mrm works on; then many processors, several
nodes, and machines on which something is limited or missing. What is not said is as
``boot.Machine`` has it.
"""

from dataclasses import dataclass

from tools.machines.boot import Machine
from tools.machines.kernels import NEWEST

_EVERYTHING = ("frames", "space", "model", "races", "funding", "tools")


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
    suites: tuple[str, ...] = _EVERYTHING
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
    Entry("newest", "the newest that Debian has", Machine(kernel=NEWEST), quick=True),
    Entry(
        "8 processors",
        "seven mutators to interrupt, eight stacks of free frames",
        Machine(processors=8),
        ("space", "races"),
    ),
    Entry(
        "2 nodes",
        "with 80 huge pages on one and 20 on the other",
        Machine(processors=4, nodes=2, hugepages="0:80,1:20"),
        ("funding",),
    ),
)
