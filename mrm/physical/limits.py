"""What the machine has, what it allows, and which of its limits stood in the way.

The kernel refuses memory with one number, ENOMEM or ENOSPC, whichever of half a dozen
limits it was. ``explain_shortage`` reads them all and says which are too low for what
was asked, with their figures and what to do. The readers are of use by themselves:
``mrm doctor`` shows what they find.

Nothing here fails: what cannot be read is None, or not in the list. A container may hide
/proc or /sys; where one of them tells what the other would have, it is asked instead, and
an explanation that found nothing says what it could not see. The readers take
the root that they read below, so that tests can hand them a made-up tree; only the
RLIMITs always come from the process itself.
"""

import errno
import os
import resource
from dataclasses import dataclass
from pathlib import Path

from mrm.physical.cgroups import (
    ROOT,
    GroupLimit,
    counts_hugetlb_as_memory,
    hidden,
    hugetlb_limits,
    memory_limits,
)
from mrm.physical.files import read_int, read_text
from mrm.physical.permission import explain_permission
from mrm.sizes import format_size
from mrm.system.pages import base_page_size, frame_size, huge_pages_folder

RLIMITS = {
    "RLIMIT_AS": resource.RLIMIT_AS,
    "RLIMIT_FSIZE": resource.RLIMIT_FSIZE,
    "RLIMIT_MEMLOCK": resource.RLIMIT_MEMLOCK,
    "RLIMIT_NOFILE": resource.RLIMIT_NOFILE,
}


@dataclass(frozen=True)
class HugePages:
    """The kernel's pool of huge pages of one size, on one node or in all.

    Attributes
    ----------
    page_size : int
        Bytes of one page.
    total, free, reserved, surplus : int
        Pages. Free ones that are reserved are promised to a mapping already; surplus
        ones were made on demand. Reserved pages are counted for the machine only.
    overcommit : int
        How many surplus pages there may be (``nr_overcommit_hugepages``); machine only.
    """

    page_size: int
    total: int
    free: int
    reserved: int = 0
    surplus: int = 0
    overcommit: int = 0

    @property
    def available(self) -> int:
        """Pages that are free and promised to nobody."""
        return max(0, self.free - self.reserved)

    @property
    def growth(self) -> int:
        """Pages that the kernel may still make on demand, if it finds the memory."""
        return max(0, self.overcommit - self.surplus)


def huge_pages(page_size: int | None = None, node: int | None = None, root: Path = ROOT) -> HugePages | None:
    """The pool of huge pages of one size; None where the kernel has none of that size, or hides it.

    Where /sys is hidden, /proc/meminfo tells of the default size.

    Parameters
    ----------
    page_size : int, optional
        Bytes of one page; those of a frame when not given.
    node : int, optional
        One NUMA node's part; all of the machine when not given.
    root : Path, optional
        What to read below.
    """
    base = "sys/kernel/mm" if node is None else f"sys/devices/system/node/node{node}"
    page_size = page_size or frame_size()
    directory = root / base / f"hugepages/hugepages-{page_size >> 10}kB"
    total = read_int(directory / "nr_hugepages")
    if total is None:
        return _default_pool(page_size, root) if node is None else None
    return HugePages(
        page_size,
        total,
        read_int(directory / "free_hugepages") or 0,
        read_int(directory / "resv_hugepages") or 0,
        read_int(directory / "surplus_hugepages") or 0,
        read_int(directory / "nr_overcommit_hugepages") or 0,
    )


def _default_pool(page_size: int, root: Path) -> HugePages | None:
    """The same from /proc/meminfo, if it is about pages of this size."""
    info = meminfo(root)
    if info.get("Hugepagesize") != page_size or "HugePages_Total" not in info:
        return None
    return HugePages(
        page_size,
        info["HugePages_Total"],
        info.get("HugePages_Free", 0),
        info.get("HugePages_Rsvd", 0),
        info.get("HugePages_Surp", 0),
        read_int(root / "proc/sys/vm/nr_overcommit_hugepages") or 0,
    )


def default_huge_page_size(root: Path = ROOT) -> int | None:
    """What ``vm.nr_hugepages`` and ``hugepages=`` count, in bytes; None when unknown."""
    return meminfo(root).get("Hugepagesize")


def huge_page_sizes(root: Path = ROOT) -> list[int]:
    """Sizes of huge pages that the kernel has, in bytes, smallest first."""
    names = [p.name for p in (root / "sys/kernel/mm/hugepages").glob("hugepages-*kB")]
    return sorted(int(n.removeprefix("hugepages-").removesuffix("kB")) << 10 for n in names)


def nodes(root: Path = ROOT) -> list[int]:
    """NUMA nodes that are online; ``[0]`` where the kernel knows nothing of nodes."""
    return parse_list(read_text(root / "sys/devices/system/node/online")) or [0]


