"""The kernel's pool of huge pages: what changes it, and what comes of that.

The kernel makes huge pages when a number is written to ``nr_hugepages``, as many as it
finds contiguous memory for, and says nothing if they are fewer: one has to look. When
memory is fragmented, compacting it and asking again often finds the rest. Of
``nr_overcommit_hugepages`` it makes pages on demand (surplus pages), and frees them by itself
when they are let go of.

Amounts are added and subtracted, never set, so that nobody undoes what somebody else
changed in the meantime. ``mrm fund`` is made of this, and so is the keeper (``keeping``), which
does for a pool what is to be undone when the pool is gone.
"""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path

from mrm.errors import ArgumentError
from mrm.physical import keeper
from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_text
from mrm.physical.keeper import NR
from mrm.physical.limits import (
    HugePages,
    default_huge_page_size,
    huge_pages,
    meminfo,
    nodes,
)
from mrm.sizes import format_size
from mrm.system.pages import base_page_size, frame_size, huge_pages_folder

COMPACT = "proc/sys/vm/compact_memory"


@dataclass(frozen=True)
class Outcome:
    """What became of a wish for huge pages.

    Attributes
    ----------
    wanted : int
        Pages that were to be free, or to be given back.
    before, after : HugePages
        The kernel's pool.
    node : int or None
        The NUMA node, if it was about one.
    refused : str or None
        Why the setting could not be written at all.
    """

    wanted: int
    before: HugePages
    after: HugePages
    node: int | None = None
    refused: str | None = None

    @property
    def added(self) -> int:
        """Pages that were set aside; negative if they were given back."""
        return (self.after.total - self.after.surplus) - (self.before.total - self.before.surplus)

    @property
    def enough(self) -> bool:
        """Whether as many are free now as were wanted."""
        return self.after.available >= self.wanted


# ---- changing --------------------------------------------------------------------------


def change(delta: int, node: int | None = None, root: Path = ROOT) -> tuple[int, str | None]:
    """Add pages to ``nr_hugepages``, or take some away; how many it really were, and why it could not be written.

    Parameters
    ----------
    delta : int
        Pages, below 0 to take away. The setting does not go below 0.
    node : int, optional
        The NUMA node whose setting it is; the machine's when not given.
    root : Path, optional
        Where /proc and /sys are.

    Returns
    -------
    tuple of int and (str or None)
        Fewer pages than asked for are no error to the kernel. What is taken away while in use
        becomes surplus, and goes when it is let go of.
    """
    check(node, root)
    try:
        with _alone(node, root):
            return _add(delta, node, root)
    except OSError as locked:
        return 0, refusal(locked.errno or errno.EWOULDBLOCK, delta, node, root)


def _add(delta: int, node: int | None, root: Path) -> tuple[int, str | None]:
    """The same for whoever is alone already."""
    try:
        changed, error = keeper.add(folder(node, root), delta)
    except OSError as unread:
        changed, error = 0, unread.errno or errno.ENOENT
    return changed, refusal(error, delta, node, root) if error else None


def _alone(node: int | None, root: Path) -> contextlib.AbstractContextManager[None]:
    return keeper.alone(folder(node, root))


