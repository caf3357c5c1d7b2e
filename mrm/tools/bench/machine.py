"""The machine that was measured, as facts and in words, with what its counters cannot see."""

import os
import platform
import time
from pathlib import Path
from typing import Any

from mrm.errors import Error
from mrm.physical.limits import chosen_word, huge_pages, shmem_thp
from mrm.shootdowns import received
from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE


def machine() -> dict[str, Any]:
    """Facts that figures depend on, as plain JSON types."""
    cpu = _cpuinfo()
    flags = cpu.get("flags", "").split()
    memory = _meminfo()
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": cpu.get("model name", platform.machine()),
        "cpus": len(os.sched_getaffinity(0)),
        "nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        "virtualised": "hypervisor" in flags,
        "memory_bytes": memory.get("MemTotal", 0) * 1024,
        "huge_pages_total": memory.get("HugePages_Total", 0),
        "huge_pages_free": memory.get("HugePages_Free", 0),
        "thp": chosen_word(Path("/sys/kernel/mm/transparent_hugepage/enabled")),
        "shmem_thp": shmem_thp(),
        "invlpgb": "invlpgb" in flags,
        "root": os.geteuid() == 0,
        "python": platform.python_version(),
    }


def in_words(facts: dict[str, Any]) -> str:
    """One line that a reader of the table needs beside it."""
    nodes = f"{facts['nodes']} NUMA node{'s' if facts['nodes'] > 1 else ''}"
    return (
        f"{facts['cpu']}, {facts['cpus']} processors, {nodes}, "
        f"{'virtual machine' if facts['virtualised'] else 'bare metal'}, "
        f"{format_size(facts['memory_bytes'])}, Linux {facts['kernel']}, "
        f"{facts['huge_pages_total']} huge pages of {format_size(FRAME_SIZE)} ({facts['huge_pages_free']} free)"
    )


def blind_spots(facts: dict[str, Any]) -> list[str]:
    """What the column of shootdowns does not show on this machine; sentences."""
    spots = []
    try:
        received()
    except Error as missing:
        spots.append(f"Shootdowns are not counted: {missing}.")
        return spots
    spots.append(
        "Shootdowns are system-wide (row TLB of /proc/interrupts): a busy neighbour adds to them, "
        "and one invalidation counts once for every processor that receives it. Interrupts of the row CAL, "
        "which follow when page tables stop being shared, are not in the count."
    )
    if facts["virtualised"]:
        spots.append(
            "In a virtual machine the hypervisor may flush a processor that is not running without an "
            "interrupt (paravirtual flush); such flushes are not in the count."
        )
    if facts["invlpgb"]:
        spots.append(
            "This processor has INVLPGB: the kernel may broadcast flushes, which are not in the count."
        )
    return spots


class Neighbours:
    """What other processes take of the processors while something is measured."""

    def __init__(self) -> None:
        self._begin = self._sample()

    def busy(self) -> float:
        """Processors that others kept busy on average since the making, such as 0.3."""
        wall, busy, own = (end - begin for begin, end in zip(self._begin, self._sample()))
        return max(0.0, (busy - own) / wall)

    def tell(self, machine: dict[str, Any], notes: list[str], harm: str) -> None:
        """Put it into a result, and where it is much a note of the ``harm`` that it does."""
        busy = self.busy()
        machine["processors_taken_by_others"] = round(busy, 2)
        if busy > 0.1:
            notes.append(
                f"Others kept {busy:.1f} of {machine['cpus']} processors busy meanwhile (time that the host took "
                f"away included): {harm}."
            )

    @staticmethod
    def _sample() -> tuple[float, float, float]:
        """Seconds on the clock, of all processors' work and stolen time, and of our own, ended children's too."""
        row = Path("/proc/stat").read_text().splitlines()[0].split()
        user, nice, system, _, _, irq, softirq, steal = (int(field) for field in row[1:9])
        # Steal: what the host gave to other machines, while something here wanted to run.
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        children = own.children_user + own.children_system
        return time.monotonic(), busy, own.user + own.system + children


def free_huge_pages() -> int:
    """Huge pages of a frame's size that nobody has reserved, whatever the default size is."""
    pages = huge_pages()
    return 0 if pages is None else pages.available


def available_bytes() -> int:
    """Memory that can be had without anyone else going short."""
    return _meminfo().get("MemAvailable", 0) * 1024


def _meminfo() -> dict[str, int]:
    rows = (row.split() for row in Path("/proc/meminfo").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) for row in rows}


def _cpuinfo() -> dict[str, str]:
    first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (row.partition(":") for row in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
