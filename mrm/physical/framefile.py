"""The file that a pool's frames lie in: a memfd, or a file on a hugetlbfs mount.

It is made in a thread that Ctrl-C cannot strike (see ``labour``), and undone likewise:
once ``make`` has begun, ``undo`` leaves no descriptor and no name behind, however far
it came. A file that was there before is as it was then, unless its contents were to be
dropped: those are gone for good. Every system call goes through ``mrm.system.calls``, so that tests can make
each one fail.
"""

import array
import errno
import os
import stat
from dataclasses import dataclass, field

from mrm.errors import ArgumentError, FundingError
from mrm.physical.kept import Kept
from mrm.physical.labour import labour
from mrm.physical.locks import own, unattached
from mrm.sizes import format_size
from mrm.system import features
from mrm.system.calls import system_call
from mrm.system.pages import frame_size, memfd_flag, mount_option

_MFD_CLOEXEC = 1
_MFD_HUGETLB = 4
_MFD_NOEXEC_SEAL = 8  # 6.3
_AT_FDCWD = -100
_HUGETLBFS_MAGIC = 0x958458F6
_UNNAMED = "unnamed hugetlbfs files"
_TMPFS_MAGIC = 0x01021994


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
        A file to be made on a hugetlbfs mount (of small pages: on a tmpfs), or a
        directory there for one without a name; None for a memfd.
    keep : bool
        Whether what an existing file holds is to be kept.
    fd : int
        Its descriptor; -1 before it is made.
    kept : Kept
        What was kept; of size 0 if nothing was.
    """

    nbytes: int
    huge: bool
    name: str = "mrm"
    path: str | None = None
    keep: bool = False
    fd: int = -1
    kept: Kept = field(default_factory=Kept)
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
            self._open_memfd()
        else:
            self._open_path(self.path)
        if self.nbytes != self.kept.size:
            system_call("ftruncate", self.fd, self.nbytes)
        return 0

    def _open_memfd(self) -> None:
        flags = _MFD_CLOEXEC | (_MFD_HUGETLB | memfd_flag() if self.huge else 0)
        name = self.name.encode() + b"\0"
        try:
            self.fd = system_call("memfd_create", name, flags)
        except OSError as error:
            # With vm.memfd_noexec=2 the kernel wants to be told that nobody will execute it.
            if error.errno != errno.EACCES:
                raise
            self.fd = system_call("memfd_create", name, flags | _MFD_NOEXEC_SEAL)

    def _open_path(self, path: str) -> None:
        """Make or open the file on a hugetlbfs mount."""
        directory = self.directory or "."
        self._directory = _open(_AT_FDCWD, os.fsencode(directory), os.O_RDONLY | os.O_DIRECTORY)
        self._check_mount(directory)
        if os.path.isdir(path):
            self._open_unnamed()
        else:
            self._open_named(os.fsencode(os.path.basename(path)))
        # The directory stays open until there is a pool: if that fails, the name is taken
        # away through it, even if somebody has moved the directory in the meantime.

    def _check_mount(self, directory: str) -> None:
        """Refuse what is not a hugetlbfs mount of pages that are frames."""
        found = array.array("q", bytes(256))
        system_call("fstatfs", self._directory, found.buffer_info()[0])
        kind, page_size = found[0], found[1]
        if not self.huge:
            if kind != _TMPFS_MAGIC:
                raise ArgumentError(f"{directory} is not a tmpfs, which small pages have to lie on")
            return
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
        self._created = b".mrm-" + os.urandom(8).hex().encode()
        self.fd = _open(self._directory, self._created, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        system_call("unlinkat", self._directory, self._created + b"\0", 0)
        self._created = None

    def _open_named(self, name: bytes) -> None:
        """Make the file and own it, or own the one that is there and drop its contents, unless they are kept."""
        while True:
            try:
                self.fd = _open(self._directory, name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
                self._created = name
                fd = self.fd
            except FileExistsError:
                fd = self._open_existing(name)
            if fd >= 0 and self._own(fd):
                return

    def _own(self, fd: int) -> bool:
        """Own the file and take over what it holds; False if its name is gone, so that there may be another."""
        try:
            own(fd, str(self.path))
            found = os.fstat(fd)
            there = found.st_nlink > 0  # if not, its owner of a moment ago took the name away
            if there and self._created is None:
                self._inherit(fd, found.st_size)
        except ArgumentError:
            self._created = None  # also if it was made here: who was faster to own it has it
            self.fd = _close(fd)
            raise
        except BaseException:
            if self._created is None:
                _close(fd)
            raise
        if there:
            self.fd = fd
        else:
            self._created = None
            self.fd = _close(fd)
        return there

    def _open_existing(self, name: bytes) -> int:
        """The file that is there; -1 if it is there no more."""
        try:
            fd = _open(self._directory, name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return -1
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            _close(fd)
            raise ArgumentError(f"{self.path} exists and is no regular file: name another")
        return fd

    def _inherit(self, fd: int, size: int) -> None:
        """Take over what a file holds, or drop it."""
        if not size:
            return
        if not self.keep:
            with unattached(fd, str(self.path), "its contents would be dropped under them"):
                system_call("ftruncate", fd, 0)
            return
        if size > self.nbytes or size % frame_size():
            raise ArgumentError(
                f"{self.path} holds {format_size(size)} and {format_size(self.nbytes)} were asked for: ask for no "
                "less (size, or a maximum) to keep its contents, or shorten it first (`truncate -s`)"
            )
        self.kept.size = size

    def finish(self) -> None:
        """Let go of what only ``undo`` needs, when all went well."""
        labour([self._finish])

    def _finish(self) -> int:
        self._created = None
        self._directory = _close(self._directory)
        return 0

    def restore(self) -> None:
        """Leave an open file with the pages of before, where a name may lead to it."""
        if self.fd >= 0 and self.path is not None and self._created is None:
            _attempt("ftruncate", self.fd, self.kept.size)
            try:
                self.kept.undo(self.fd)
            except OSError:
                pass

    def _undo(self) -> int:
        # Each step is tried, whatever became of the one before: it is the failure that
        # led here that matters.
        self.restore()
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
