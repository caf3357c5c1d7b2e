"""What can be seen from here: containers hide files of /proc and /sys, and with them limits."""

from collections.abc import Iterator
from pathlib import Path

from mrm.physical.cgroups import ROOT, hidden
from mrm.tools.doctor.finding import NOTE, OK, WARNING, Finding

# File, status where it cannot be read, and what is lost then.
FILES = (
    ("proc/self/maps", WARNING, "batches near vm.max_map_count are refused by the kernel and undone, not beforehand"),
    ("proc/self/smaps", WARNING, "page_size_of() cannot prove what a frame is made of"),
    ("proc/meminfo", WARNING, "what memory is available is asked of /sys, or not known: small pools may be killed"),
    ("proc/sys/vm/max_map_count", NOTE, "batches near it are refused by the kernel and undone, not beforehand"),
    ("proc/self/mountinfo", WARNING, "limits of control groups are unknown until the kernel refuses"),
    ("proc/interrupts", NOTE, "shootdowns can only be counted for this process alone"),
    ("sys/kernel/mm/hugepages", WARNING, "pools of huge pages are seen in /proc/meminfo, of the default size only"),
    ("sys/devices/system/node/online", NOTE, "NUMA nodes are not known"),
)  # fmt: skip


def sight(root: Path = ROOT) -> Iterator[Finding]:
    """What is hidden, and what goes without it; one line if nothing is."""
    topic = "machine"
    found = False
    for name, status, loss in FILES:
        if not _readable(root / name):
            found = True
            yield Finding(topic, f"/{name}", "hidden", status, loss)
    if reason := hidden(root):
        found = True
        advice = (
            f"{reason}; limits may be there all the same, and the kernel's refusal is then the first sign"
        )
        yield Finding(topic, "control groups' limits", "hidden", WARNING, advice)
    if not found:
        yield Finding(topic, "/proc, /sys and control groups", "can be seen", OK)


def _readable(path: Path) -> bool:
    """Whether it is there and can be opened; files of the kernel are not read whole for that."""
    try:
        if path.is_dir():
            return True
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True
