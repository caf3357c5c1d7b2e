"""Where frames can lie when memfd_create is refused: on a mount that this user may write to.

A memfd is the way that needs no mount. Where a filter of system calls refuses it, a file
without a name on a hugetlbfs mount is just as good: the same pages, the same costs, and
it goes with its last user. For small pages a tmpfs does, which /dev/shm is by convention.
What is not the same is whose limit counts: the mount's ``size=``.

An anonymous MAP_HUGETLB mapping would need neither, but has no file, so that no frame of
it could be shown at a second address.
"""

import os
from pathlib import Path

from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_text
from mrm.system.pages import frame_size

# Where systemd mounts the default size of huge pages; looked at even if /proc is hidden.
_HUGE = "/dev/hugepages"
_SMALL = "/dev/shm"


def substitute(huge: bool, root: Path = ROOT) -> str | None:
    """A directory for a file of frames; None if there is none.

    Parameters
    ----------
    huge : bool
        Of huge pages, of the size of a frame.
    root : Path, optional
        Where /proc is.
    """
    if not huge:
        return _SMALL if _writable(_SMALL) else None
    for directory in dict.fromkeys([*_hugetlbfs_mounts(root), _HUGE]):
        try:
            # Its block size is a hugetlbfs's page size; no other file system's is as large.
            if os.statvfs(directory).f_bsize == frame_size() and _writable(directory):
                return directory
        except OSError:
            continue
    return None


def _writable(directory: str) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def _hugetlbfs_mounts(root: Path) -> list[str]:
    """Mount points of hugetlbfs, of any page size."""
    found = []
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        mount, _, system = line.partition(" - ")
        if system.startswith("hugetlbfs ") and len(fields := mount.split()) > 4:
            # The kernel writes blanks in paths as \040.
            found.append(fields[4].replace("\\040", " "))
    return found
