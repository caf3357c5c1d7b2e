"""What files say about this machine: memory, huge pages, limits, processors.

Each function is one topic, returns findings, and reads below the root that it is
given, so that tests can hand it a machine of their own.
"""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from mrm.physical.cgroups import ROOT, counts_hugetlb_as_memory, hugetlb_limits, memory_limits
from mrm.physical.files import read_text
from mrm.physical.limits import (
    RLIMITS,
    allowed_nodes,
    chosen_word,
    default_huge_page_size,
    huge_page_sizes,
    huge_pages,
    max_map_count,
    meminfo,
    nodes,
    numbered,
    overcommit_memory,
    rlimit,
)
from mrm.sizes import format_size
from mrm.system.pages import base_page_size, bits_of_addresses, frame_size, mount_option, shared_table_span
from mrm.tools.doctor.finding import NOTE, OK, PROBLEM, WARNING, Finding

_THP = "sys/kernel/mm/transparent_hugepage"


def machine(root: Path = ROOT) -> Iterator[Finding]:
    """Kernel, processors and memory."""
    topic = "machine"
    yield Finding(topic, "kernel", platform.release())
    yield Finding(topic, "base page size", base_page_size())
    span = shared_table_span()
    shared = format_size(span) if span else "nothing"
    advice = "" if span else "views have page tables of their own: the first touch of each page takes a fault"
    yield Finding(topic, "huge page that is a frame", format_size(frame_size()))
    yield Finding(topic, "mappings can share page tables of", shared, OK if span else NOTE, advice)
    yield Finding(topic, "addresses of a process", f"{bits_of_addresses()} bits")
    yield Finding(topic, "processors", _processors())
    yield Finding(topic, "NUMA nodes", _nodes(root), OK, _node_advice(root))
    info = meminfo(root)
    yield Finding(topic, "memory", format_size(info.get("MemTotal", 0)))
    yield Finding(topic, "memory available", format_size(info.get("MemAvailable", 0)))
    if "invlpgb" in cpu_flags(root):
        advice = "this processor invalidates without interrupts: /proc/interrupts shows fewer shootdowns"
        yield Finding(topic, "INVLPGB", value=True, status=NOTE, advice=advice)


def _processors() -> str:
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    return str(there) if allowed == there else f"{allowed} of {there} (affinity or cpuset)"


def _nodes(root: Path) -> str:
    there, allowed = nodes(root), allowed_nodes(root)
    if allowed == there:
        return str(len(there))
    return f"{len(there)}, memory of {numbered(allowed)} allowed"


def _node_advice(root: Path) -> str:
    return "fund per node, and give pools a numa_node" if len(nodes(root)) > 1 else ""