def raise_available(nbytes: int, node: int | None = None, root: Path = ROOT) -> Outcome:
    """Make sure that so many bytes of huge pages are free; never lower anything.

    Parameters
    ----------
    nbytes : int
        How much is to be free, rounded up to whole pages.
    node : int, optional
        On which NUMA node; anywhere when not given.
    root : Path, optional
        Where /proc and /sys are.

    Returns
    -------
    Outcome
        Look at ``enough``: fewer pages are no error to the kernel.
    """
    wanted = -(-nbytes // frame_size())
    before = after = pages(node, root)
    try:
        with _alone(node, root):
            before = after = pages(node, root)
            for attempt in range(2):
                missing = wanted - after.available
                if missing <= 0:
                    break
                if attempt:
                    keeper.compact(str(root / COMPACT))
                _, refused = _add(missing, node, root)
                after = pages(node, root)
                if refused:
                    return Outcome(wanted, before, after, node, refused)
    except OSError as locked:
        return _locked(locked, wanted, wanted - before.available, before, node, root)
    return Outcome(wanted, before, after, node)


def release(nbytes: int, node: int | None = None, root: Path = ROOT) -> Outcome:
    """Give back so many bytes of huge pages at the most, of those that are free.

    Parameters
    ----------
    nbytes : int
        How much.
    node : int, optional
        From which NUMA node.
    root : Path, optional
        Where /proc and /sys are.
    """
    wanted = nbytes // frame_size()
    before = pages(node, root)
    try:
        with _alone(node, root):
            before = pages(node, root)
            refused = None
            if less := min(wanted, before.available, before.total - before.surplus):
                _, refused = _add(-less, node, root)
            return Outcome(wanted, before, pages(node, root), node, refused)
    except OSError as locked:
        return _locked(locked, wanted, -wanted, before, node, root)


def _locked(
    error: OSError, wanted: int, delta: int, there: HugePages, node: int | None, root: Path
) -> Outcome:
    """Nothing was changed, as somebody has the setting locked."""
    said = refusal(error.errno or errno.EWOULDBLOCK, delta, node, root)
    return Outcome(wanted, there, there, node, said)


# ---- where it stands -------------------------------------------------------------------


def setting(node: int | None = None, root: Path = ROOT) -> Path:
    """The file of nr_hugepages: below /sys; in /proc, if that is hidden and means the same."""
    return Path(folder(node, root)) / NR


def folder(node: int | None = None, root: Path = ROOT) -> str:
    """The folder that the settings lie in."""
    below_sys = _sys_folder(node, root)
    if node is None and not os.path.isdir(below_sys) and default_huge_page_size(root) == frame_size():
        return str(root / "proc/sys/vm")
    return str(below_sys)


def nodes_folder(root: Path = ROOT) -> str:
    """The same of each NUMA node, with ``{}`` in the place of its number."""
    return str(_sys_folder(None, root, "sys/devices/system/node/node{}"))


def _sys_folder(node: int | None, root: Path, base: str | None = None) -> Path:
    base = base or ("sys/kernel/mm" if node is None else f"sys/devices/system/node/node{node}")
    return root / base / "hugepages" / huge_pages_folder()


def pages(node: int | None = None, root: Path = ROOT) -> HugePages:
    """The pool as it stands: figures of one moment, although pages may come and go as they are read."""
    check(node, root)
    return keeper.steady(lambda: huge_pages(None, node, root)) or HugePages(frame_size(), 0, 0)


def check(node: int | None, root: Path = ROOT) -> None:
    """Refuse a node that is not there."""
    if node is not None and node not in nodes(root):
        raise ArgumentError(
            f"this machine has no NUMA node {node}; it has {', '.join(map(str, nodes(root)))}"
        )


def writable(node: int | None = None, root: Path = ROOT) -> bool:
    """Whether this process may change nr_hugepages (mode bits, capabilities and read-only mounts)."""
    return os.access(setting(node, root), os.W_OK, effective_ids=True)


def free_blocks(root: Path = ROOT) -> int | None:
    """Free blocks of physical memory, counted in huge pages; None if unknown."""
    order = (frame_size() // base_page_size()).bit_length() - 1
    found = None
    for line in read_text(root / "proc/buddyinfo").splitlines():
        counts = line.split()[4:]
        found = (found or 0) + sum(int(n) << (i - order) for i, n in enumerate(counts) if i >= order)
    return found


# ---- words -----------------------------------------------------------------------------


def refusal(error: int, delta: int, node: int | None = None, root: Path = ROOT) -> str:
    """A sentence about ``nr_hugepages`` that could not be changed by so much: why, and whom to ask for what."""
    where = setting(node, root)
    if error == errno.ENOENT:
        if not (root / "sys/kernel/mm").is_dir():
            return f"/sys is hidden here, so that {where} cannot be written: do it outside of the container"
        return f"this kernel has no huge pages of {format_size(frame_size())}"
    if error == errno.EWOULDBLOCK:
        return (
            f"{where} is locked by somebody else (flock), and was so for {keeper.PATIENCE_ASKED:g} s: nothing was "
            "changed. /proc/locks says by whom; try again"
        )
    with contextlib.suppress(OSError, ValueError):
        number = max(0, keeper.value(str(where.parent)) + delta)
        plain = node is None and _is_default(root)
        wish = f"set vm.{NR}={number}" if plain else f"write {number} to {where}"
        return f"{where} cannot be written ({os.strerror(error)}): ask the administrator to {wish}"
    return f"{where} cannot be written ({os.strerror(error)}), nor read"


def why_not_all(outcome: Outcome, root: Path = ROOT) -> str:
    """Say why fewer pages are free than were wanted, and what to do."""
    if outcome.refused:
        return outcome.refused
    info = meminfo(root)
    missing = (outcome.wanted - outcome.after.available) * frame_size()
    free = info.get("MemFree", 0)
    said = f"{format_size(missing)} are missing. {format_size(free)} of memory is free"
    blocks = free_blocks(root)
    if blocks is not None:
        said += (
            f", {format_size(blocks * frame_size())} of it in blocks of {format_size(frame_size())} and more"
        )
    if free < missing:
        return f"{said}: end what uses the memory, or drop the file cache (`sysctl vm.drop_caches=3`), and try again."
    size = "" if _is_default(root) else f"hugepagesz={frame_size() >> 20}M "
    return (
        f"{said}: memory is fragmented, and compacting did not help. Set huge pages aside early, best at boot: "
        f"`{size}hugepages={outcome.wanted}` on the kernel's command line."
    )


def persistent_setting(outcome: Outcome, root: Path = ROOT) -> tuple[str, str]:
    """File and content that set these pages aside at every boot."""
    count = outcome.after.total - outcome.after.surplus
    if outcome.node is None and _is_default(root):
        return "etc/sysctl.d/60-mrm.conf", f"vm.nr_hugepages = {count}\n"
    # sysctl knows no nodes, and of sizes only the default one, which may be 1 GiB: written to
    # it, the number would be of those. systemd-tmpfiles writes to any file, and early.
    name = "60-mrm" if outcome.node is None else f"60-mrm-node{outcome.node}"
    where = "/" + str((_sys_folder(outcome.node, root) / NR).relative_to(root))
    return f"etc/tmpfiles.d/{name}.conf", f"w {where} - - - - {count}\n"


def _is_default(root: Path) -> bool:
    """Whether ``vm.nr_hugepages`` and ``hugepages=`` are about pages of a frame's size."""
    return default_huge_page_size(root) in (frame_size(), None)