def memory_nodes(root: Path = ROOT) -> list[int]:
    """NUMA nodes that have memory."""
    found = parse_list(read_text(root / "sys/devices/system/node/has_memory"))
    return [node for node in nodes(root) if node in found] or nodes(root)


def allowed_nodes(root: Path = ROOT) -> list[int]:
    """Those of them whose memory this process may use (``cpuset.mems`` of its control group)."""
    there = memory_nodes(root)
    for line in read_text(root / "proc/self/status").splitlines():
        if line.startswith("Mems_allowed_list:"):
            allowed = parse_list(line.partition(":")[2])
            return [node for node in there if node in allowed] or there
    return there


def meminfo(root: Path = ROOT, node: int | None = None) -> dict[str, int]:
    """``/proc/meminfo``, or a node's own, as bytes (``HugePages_*`` as pages)."""
    path = "proc/meminfo" if node is None else f"sys/devices/system/node/node{node}/meminfo"
    found = {}
    for line in read_text(root / path).splitlines():
        words = line.split()
        if node is not None:
            words = words[2:]
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(":")] = int(words[1]) << (10 if words[2:] == ["kB"] else 0)
    return found


def memory_available(node: int | None = None, root: Path = ROOT) -> int | None:
    """Bytes of ordinary memory to be had without swapping; None when unknown.

    Where /proc/meminfo is hidden, the nodes' own below /sys are added up.
    """
    if node is None or nodes(root) == [node]:
        available = meminfo(root).get("MemAvailable")
        if available is not None:
            return available
        parts = [_node_available(n, root) for n in nodes(root)]
        return None if None in parts else sum(filter(None, parts))
    return _node_available(node, root)


def _node_available(node: int, root: Path) -> int | None:
    info = meminfo(root, node)
    # A node has no MemAvailable: what is free, and file cache, which can be dropped.
    if "MemFree" not in info:
        return None
    return info["MemFree"] + info.get("Active(file)", 0) + info.get("Inactive(file)", 0)


def max_map_count(root: Path = ROOT) -> int | None:
    """Mappings that a process may have (``vm.max_map_count``)."""
    return read_int(root / "proc/sys/vm/max_map_count")


def overcommit_memory(root: Path = ROOT) -> int | None:
    """``vm.overcommit_memory``: 0 by guess, 1 always, 2 never beyond ``CommitLimit``."""
    return read_int(root / "proc/sys/vm/overcommit_memory")


def shmem_thp(root: Path = ROOT) -> str | None:
    """Chosen word of ``shmem_enabled``: whether memfds may have transparent huge pages."""
    return chosen_word(root / "sys/kernel/mm/transparent_hugepage/shmem_enabled")


def rlimit(name: str) -> int | None:
    """Soft limit of this process by its name in ``RLIMITS``; None when there is none."""
    soft, _ = resource.getrlimit(RLIMITS[name])
    return None if soft == resource.RLIM_INFINITY else soft


def address_space_used(root: Path = ROOT) -> int:
    """Bytes of address space that this process has mapped."""
    words = read_text(root / "proc/self/statm").split()
    return int(words[0]) * base_page_size() if words else 0


def private_memory_used(root: Path = ROOT) -> int:
    """Bytes of private memory that this process can write to, its stack included: what RLIMIT_DATA counts."""
    words = read_text(root / "proc/self/statm").split()
    return int(words[5]) * base_page_size() if len(words) > 5 else 0


# ---- what stood in the way -------------------------------------------------------


def explain_shortage(
    nbytes: int,
    error: int | None,
    node: int | None = None,
    *,
    call: str | None = None,
    directory: str | None = None,
    bound: list[int] | None = None,
    root: Path = ROOT,
) -> str:
    """Say which limits stood in the way of ``nbytes`` of huge pages, and what to do.

    Parameters
    ----------
    nbytes : int
        What was asked for.
    error : int or None
        The errno that the kernel refused with.
    node : int, optional
        The NUMA node that the pages had to be on.
    call : str, optional
        The system call that refused.
    directory : str, optional
        Directory of the hugetlbfs mount that they were asked from.
    bound : list of int, optional
        The nodes that the memory policy of the thread that asked binds it to.
    root : Path, optional
        What to read below.

    Returns
    -------
    str
        One sentence a limit that is too low; if none is, one that says so.
    """
    if permission := explain_permission(call, error, directory):
        return permission
    found = _page_shortage(nbytes, node, bound, root)
    found += mount_shortage(nbytes, directory)
    found += [
        group_sentence(limit, nbytes) for limit in hugetlb_limits(frame_size(), root) if limit.left < nbytes
    ]
    if counts_hugetlb_as_memory(root):
        found += [group_sentence(limit, nbytes) for limit in memory_limits(root) if limit.left < nbytes]
    found += process_shortage(nbytes, error, root)
    if found:
        return " ".join(found)
    return nothing_found(error, root)


