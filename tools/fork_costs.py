"""What a fork costs a process that has its memory on small, transparent huge, or hugetlb pages.

    python tools/fork_costs.py               # 1 GiB of each kind, one after the other
    python tools/fork_costs.py --size 256MiB --times 3 --json

Hugetlb pages have to be there: as root, ``mrm fund 2GiB``, or
``python -m mrm.tools.fund with 2GiB -- python tools/fork_costs.py``. docs/fork.md says what the
figures mean. Each figure is the median of several forks, of memory that is fresh each time.
"""

import argparse
import ctypes
import json
import mmap
import os
import pickle
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from mrm._coverage import coverage_of_ranges
from mrm.sizes import format_size, parse_size
from mrm.system.calls import system_call
from mrm.system.pages import FRAME_SIZE, base_page_size, huge_pages_folder, memfd_flag

KINDS = ("4 KiB", "transparent", "hugetlb")
PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_HUGETLB = 0x40000
COLLAPSE = 25  # MADV_COLLAPSE


class Memory:
    """Private memory of one kind, written to; a context manager."""

    def __init__(self, kind: str, nbytes: int) -> None:
        self.nbytes = nbytes
        self._room = nbytes + FRAME_SIZE
        flags = PRIVATE
        if kind == "hugetlb":
            self._room = nbytes
            flags |= MAP_HUGETLB | memfd_flag()
        self._at = system_call("mmap", 0, self._room, PROTECTION, flags, 2**64 - 1, 0)
        self.address = (self._at + FRAME_SIZE - 1) // FRAME_SIZE * FRAME_SIZE
        if kind != "hugetlb":
            advice = mmap.MADV_HUGEPAGE if kind == "transparent" else mmap.MADV_NOHUGEPAGE
            system_call("madvise", self.address, nbytes, advice)
        ctypes.memset(self.address, 1, nbytes)

    def write(self) -> None:
        """Write a byte to every small page, as counting references does."""
        bytes_ = (ctypes.c_char * self.nbytes).from_address(self.address)
        memoryview(bytes_).cast("B")[:: base_page_size()] = bytes(self.nbytes // base_page_size())

    def share(self) -> float:
        """The part of it that lies on huge pages."""
        return coverage_of_ranges((self._at, self._room)).share

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        system_call("munmap", self._at, self._room)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that it takes."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def own_tables() -> int:
    """Bytes of this process's page tables."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmPTE:"))


def in_child(work: Callable[[], dict[str, Any]]) -> tuple[float, Callable[[], dict[str, Any]]]:
    """Fork, and have the child work: milliseconds of the fork, and what waits for the answer."""
    reading, writing = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.write(writing, pickle.dumps(work()))
        os._exit(0)
    taken = (time.perf_counter() - start) * 1e3
    os.close(writing)

    def wait() -> dict[str, Any]:
        with open(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        return pickle.loads(said) if said else {"killed by": os.WTERMSIG(status)}

    return taken, wait


def one(kind: str, nbytes: int) -> dict[str, float]:
    """All figures of one kind, once."""
    found: dict[str, float] = {}
    with Memory(kind, nbytes) as memory:
        found["before"] = memory.share()
        # A child that ends at once.
        found["fork_ms"], wait = in_child(lambda: {"tables": own_tables()})
        found["tables"] = wait()["tables"]
        # A child that writes, and a parent that waits for it.
        _, wait = in_child(lambda: {"ms": timed(memory.write), "share": memory.share()})
        answer = wait()
        found["child_write_ms"], found["child_share"] = answer.get("ms", -1), answer.get("share", -1)
        found["parent_share"] = memory.share()
        # A parent that writes while the child lives.
        go, gone = os.pipe()
        _, wait = in_child(lambda: {"read": os.read(go, 1)})
        found["write_ms"] = timed(memory.write)
        found["parent_share_written"] = memory.share()
        os.write(gone, b"x")
        wait()
        os.close(go)
        os.close(gone)
        if kind == "transparent":
            found["collapse_ms"] = timed(
                lambda: system_call("madvise", memory.address, memory.nbytes, COLLAPSE)
            )
            found["parent_share_collapsed"] = memory.share()
        found["write_again_ms"] = timed(memory.write)
    return found


def shortage() -> str:
    """What becomes of a child when the pool has no hugetlb page left and the parent writes."""
    free = int(Path(f"/sys/kernel/mm/hugepages/{huge_pages_folder()}/free_hugepages").read_text())
    if not free:
        return "no hugetlb pages"
    with Memory("hugetlb", free * FRAME_SIZE) as memory:
        go, gone = os.pipe()
        _, wait = in_child(
            lambda: {"read": os.read(go, 1), "byte": ctypes.c_ubyte.from_address(memory.address).value}
        )
        memory.write()
        os.write(gone, b"x")
        said = wait()
        os.close(go)
        os.close(gone)
    return f"the child that then reads its snapshot: {said}"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=parse_size, default=1 << 30)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        try:
            runs = [one(kind, options.size) for _ in range(options.times)]
        except OSError as error:
            print(f"{kind}: {error.filename or 'mmap'}: {error.strerror}")
            continue
        figures[kind] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    if options.json:
        print(json.dumps({"bytes": options.size, "times": options.times, "kinds": figures}, indent=2))
        return
    print(f"{format_size(options.size)}, median of {options.times}")
    names = dict.fromkeys(name for kind in figures.values() for name in kind)
    for name in names:
        print(f"{name:24}", *(f"{kind.get(name, float('nan')):16.4g}" for kind in figures.values()))
    print(f"{'':24}", *(f"{kind:>16}" for kind in figures))
    print("hugetlb pages all in use, the parent writes;", shortage())


if __name__ == "__main__":
    main()
