"""The file that a pool's frames lie in: a memfd, or a file on a hugetlbfs mount.

It is made in a thread that Ctrl-C cannot strike (see ``labour``), and undone likewise:
once ``make`` has begun, ``undo`` leaves no descriptor and no name behind, however far
it came. Every system call goes through ``mrm.system.calls``, so that tests can make
each one fail.
"""

import array
import errno
import os
import secrets
import stat
from dataclasses import dataclass

from mrm.errors import ArgumentError, FundingError
from mrm.physical.labour import labour
from mrm.sizes import format_size
from mrm.system import features
from mrm.system.calls import system_call
from mrm.system.pages import frame_size, memfd_flag, mount_option

_MFD_CLOEXEC = 1
_MFD_HUGETLB = 4
_AT_FDCWD = -100
_HUGETLBFS_MAGIC = 0x958458F6
_UNNAMED = "unnamed hugetlbfs files"


@dataclass
class FrameFile:
    """A file of frames in the making.

    Attributes
    ----------
    nbytes : int
        Its size.
    huge : bool
        Whether it consists of huge pages.
    name : str
        What a memfd is called in ``/proc/self/maps``.
    path : str or None
        A file to be made on a hugetlbfs mount, or a directory there for one without a
        name; None for a memfd.
    fd : int
        Its descriptor; -1 before it is made.
    """

    nbytes: int
    huge: bool
    name: str = "mrm"
    path: str | None = None
    fd: int = -1
    _directory: int = -1
    _created: bytes | None = None  # name to be taken away in case of failure

    @property
    def directory(self) -> str | None:
        """Where on a hugetlbfs mount it lies; None for a memfd."""
        if self.path is None:
            return None
        return self.path if os.path.isdir(self.path) else os.path.dirname(self.path) or "."

    @property
    def kept_path(self) -> str | None:
        """Its name in the file system, if it has one."""
        return None if self.path is None or os.path.isdir(self.path) else self.path

    @property
    def made_name(self) -> bool:
        """Whether the name is there because of this object."""
        return self._created is not None

    def make(self) -> None:
        """Make the file, at its full size and without a single page."""
        labour([self._make])

    def undo(self) -> None:
        """Close it and take away the name, if it was this object that made the name."""
        labour([self._undo])

    def _make(self) -> int:
        if self.path is None:
            flags = _MFD_CLOEXEC | (_MFD_HUGETLB | memfd_flag() if self.huge else 0)
            self.fd = system_call("memfd_create", self.name.encode() + b"\0", flags)
        else:
            self._open_path(self.path)
        system_call("ftruncate", self.fd, self.nbytes)
        return 0

    def _open_path(self, path: str) -> None:
        """Make or open the file on a hugetlbfs mount."""
        directory = self.directory or "."
        self._directory = _open(_AT_FDCWD, os.fsencode(directory), os.O_RDONLY | os.O_DIRECTORY)
        self._check_mount(directory)
        if os.path.isdir(path):
            self._open_unnamed()
        else:
            self._open_named(os.fsencode(os.path.basename(path)))
        # The directory stays open until funding is over: if that fails, the name is taken
        # away through it, even if somebody has moved the directory in the meantime.

    def _check_mount(self, directory: str) -> None:
        """Refuse what is not a hugetlbfs mount of pages that are frames."""
        found = array.array("q", bytes(256))
        system_call("fstatfs", self._directory, found.buffer_info()[0])
        kind, page_size = found[0], found[1]
        if kind != _HUGETLBFS_MAGIC:
            raise ArgumentError(
                f"{directory} is not on a hugetlbfs mount, so a file there has no huge pages; make one with "
                f"`mount -t hugetlbfs -o {mount_option()} none /mnt/huge`, or leave path out"
            )
        if page_size != frame_size():
            raise ArgumentError(
                f"{directory} is a hugetlbfs mount of {page_size >> 10} KiB pages, and frames are "
                f"of {format_size(frame_size())}: mount one with {mount_option()}"
            )

    def _open_unnamed(self) -> None:
        if not features.is_missing(_UNNAMED):
            try:
                self.fd = _open(self._directory, b".", os.O_RDWR | os.O_TMPFILE | os.O_EXCL)
                features.found(_UNNAMED, True)
                return
            except OSError as error:
                # Kernels before 5.1 know no unnamed files on hugetlbfs.
                if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                    raise
                features.refused(_UNNAMED)
        self._created = b".mrm-" + secrets.token_hex(8).encode()
        self.fd = _open(self._directory, self._created, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        system_call("unlinkat", self._directory, self._created + b"\0", 0)
        self._created = None

    def _open_named(self, name: bytes) -> None:
        try:
            self.fd = _open(self._directory, name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
            self._created = name
        except FileExistsError:
            fd = _open(self._directory, name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            found = os.fstat(fd)
            if found.st_size or not stat.S_ISREG(found.st_mode):
                _close(fd)
                raise ArgumentError(
                    f"{self.path} exists and is not empty: another pool may use it; remove it, or name another"
                ) from None
            self.fd = fd

    def finish(self) -> None:
        """Let go of what only ``undo`` needs, when all went well."""
        labour([self._finish])

    def _finish(self) -> int:
        self._created = None
        self._directory = _close(self._directory)
        return 0

    def _undo(self) -> int:
        # Each step is tried, whatever became of the one before: it is the failure that
        # led here that matters.
        if self.fd >= 0 and self.path is not None and self._created is None:
            _attempt("ftruncate", self.fd, 0)  # a file that was there before, as it was
        if self._created is not None:
            _attempt("unlinkat", self._directory, self._created + b"\0", 0)
            self._created = None
        self.fd = _close(self.fd)
        self._directory = _close(self._directory)
        return 0


def check_name(name: str) -> None:
    """Refuse what cannot be a memfd's name."""
    if "\0" in name or len(name.encode()) > 249:
        raise ArgumentError(f"a name has at most 249 bytes and no NUL, unlike {name!r}")


def refusal(error: OSError, nbytes: int, text: str) -> FundingError:
    """A FundingError of a refused system call."""
    # system_call puts the call's name where a file name would be.
    return FundingError(text, call=error.filename, error=error.errno, nbytes=nbytes)


def _open(directory: int, name: bytes, flags: int) -> int:
    return system_call("openat", directory, name + b"\0", flags | os.O_CLOEXEC, 0o600)


def _close(fd: int) -> int:
    """Close it if it is open; -1, for the variable that it was in.

    A close that fails has closed nevertheless, and must not be tried again: the number
    may be another file's by then.
    """
    if fd >= 0:
        _attempt("close", fd)
    return -1


def _attempt(name: str, *arguments: int | bytes) -> None:
    try:
        system_call(name, *arguments)
    except OSError:
        pass
