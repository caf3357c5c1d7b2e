"""What a pool can consist of, and what follows from it: how many threads fetch it, and what to look at before.

Huge pages of hugetlbfs; ordinary memory with transparent huge pages; ordinary memory with small ones.
"""

import os

from mrm.errors import ArgumentError
from mrm.physical.cgroups import counts_hugetlb_as_memory, memory_limits
from mrm.physical.limits import explain_ordinary_shortage, group_sentence, node_refusal, process_shortage
from mrm.system import features
from mrm.system.pages import frame_size

# MRM_BACKING_... of include/mrm/mrm.h.
HUGETLB = 1
THP = 2
SMALL = 3

NAMES = {HUGETLB: "hugetlb", THP: "thp", SMALL: "small"}
NUMBERS = {name: number for number, name in NAMES.items()}

# Words of shmem_enabled with which a memfd may have huge pages.
THP_ALLOWED = ("always", "within_size", "advise", "force")

# One call's share: so small that Ctrl-C is answered within a tenth of a second even
# where the host has to find the memory first (0.6 GB/s).
PART = 64 << 20
# A thread is worth starting for this much, which takes it some 10 ms.
_BYTES_A_THREAD = 128 << 20
# A few threads use up what a memory controller can write.
_MOST_THREADS = 8


def check_threads(threads: int | None) -> None:
    """Refuse what is no number of threads."""
    if threads is not None and (isinstance(threads, bool) or not 1 <= threads <= 1024):
        raise ArgumentError(f"threads is 1 to 1024, not {threads!r}")


def useful_threads(backing: int, nbytes: int, wanted: int | None = None, part: int = PART) -> int:
    """How many threads should fetch pages.

    Parameters
    ----------
    backing : int
        Of which kind.
    nbytes : int
        How much.
    wanted : int, optional
        How many somebody asked for: as many, if they have something to do.
    part : int, optional
        Bytes that a thread does at a time.

    Raises
    ------
    ArgumentError
        If ``wanted`` is no number of threads.
    """
    check_threads(wanted)
    if backing != SMALL and not populates():
        return 1  # fallocate does it, and lets in one at a time
    if wanted is not None:
        return max(1, min(wanted, -(-nbytes // part)))  # no more than have something to do
    if backing == SMALL:
        # fallocate alone, which one thread does as fast as two (4 GB/s, measured);
        # page faults of 4 KiB are slower still.
        return 1
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, nbytes // max(_BYTES_A_THREAD, frame_size()), _MOST_THREADS))


def populates() -> bool:
    """Whether pages can be fetched through a mapping, by several threads at once (5.14)."""
    return not features.is_missing("MADV_POPULATE_WRITE")


def shortage_beforehand(nbytes: int, backing: int, node: int | None = None, length: int = 0) -> str:
    """Why so much memory should not even be asked for; empty if it may be.

    Parameters
    ----------
    nbytes : int
        How much.
    backing : int
        Of which kind.
    node : int, optional
        On which NUMA node.
    length : int, optional
        Bytes of the file that it is for, if that is to be made.
    """
    found: list[str | None] = [node_refusal(node)]
    if backing != HUGETLB:
        found += [explain_ordinary_shortage(nbytes, node)]
    else:
        # Beyond RLIMIT_FSIZE the kernel sends SIGXFSZ, which kills by default.
        found += process_shortage(length, None)
        if counts_hugetlb_as_memory():
            # Near these it would push out the whole group's file cache before it refuses, and
            # beyond memory.high it puts the process to sleep.
            wanted = nbytes + (16 << 20)
            found += [group_sentence(limit, wanted) for limit in memory_limits() if limit.left < wanted]
    return " ".join(filter(None, found))