def cpu_flags(root: Path = ROOT) -> set[str]:
    """What the first processor says that it can; empty where that is hidden."""
    for line in read_text(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def huge_page_pools(root: Path = ROOT) -> Iterator[Finding]:
    """Huge pages of every size: total, free, reserved, surplus; by node."""
    topic = "huge pages"
    # Where /sys is hidden, /proc/meminfo knows of one size.
    for size in huge_page_sizes(root) or [frame_size()]:
        pages = huge_pages(size, None, root)
        if pages is None:
            continue
        value = (
            f"{pages.total} in all, {pages.free} free, {pages.reserved} reserved, {pages.surplus} surplus, "
            f"overcommit {pages.overcommit}"
        )
        name = f"of {format_size(size)}"
        if size != frame_size():
            advice = (
                "mrm does not use these; `nr_hugepages` of this size gives them back" if pages.total else ""
            )
            yield Finding(topic, name, value, NOTE, advice)
            continue
        status, advice = OK, ""
        if pages.available == 0:
            status = WARNING if pages.growth else PROBLEM
            advice = "none is free: run `mrm fund 2GiB` as root"
            if pages.growth:
                advice = f"none is free, but {pages.growth} may be made on demand: " + advice
        yield Finding(topic, name, value, status, advice)
        if len(nodes(root)) > 1:
            yield from _by_node(size, root)
    default, size = default_huge_page_size(root), frame_size()
    if default not in (size, None):
        advice = (
            "vm.nr_hugepages, `hugepages=` and mounts without pagesize= are about that size: use `mrm fund`, "
            f"`hugepagesz={size >> 20}M hugepages=N` and pagesize={size >> 20}M"
        )
        yield Finding(topic, "default size", format_size(default), WARNING, advice)
    if size not in huge_page_sizes(root) and huge_pages(size, None, root) is None:
        advice = "the kernel needs CONFIG_HUGETLBFS; pools fall back to small pages"
        yield Finding(topic, f"of {format_size(size)}", "none", PROBLEM, advice)


def _by_node(size: int, root: Path) -> Iterator[Finding]:
    for node in nodes(root):
        pages = huge_pages(size, node, root)
        if pages is not None:
            value = f"{pages.total} in all, {pages.free} free, {pages.surplus} surplus"
            status, advice = (OK, "") if pages.free else (NOTE, f"run `mrm fund 2GiB --node {node}` as root")
            yield Finding("huge pages", f"of {format_size(size)} on node {node}", value, status, advice)


def mounts(root: Path = ROOT) -> Iterator[Finding]:
    """hugetlbfs mounts, which are needed only to share a pool by name."""
    found = False
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        kind, *rest = system.split() or [""]
        if kind == "hugetlbfs":
            found = True
            options = rest[1] if len(rest) > 1 else ""
            page_size = next((o for o in options.split(",") if o.startswith("pagesize=")), mount_option())
            right = page_size in (mount_option(), f"pagesize={frame_size() >> 10}K")
            advice = "" if right else f"pools need a mount with {mount_option()}"
            yield Finding("hugetlbfs", mount.split()[4], options, OK if right else NOTE, advice)
    if not found:
        advice = f"only needed for Pool(path=...): mount -t hugetlbfs -o {mount_option()} none /mnt/huge"
        yield Finding("hugetlbfs", "mounts", "none", NOTE, advice)


def transparent(root: Path = ROOT) -> Iterator[Finding]:
    """Transparent huge pages: the second choice."""
    topic = "transparent huge pages"
    for name in ("enabled", "defrag"):
        yield Finding(topic, name, chosen_word(root / _THP / name), NOTE)
    word = chosen_word(root / _THP / "shmem_enabled")
    if word in ("always", "within_size", "advise", "force"):
        yield Finding(topic, "shmem_enabled", word)
    else:
        advice = f"only matters without huge pages; for pools to fall back to THP: echo advise > /{_THP}/shmem_enabled"
        yield Finding(topic, "shmem_enabled", word, NOTE, advice)


def limits(root: Path = ROOT) -> Iterator[Finding]:
    """What the kernel lets any process do, and what it lets this one."""
    topic = "limits"
    count = max_map_count(root)
    if count is not None and count < 65530:
        advice = "scattered slots cost a mapping each: sysctl vm.max_map_count=1048576"
        yield Finding(topic, "vm.max_map_count", count, WARNING, advice)
    else:
        advice = (
            "views cost one mapping each, scattered slots up to one a page; raise it for large reservations"
        )
        yield Finding(topic, "vm.max_map_count", count, OK, advice)
    mode = overcommit_memory(root)
    if mode == 2:
        advice = "every mapping counts against CommitLimit: set 0 or 1, or vm.overcommit_ratio high"
        yield Finding(topic, "vm.overcommit_memory", mode, WARNING, advice)
    else:
        yield Finding(topic, "vm.overcommit_memory", mode)
    fixes = {
        "RLIMIT_AS": "pools reserve much more address space than memory: ulimit -v unlimited",
        "RLIMIT_FSIZE": "frames are one file, of this size at the most: ulimit -f unlimited",
    }
    for name in RLIMITS:
        limit = rlimit(name)
        fix = fixes.get(name) if limit is not None else None
        value = (
            "unlimited" if limit is None else str(limit) if name == "RLIMIT_NOFILE" else format_size(limit)
        )
        yield Finding(topic, name, value, WARNING if fix else OK, fix or "")


def groups(root: Path = ROOT) -> Iterator[Finding]:
    """Control groups' limits that apply to this process."""
    topic = "control groups"
    counted = counts_hugetlb_as_memory(root)
    found = [(limit, True) for limit in hugetlb_limits(None, root)]
    found += [(limit, False) for limit in memory_limits(root)]
    for limit, huge in found:
        value = f"{format_size(limit.limit)}, {format_size(limit.left)} left"
        status, advice = NOTE, ""
        if huge and limit.left < frame_size():
            status, advice = PROBLEM, "no huge page can be had here: raise the container's huge page limit"
        elif not huge and counted:
            status = WARNING
            advice = (
                "huge pages count against it (memory_hugetlb_accounting). A pool beyond it is refused, but a program "
                "that touches one beyond it hangs (6.12, 6.18) or dies of SIGBUS (7.3): raise it by what pools need"
            )
        yield Finding(topic, f"{limit.directory}/{limit.file}", value, status, advice)
    if not found:
        yield Finding(topic, "limits on memory and huge pages", "none")