def nothing_found(error: int | None, root: Path = ROOT) -> str:
    """The sentence where no limit that can be seen is too low."""
    reason = f"{errno.errorcode.get(error, error)} ({os.strerror(error)})" if error else "no error number"
    if unseen := unseen_limits(root):
        return (
            f"The kernel said {reason}, and what refused cannot be seen from here: {'; '.join(unseen)}. If trying "
            "again does not help, look from outside at the container's limits on huge pages and memory, and at the "
            "machine's free huge pages; "
            "`mrm doctor` shows what can be seen from inside."
        )
    return (
        f"The kernel said {reason}, and no limit that mrm knows of is too low now: another process may "
        "have held the memory for a moment (try again), or a security policy forbids the call. "
        "`mrm doctor` shows all limits."
    )


def unseen_limits(root: Path = ROOT) -> list[str]:
    """What cannot be looked at from here, and may have a limit nevertheless: half a sentence each."""
    found = []
    if not read_text(root / "proc/meminfo"):
        found.append("/proc/meminfo cannot be read, nor what memory is available")
    if not (root / "sys/kernel/mm").is_dir():
        found.append("/sys is hidden, and with it the pools of huge pages")
    if groups := hidden(root):
        found.append(f"{groups}, so that not all limits of control groups are known")
    return found


def explain_ordinary_shortage(
    nbytes: int, node: int | None = None, root: Path = ROOT, *, error: int | None = None
) -> str | None:
    """Say what stands in the way of ``nbytes`` of ordinary memory; None if nothing does.

    To be asked before, rather than after with the ``error`` of a refused call: the kernel
    seldom refuses ordinary memory, it kills a process to find some.
    """
    found = []
    # Some is left for others, and for what the kernel needs to manage the rest.
    wanted = nbytes + max(64 << 20, nbytes >> 6)
    available = memory_available(node, root)
    if available is not None and available < wanted:
        where = "" if node is None else f" on node {node}"
        found.append(
            f"Only {format_size(available)} of memory is available{where}, and {format_size(wanted)} would "
            "have to be, some slack included: ask for less, or end what uses the rest."
        )
    found += [group_sentence(limit, wanted) for limit in memory_limits(root) if limit.left < wanted]
    info = meminfo(root)
    if overcommit_memory(root) == 2 and "CommitLimit" in info:
        left = max(0, info["CommitLimit"] - info.get("Committed_AS", 0))
        if left < nbytes:
            found.append(
                f"vm.overcommit_memory is 2 and leaves {format_size(left)} to promise: raise "
                "vm.overcommit_ratio, or set vm.overcommit_memory to 0."
            )
    found += process_shortage(nbytes, error, root)
    return " ".join(found) or None


def process_shortage(nbytes: int, error: int | None, root: Path = ROOT) -> list[str]:
    """Sentences about limits of this process that ``nbytes`` would exceed."""
    found = []
    size = rlimit("RLIMIT_FSIZE")
    if size is not None and size < nbytes:
        found.append(
            f"RLIMIT_FSIZE allows files of {format_size(size)}, and the frames are one file of "
            f"{format_size(nbytes)}: raise it (`ulimit -f unlimited`)."
        )
    space = rlimit("RLIMIT_AS")
    if space is not None and space < address_space_used(root) + nbytes:
        found.append(
            f"RLIMIT_AS allows {format_size(space)} of address space, {format_size(address_space_used(root))} "
            "of it in use: raise it (`ulimit -v unlimited`)."
        )
    if error == errno.EMFILE:
        found.append(
            f"The process may have no more than {rlimit('RLIMIT_NOFILE')} files open (RLIMIT_NOFILE): "
            "raise it (`ulimit -n`), or close some."
        )
    if error == errno.ENFILE:
        found.append("The machine has as many files open as fs.file-max allows: raise it, or close some.")
    return found


def group_sentence(limit: GroupLimit, nbytes: int) -> str:
    """A sentence about a group's limit that ``nbytes`` would exceed."""
    return (
        f"{limit.file} of {limit.directory} is {format_size(limit.limit)} with {format_size(limit.left)} "
        f"left, and {format_size(nbytes)} is needed: raise it (in a container, by the container's "
        "memory or huge page limit), or ask for less."
    )


def node_refusal(node: int | None, root: Path = ROOT) -> str | None:
    """Why this process can have no memory of a NUMA node at all; None if it can."""
    if node is None or node in allowed_nodes(root):
        return None
    if node not in memory_nodes(root):
        return (
            f"NUMA node {node} has no memory of its own; {numbered(memory_nodes(root))} of this machine has."
        )
    return (
        f"This process may use memory of {numbered(allowed_nodes(root))} only, and not of node {node} "
        "(Mems_allowed_list in /proc/self/status): raise cpuset.mems of its control group, or start it with "
        "that node allowed (in a container, by the container's cpuset)."
    )


