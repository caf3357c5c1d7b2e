"""Which lanes there are, in the order of the table, and what each is in a few words."""

from mrm import Pool
from mrm.tools.bench.lanes import Lane
from mrm.tools.bench.measure import IDLE
from mrm.tools.bench.ours import Batch, BatchRuns, View, file_of
from mrm.tools.bench.replay import Replay
from mrm.tools.bench.stock import Fresh, Kernel, Mremap, MremapRangeHugetlb, MremapRangeThp, ViewByHand

TITLES = {
    "kernel": "munmap + mmap(HUGETLB), a page a call",
    "mremap": "mremap, a page a call",
    "mremap_range_hugetlb": "mremap of one whole range, hugetlb",
    "mremap_range_thp": "mremap of one whole range, THP",
    "fresh": "lanes.c: one mmap a page, bulk unmap",
    "batch": "mrm: scattered frames, one batch, one retire",
    "batch_by_hand": "the same system calls, by hand",
    "batch_runs": "mrm: the same, frames in runs of 16",
    "batch_runs_by_hand": "the same system calls, by hand",
    "view": "mrm: next view, reach every page, retire",
    "view_by_hand": "the same system calls, by hand",
    "view_zap": "lanes.c: one view, reach every page, zap",
}

OURS = ("batch", "batch_runs", "view")
TWINS = {name: f"{name}_by_hand" for name in OURS}


def lineup(pool: Pool, step: int) -> dict[str, Lane]:
    """Every lane on the frames of ``pool``, by name; the first does nothing.

    All of them move the same physical pages, one lane at a time: what differs is how.
    """
    fd, frames = file_of(pool), len(pool)
    lanes: dict[str, Lane] = {
        IDLE: Lane(fd, frames, step),
        "kernel": Kernel(fd, frames, step),
        "mremap": Mremap(fd, frames, step),
        "mremap_range_hugetlb": MremapRangeHugetlb(fd, frames, step),
        "mremap_range_thp": MremapRangeThp(fd, frames, step),
        "fresh": Fresh(fd, frames, step),
        "batch": Batch(pool, step),
        "batch_runs": BatchRuns(pool, step),
        "view": View(pool, step),
        "view_zap": ViewByHand(fd, frames, step),
    }
    for name in OURS:
        lanes[TWINS[name]] = Replay(lanes[name], touched=name == "view")
    return {name: lanes[name] for name in (IDLE, *TITLES)}
