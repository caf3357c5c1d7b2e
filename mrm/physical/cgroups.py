"""Memory limits of the control groups that this process lies in.

A group's limit counts everything below it, so each directory from the process's own
group up to the mount can be the one that refuses. Which directory that is takes two
files: ``/proc/self/cgroup`` names the group, ``/proc/self/mountinfo`` says where the
hierarchy is mounted and which part of it. Both versions of cgroups are read; a
machine can have both at once, with different controllers.

Nothing here fails: a file that is missing or unreadable is a limit that is not told of.
Whether anything can be seen at all, ``hidden`` says: where it cannot, there may be limits
all the same. Every function takes the root that it reads below, so that tests can hand it a tree of
their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mrm.physical.files import read_int, read_text
from mrm.system.pages import frame_size

ROOT = Path("/")
# What version 1 shows for "no limit" is the largest number of whole pages.
_NO_LIMIT = 2**62


@dataclass(frozen=True)
class GroupLimit:
    """One limit of one group.

    Attributes
    ----------
    file : str
        Name of the limit as its group has it, such as ``"hugetlb.2MB.max"``.
    directory : str
        Where it lies.
    limit : int
        Bytes allowed.
    used : int
        Bytes in use, of this group and those below it.
    reclaimable : int
        Bytes of file cache within ``used``, which the kernel drops when it needs room.
    """

    file: str
    directory: str
    limit: int
    used: int
    reclaimable: int = 0

    @property
    def left(self) -> int:
        """Bytes that can still be had under it."""
        return max(0, self.limit - self.used + self.reclaimable)


@dataclass(frozen=True)
class LimitFile:
    """Where a limit of a group stands: found once, it can be read again and again.

    Attributes
    ----------
    directory : Path
        The group.
    file, usage_file : str
        Names of the limit and of what is used of it.
    caches : bool
        Whether file cache is within what is used.
    """

    directory: Path
    file: str
    usage_file: str
    caches: bool = False

    def read(self, *, cache: bool = True) -> GroupLimit | None:
        """What it says now; None if it is "no limit", or the group is gone.

        Parameters
        ----------
        cache : bool, optional
            Whether to look for file cache, which takes several times as long as the rest; without, none
            is counted as reclaimable.
        """
        limit = read_int(self.directory / self.file)
        if limit is None or limit >= _NO_LIMIT:
            return None
        used = read_int(self.directory / self.usage_file) or 0
        reclaimable = _file_cache(self.directory) if self.caches and cache else 0
        return GroupLimit(self.file, str(self.directory), limit, used, reclaimable)


def hugetlb_limits(page_size: int | None = None, root: Path = ROOT) -> list[GroupLimit]:
    """Limits on huge pages of one size, the process's own group first.

    Parameters
    ----------
    page_size : int, optional
        Which size of huge page; a frame's when not given.
    root : Path, optional
        What to read below.
    """
    return [limit for file in hugetlb_limit_files(page_size, root) if (limit := file.read()) is not None]


def memory_limits(root: Path = ROOT) -> list[GroupLimit]:
    """Limits on memory in general, the process's own group first.

    ``memory.high`` is among them: beyond it nothing is refused, but the kernel makes
    the process sleep ever longer, so that funding would not come to an end.
    """
    return [limit for file in memory_limit_files(root) if (limit := file.read()) is not None]


def hugetlb_limit_files(page_size: int | None = None, root: Path = ROOT) -> list[LimitFile]:
    """Where limits on huge pages of one size may stand, whether there are some or not.

    Parameters
    ----------
    page_size : int, optional
        Which size of huge page; a frame's when not given.
    root : Path, optional
        What to read below.
    """
    size = page_size_name(page_size or frame_size())
    pairs = {
        1: [
            (f"hugetlb.{size}.limit_in_bytes", f"hugetlb.{size}.usage_in_bytes"),
            (f"hugetlb.{size}.rsvd.limit_in_bytes", f"hugetlb.{size}.rsvd.usage_in_bytes"),
        ],
        2: [
            (f"hugetlb.{size}.max", f"hugetlb.{size}.current"),
            (f"hugetlb.{size}.rsvd.max", f"hugetlb.{size}.rsvd.current"),
        ],
    }
    return [
        LimitFile(directory, limit_file, usage_file)
        for version, directory in own_groups("hugetlb", root)
        for limit_file, usage_file in pairs[version]
    ]


def memory_limit_files(root: Path = ROOT) -> list[LimitFile]:
    """The same of memory in general."""
    pairs = {
        1: [("memory.limit_in_bytes", "memory.usage_in_bytes")],
        2: [("memory.max", "memory.current"), ("memory.high", "memory.current")],
    }
    return [
        LimitFile(directory, limit_file, usage_file, caches=True)
        for version, directory in own_groups("memory", root)
        for limit_file, usage_file in pairs[version]
    ]


def counts_hugetlb_as_memory(root: Path = ROOT) -> bool:
    """Whether huge pages count against ``memory.max`` (``memory_hugetlb_accounting``, 6.7+).

    It matters beforehand: a touch or a fund beyond the limit does not fail there, but
    is tried again by the kernel for ever (seen on 6.12 and 6.18).
    """
    return any(
        kind == "cgroup2" and "memory_hugetlb_accounting" in options for kind, _, _, options in _mounts(root)
    )


def hidden(root: Path = ROOT) -> str | None:
    """Why not all limits of control groups can be looked at; None where they can."""
    if not read_text(root / "proc/self/cgroup"):
        return "/proc/self/cgroup cannot be read"
    if not any(_mounts(root)):
        return "no control group file system is mounted here"
    for kind, _, point, _ in _mounts(root):
        # Only the root of the whole tree has no type. A container's mount begins at the
        # container's own group, and what a pod above it allows is not to be seen.
        if kind == "cgroup2" and (root / point.lstrip("/") / "cgroup.type").exists():
            return f"groups above the one at {point} are hidden"
    return None


def page_size_name(page_size: int) -> str:
    """The kernel's name of a page size in file names: ``2MB``, ``1GB``, ``64KB``."""
    for shift, unit in ((30, "GB"), (20, "MB")):
        if page_size >> shift:
            return f"{page_size >> shift}{unit}"
    return f"{page_size >> 10}KB"


