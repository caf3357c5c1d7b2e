"""A file of frames opened once more: for a ticket, or by an attachment.

Never a duplicate of the owner's descriptor: that would be the same open file, whose access
is reading and writing, and whose lock (locks.py) would live on with it. A file of its own is opened
by name or, where it has none, through /proc/self/fd, for reading only unless writing is asked for.
The kernel then refuses every writable mapping of it, and mprotect to one.

What has a descriptor of a memfd can open it once more through /proc/self/fd, and for
writing if the file's mode allows it, which as memfds come is 0777. So the mode is made 0600 before
one is passed on: processes of other users, root aside, cannot.

F_SEAL_FUTURE_WRITE, which would hold against everybody, is no way: it would refuse the
owner's own next view.
"""

import array
import os
import stat

from mrm.errors import ArgumentError, SystemCallError
from mrm.physical.locks import attached
from mrm.sizes import format_size
from mrm.system.calls import system_call
from mrm.system.pages import frame_size

_AT_FDCWD = -100
_HUGETLBFS_MAGIC = 0x958458F6
_TMPFS_MAGIC = 0x01021994


def reopen(fd: int, writable: bool) -> int:
    """A descriptor of its own of an open file, for this access only."""
    try:
        if not writable:
            system_call("fchmod", fd, 0o600)
        return _open(f"/proc/self/fd/{fd}", os.O_RDWR if writable else os.O_RDONLY)
    except OSError as error:
        raise SystemCallError(
            f"the pool's file cannot be opened once more ({error.filename}: {error.strerror}): it takes /proc, and "
            "the user that opened the pool; a pool with a named file (path=) is shared without",
            call=error.filename,
            error=error.errno,
        ) from error


def open_named(path: str, writable: bool) -> int:
    """A descriptor of a file on a hugetlbfs mount, which counts as attached as long as it, or a mapping, lives."""
    try:
        fd = _open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise SystemCallError(
            f"{path} cannot be attached to ({error.filename}: {error.strerror}): it has to be a pool's file, on a "
            f"mount that is seen here, which this user may {'write' if writable else 'read'}",
            call=error.filename,
            error=error.errno,
        ) from error
    try:
        attached(fd, path)
    except OSError as error:
        close(fd)
        raise SystemCallError(
            f"{path} cannot be locked ({error.filename}: {error.strerror})",
            call=error.filename,
            error=error.errno,
        ) from error
    except BaseException:
        close(fd)
        raise
    return fd


def look(fd: int, what: str) -> tuple[bool, int]:
    """Whether a file is of huge pages, and how many whole frames it has.

    Raises
    ------
    ArgumentError
        If there can be no frames in it.
    """
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise ArgumentError(f"{what} is no regular file, so there are no frames in it")
    told = array.array("q", bytes(256))
    try:
        system_call("fstatfs", fd, told.buffer_info()[0])
    except OSError as error:
        raise SystemCallError(
            f"what {what} lies on cannot be told (fstatfs: {error.strerror})",
            call="fstatfs",
            error=error.errno,
        ) from error
    kind, page_size = told[0], told[1]
    if kind == _HUGETLBFS_MAGIC and page_size != frame_size():
        raise ArgumentError(
            f"{what} has pages of {page_size >> 10} KiB, and frames are of {format_size(frame_size())}"
        )
    if kind not in (_HUGETLBFS_MAGIC, _TMPFS_MAGIC):
        raise ArgumentError(f"{what} lies neither on a hugetlbfs nor in shared memory, as frames do")
    if found.st_size < frame_size():
        raise ArgumentError(
            f"{what} has {found.st_size} bytes, which is no frame: it is no pool's, or just being opened"
        )
    return kind == _HUGETLBFS_MAGIC, found.st_size // frame_size()


def identity(fd_or_path: int | str) -> tuple[int, int] | None:
    """What a file is known by, whatever its name; None if it is not there."""
    try:
        found = os.stat(fd_or_path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def close(fd: int) -> None:
    """Close it, whatever the kernel says: a close that fails has closed."""
    try:
        system_call("close", fd)
    except OSError:
        pass


def _open(path: str, flags: int) -> int:
    return system_call("openat", _AT_FDCWD, os.fsencode(path) + b"\0", flags | os.O_CLOEXEC)
