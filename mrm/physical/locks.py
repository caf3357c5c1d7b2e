"""Who has a named file of frames: locks of the kernel's, which die with their processes.

Two locks, so that two questions have an answer each:

- The *owner's*, an flock of the whole file. Whoever opens a pool on the file holds it for the
  pool's life. It belongs to the open file, and so to the pool's mappings too; it ends when
  the last of them does, by kill -9 as by ``close()``. /proc/locks has the pid of who took it,
  which locks of open files (fcntl, OFD) have not.
- The *attachments'*, a shared lock of byte 0 (OFD). Each attachment has one as long as it maps
  the file; who opens a pool and is about to take pages away, or to tell holes from contents, has
  it alone meanwhile.

Neither keeps a program out that does not ask: they are between users of mrm.
"""

import array
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrm.errors import ArgumentError
from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_text
from mrm.system.calls import system_call

_LOCK_EX, _LOCK_NB = 2, 4
_F_OFD_SETLK = 37
_F_RDLCK, _F_WRLCK, _F_UNLCK = 0, 1, 2


def own(fd: int, path: str) -> None:
    """Become the file's owner, until the last user of this open file is gone.

    Raises
    ------
    ArgumentError
        If it has one; with the pid, where /proc tells.
    """
    try:
        system_call("flock", fd, _LOCK_EX | _LOCK_NB)
    except BlockingIOError as error:
        raise ArgumentError(
            f"{path} is in use by a pool of {_who(owner_of(fd))}: wait until it is closed, attach to it "
            "(mrm.attach), or name another file",
            call="flock",
            error=error.errno,
        ) from None


def owner_of(fd: int, root: Path = ROOT) -> int | None:
    """The pid that owns the file; None if nobody does, or nobody who can be seen from here."""
    found = os.fstat(fd)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in read_text(root / "proc/locks").splitlines():
        words = line.split()
        # 1: FLOCK  ADVISORY  WRITE 31729 00:27:381540 0 EOF
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == file and int(words[4]) > 0:
            return int(words[4])
    return None


def _who(pid: int | None) -> str:
    if pid is None:
        return "a process that cannot be seen from here"
    return "this process" if pid == os.getpid() else f"process {pid}"


@contextmanager
def unattached(fd: int, path: str, why: str) -> Iterator[None]:
    """Keep attachments away for a while.

    Raises
    ------
    ArgumentError
        If there are some.
    """
    try:
        _lock(fd, _F_WRLCK)
    except BlockingIOError as error:
        raise ArgumentError(
            f"{path} is attached to by a living process, and {why}: close the attachments first",
            call="fcntl",
            error=error.errno,
        ) from None
    try:
        yield
    finally:
        _lock(fd, _F_UNLCK)


def attached(fd: int, path: str) -> None:
    """Be an attachment, until the last user of this open file is gone."""
    try:
        _lock(fd, _F_RDLCK)
    except BlockingIOError as error:
        raise ArgumentError(
            f"{path} is being opened by its owner at this moment: try again", call="fcntl", error=error.errno
        ) from None


def _lock(fd: int, kind: int) -> None:
    """Lock byte 0 for this open file, or unlock it."""
    # struct flock: kind, whence (SEEK_SET), start, length, and a pid that has to be 0.
    asked = array.array("b", struct.pack("hhqqi4x", kind, 0, 0, 1, 0))
    system_call("fcntl", fd, _F_OFD_SETLK, asked.buffer_info()[0])
