"""What the kernel says of addresses, for audits and doubters.

Reads /proc/self/smaps and /proc/self/maps in plain Python, on purpose: it shares no
code with what it checks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from mrm.errors import AuditError
from mrm.system.pages import FRAME_SIZE

if TYPE_CHECKING:
    from mrm import Reservation

_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (....) ([0-9a-f]+) \S+ (\d+)")


class KernelMapping(NamedTuple):
    """One line of /proc/self/maps."""

    start: int
    end: int
    permissions: str
    offset: int
    inode: int


def kernel_mappings(start: int, end: int) -> list[KernelMapping]:
    """The process's mappings that touch [start, end), lowest first."""
    found = []
    with open("/proc/self/maps") as file:
        for line in file:
            match = _LINE.match(line)
            if match is None:
                continue
            low, high = int(match[1], 16), int(match[2], 16)
            if low < end and high > start:
                found.append(KernelMapping(low, high, match[3], int(match[4], 16), int(match[5])))
    return found


def check_reservation(reservation: Reservation) -> None:
    """Compare a reservation's table with the kernel's.

    Raises
    ------
    AuditError
        Naming the first slot that shows something else than the table says.
    """
    size = reservation.pool.frame_size
    base = reservation.base
    shown: dict[int, tuple[int, str]] = {}
    position = base
    for mapping in kernel_mappings(base, base + len(reservation) * size):
        if mapping.start > position:
            raise AuditError(f"nothing is reserved from {position:#x} to {mapping.start:#x}")
        position = mapping.end
        if not mapping.inode:
            continue
        for address in range(
            max(mapping.start, base), min(mapping.end, base + len(reservation) * size), size
        ):
            frame = (mapping.offset + address - mapping.start) // size
            shown[(address - base) // size] = (frame, mapping.permissions[:2])
    for slot in range(len(reservation)):
        frame_and_access = shown.get(slot)
        told = reservation.mapping(slot)
        if told is None:
            if frame_and_access is not None:
                raise AuditError(
                    f"slot {slot} should show nothing, and the kernel has frame {frame_and_access[0]} there"
                )
            continue
        if frame_and_access is None:
            raise AuditError(
                f"slot {slot} should be mapped ({told.protection}), and the kernel has nothing there"
            )
        access = {"rw": "rw", "r": "r-", "none": "--"}[told.protection]
        if frame_and_access[1] != access:
            raise AuditError(
                f"slot {slot} should allow {access!r}, and the kernel has {frame_and_access[1]!r}"
            )
        told_frame = reservation[slot]
        if told_frame is not None and told_frame != frame_and_access[0]:
            raise AuditError(
                f"slot {slot} should show frame {told_frame}, and the kernel has {frame_and_access[0]} there"
            )


def page_size_at(address: int) -> int:
    """Bytes of the pages that the kernel backs an address with, from /proc/self/smaps.

    Raises
    ------
    AuditError
        If nothing is mapped there, or /proc cannot be read.
    """
    inside = False
    huge_mapped = 0
    kernel_size = 0
    try:
        with open("/proc/self/smaps") as file:
            for line in file:
                match = _LINE.match(line)
                if match is not None:
                    inside = int(match[1], 16) <= address < int(match[2], 16)
                elif inside:
                    name, _, rest = line.partition(":")
                    if name == "KernelPageSize":
                        kernel_size = int(rest.split()[0]) * 1024
                    elif name in ("ShmemPmdMapped", "FilePmdMapped", "AnonHugePages"):
                        huge_mapped += int(rest.split()[0]) * 1024
                    elif name == "VmFlags":
                        break
    except OSError as error:
        raise AuditError(
            f"/proc/self/smaps cannot be read ({error}): the page size cannot be proven"
        ) from error
    if not kernel_size:
        raise AuditError(f"nothing is mapped at {address:#x}")
    if huge_mapped and kernel_size < FRAME_SIZE:
        return _page_size_by_map(address, kernel_size)
    return kernel_size


def _page_size_by_map(address: int, small: int) -> int:
    """Whether one address of a partly huge mapping is huge: bit 22 of its flags in /proc/kpageflags.

    The page map's numbers need CAP_SYS_ADMIN; without it they read as 0, and the answer
    is the small page, which is certain.
    """
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            pagemap.seek(address // small * 8)
            entry = int.from_bytes(pagemap.read(8), "little")
        number = entry & (1 << 55) - 1
        with open("/proc/kpageflags", "rb", buffering=0) as kpageflags:
            kpageflags.seek(number * 8)
            flags = int.from_bytes(kpageflags.read(8), "little")
    except OSError:
        return small
    return FRAME_SIZE if number and flags & 1 << 22 else small
