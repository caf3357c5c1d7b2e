"""Who is measured: allocators by name, where each is found, and how it is told to use huge pages.

A form that ends in ``+huge`` is the same library with its own option for huge pages switched on; the machine's
settings are the same for all of them.
"""

import ctypes.util
import os
from dataclasses import dataclass, field
from pathlib import Path

from mrm import Heap, Pool
from mrm.physical.substitutes import substitute
from mrm.tools.bench.heap.allocator import Allocator

#: What mrm is called, and who small blocks are compared with.
OURS, BASE, HUGE = "mrm", "mimalloc", "+huge"

# A library that is loaded late wants thread-local storage that glibc sets aside at the start. All children
# get it, so that they differ in nothing else.
_TUNABLES = "glibc.rtld.optional_static_tls=65536"


@dataclass(frozen=True)
class Entry:
    """An allocator before it is measured.

    Attributes
    ----------
    name : str
        As in the figures.
    library : str
        The shared object; nothing for mrm.
    prefix : str
        What its functions' names begin with.
    package : str
        Debian's that has it.
    environment : dict of str to str
        What its process is started with.
    mount : str or None
        The variable that tells it a file on a mount of hugetlbfs, if it wants one.
    hugetlb : bool
        Whether it takes pages that the kernel has set aside (``nr_hugepages``).
    how : str
        In a few words, how it comes to huge pages.
    """

    name: str
    library: str = ""
    prefix: str = ""
    package: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    mount: str | None = None
    hugetlb: bool = False
    how: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is mrm."""
        return not self.library

    @property
    def huge(self) -> bool:
        """Whether it is the form on huge pages."""
        return self.name.endswith(HUGE)

    def load(self, nbytes: int) -> Allocator:
        """The allocator, in the process that is to be measured.

        Parameters
        ----------
        nbytes : int
            What it has to have room for, where that must be said beforehand.
        """
        if not self.ours:
            return Allocator.library(self.library, self.prefix)
        if not self.huge:
            return Allocator.of_heap(Heap(name="bench"))
        pool = Pool(nbytes, huge="require", name="bench")
        return Allocator.of_heap(Heap(pool, name="bench"), pool)

    @property
    def way_out(self) -> str:
        """What to do where it is missing."""
        if self.ours:
            return "`mrm doctor` says what this machine lacks"
        if self.mount is not None and substitute(huge=True) is None:
            return "mount -t hugetlbfs none /dev/hugepages, as root, makes one"
        return f"Debian has it in {self.package}: apt-get install {self.package}"


def _glibc() -> str:
    return ctypes.util.find_library("c") or "libc.so.6"


ENTRIES = (
    Entry("mrm", how="a private heap: ordinary memory, with transparent huge pages by advice"),
    Entry("mrm+huge", hugetlb=True, how="a heap on a pool of huge pages, funded before the clock"),
    Entry("glibc", _glibc(), package="libc6"),
    Entry("mimalloc", "libmimalloc.so.2", "mi_", "libmimalloc2.0"),
    Entry("jemalloc", "libjemalloc.so.2", package="libjemalloc2"),
    Entry("tcmalloc", "libtcmalloc_minimal.so.4", "tc_", "libtcmalloc-minimal4"),
    Entry(
        "glibc+huge", _glibc(), package="libc6",
        environment={"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
        how="glibc.malloc.hugetlb=1: transparent huge pages, by advice",
    ),
    Entry(
        "mimalloc+huge", "libmimalloc.so.2", "mi_", "libmimalloc2.0",
        # Named so until 2.0, and since 2.1.
        environment={"MIMALLOC_LARGE_OS_PAGES": "1", "MIMALLOC_ALLOW_LARGE_OS_PAGES": "1"},
        hugetlb=True,
        how="MIMALLOC_ALLOW_LARGE_OS_PAGES=1: pages of 2 MiB that are set aside, else transparent ones",
    ),
    Entry(
        "jemalloc+huge", "libjemalloc.so.2", package="libjemalloc2",
        environment={"MALLOC_CONF": "thp:always,metadata_thp:always"},
        how="MALLOC_CONF=thp:always,metadata_thp:always: transparent huge pages, by advice",
    ),
    Entry(
        "tcmalloc+huge", "libtcmalloc_minimal.so.4", "tc_", "libtcmalloc-minimal4",
        mount="TCMALLOC_MEMFS_MALLOC_PATH",
        hugetlb=True,
        how="TCMALLOC_MEMFS_MALLOC_PATH: a file on a mount of hugetlbfs",
    ),
)  # fmt: skip

ALLOCATORS = {entry.name: entry for entry in ENTRIES}


def environment(entry: Entry) -> dict[str, str]:
    """What the process of an allocator is started with: this one's, without options of allocators' in it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MIMALLOC_", "MALLOC_", "TCMALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES"))
    }
    own = dict(entry.environment)
    if entry.mount is not None and (mount := substitute(huge=True)) is not None:
        own[entry.mount] = str(Path(mount, f"mrm-bench-{os.getpid()}"))
    tunables = own.pop("GLIBC_TUNABLES", None)
    return {
        **inherited, **own, "GLIBC_TUNABLES": f"{_TUNABLES}:{tunables}" if tunables else _TUNABLES,
    }  # fmt: skip