def _page_shortage(nbytes: int, node: int | None, bound: list[int] | None, root: Path) -> list[str]:
    """What the kernel's pool of huge pages lacks."""
    size = format_size(frame_size())
    pages = huge_pages(None, node, root)
    machine = huge_pages(None, None, root)
    if (pages is None or machine is None) and not (root / "sys/kernel/mm").is_dir():
        return []  # nobody can tell: unseen_limits says so
    if pages is None or machine is None:
        said = f"This kernel has no huge pages of {size} (no {huge_pages_folder()} below /sys/kernel/mm/hugepages)"
        return [f"{said}: it needs CONFIG_HUGETLBFS."]
    needed = -(-nbytes // frame_size())
    if pages.available >= needed and machine.available >= needed:
        return _beyond_reach(needed, bound, root) if node is None else []
    where, option = ("", "") if node is None else (f" on node {node}", f" --node {node}")
    fix = f"run `mrm fund {_binary(nbytes)}{option}` as root"
    if node is not None and pages.available >= needed:
        where, pages = " on the machine as a whole", machine
    said = (
        f"{needed} huge pages of {size} are needed{where}, and {pages.available} of {pages.total} are free "
        f"(free_hugepages {pages.free}, reserved {pages.reserved})"
    )
    spread = _by_node(root)
    if machine.growth >= needed - pages.available > 0:
        said += f"; nr_overcommit_hugepages allows {machine.growth} more, but the kernel could not put them"
        return [f"{said} together: memory is short or fragmented. Fund them early: {fix}.", *spread]
    said += f"; nr_hugepages is {machine.total} and nr_overcommit_hugepages {machine.overcommit}"
    return [f"{said}: {fix}.", *spread]


def _by_node(root: Path) -> list[str]:
    """What each node has, where there are several."""
    if len(nodes(root)) < 2:
        return []
    pools = {node: huge_pages(None, node, root) for node in nodes(root)}
    said = [f"node {node} has {pages.free} of {pages.total} free" for node, pages in pools.items() if pages]
    return [f"Of the machine's huge pages {', '.join(said)}."]


def _beyond_reach(needed: int, bound: list[int] | None, root: Path) -> list[str]:
    """That enough pages are free, but not on the nodes that the caller may use."""
    allowed = allowed_nodes(root)
    reach = [node for node in allowed if bound is None or node in bound]
    pools = [huge_pages(None, node, root) for node in reach]
    free = sum(pages.free for pages in pools if pages)
    if reach == memory_nodes(root) or free >= needed:
        return []
    if reach == allowed:
        whose, fix = "this process may use", "raise cpuset.mems of its control group"
    else:
        whose, fix = "this thread's memory policy allows", "give the pool a numa_node"
    size = format_size(frame_size())
    said = f"{needed} huge pages of {size} are needed, and {free} are free on {numbered(reach)}"
    fix += ", or fund more there (`mrm fund SIZE --node N`)"
    return [f"{said}, whose memory alone {whose}: {fix}.", *_by_node(root)]


def mount_shortage(nbytes: int, directory: str | None) -> list[str]:
    """What the size= option of a hugetlbfs or tmpfs mount leaves."""
    if directory is None:
        return []
    try:
        mount = os.statvfs(directory)
    except OSError:
        return []
    left = mount.f_bavail * mount.f_bsize
    # A mount without the option shows no blocks at all.
    if mount.f_blocks == 0 or left >= nbytes:
        return []
    said = f"The mount of {directory} has {format_size(left)} left of its size= option"
    total = mount.f_blocks * mount.f_bsize - left + nbytes
    return [f"{said}: remount it with more (`mount -o remount,size={_binary(total)} …`)."]


# ---- reading -----------------------------------------------------------------------


def numbered(numbers: list[int]) -> str:
    """``node 3``, or ``nodes 0, 3``."""
    return f"node{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def chosen_word(path: Path) -> str | None:
    """The word in brackets, as in ``always [madvise] never``."""
    for word in read_text(path).split():
        if word.startswith("["):
            return word.strip("[]")
    return None


def parse_list(text: str) -> list[int]:
    """The numbers of a kernel list such as ``0-3,8``."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1)
    return found


def _binary(nbytes: int) -> str:
    """A size as ``mrm fund`` takes it, exact: ``2GiB``, ``1030MiB``."""
    mebibytes = -(-nbytes >> 20)
    return f"{mebibytes >> 10}GiB" if mebibytes % 1024 == 0 else f"{mebibytes}MiB"