def own_groups(controller: str, root: Path) -> Iterator[tuple[int, Path]]:
    """``(version, directory)`` of each group that counts this process, innermost first."""
    groups = dict(_groups(root))
    for kind, part, point, options in _mounts(root):
        if kind == "cgroup2":
            version, group = 2, groups.get("")
        elif kind == "cgroup" and controller in options:
            version, group = 1, groups.get(controller)
        else:
            continue
        if group is None:
            continue
        # Inside a container the mount often shows only the group's own part of the tree.
        inner = group[len(part) :] if part != "/" and (group + "/").startswith(part + "/") else group
        top = root / point.lstrip("/")
        directory = top / inner.strip("/")
        if not directory.is_dir():
            directory = top
        yield version, directory
        while directory != top:
            directory = directory.parent
            yield version, directory


def _groups(root: Path) -> Iterator[tuple[str, str]]:
    """``(controller, group)`` of this process; the controller of version 2 is ``""``."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number_controllers_group = line.split(":", 2)
        if len(number_controllers_group) == 3:
            _, controllers, group = number_controllers_group
            for controller in controllers.split(","):
                yield controller, group


def _mounts(root: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """``(type, part of the tree, mount point, options)`` of each cgroup mount, each tree once."""
    seen = set()
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        fields, system_fields = mount.split(), system.split()
        if len(fields) < 5 or len(system_fields) < 3 or system_fields[0] not in ("cgroup", "cgroup2"):
            continue
        _, _, device, part, point = fields[:5]
        if (device, part) not in seen:
            seen.add((device, part))
            # The kernel writes blanks in paths as \040.
            yield system_fields[0], part, point.replace("\\040", " "), system_fields[2].split(",")


def _file_cache(directory: Path) -> int:
    """Bytes of file cache in a group, by its ``memory.stat``; shared memory is not among them."""
    found = {}
    for line in read_text(directory / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    names = ("total_inactive_file", "total_active_file")
    if names[0] not in found:
        names = ("inactive_file", "active_file")
    return sum(found.get(name, 0) for name in names)
