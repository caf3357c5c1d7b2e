"""Which frames of a file have no page: asked of the kernel, without fetching one.

hugetlbfs has no SEEK_HOLE (all of a file is data to it), mincore sees only what this mapping has
touched, a read shows a hole as zeros, and a touch fills it. But a mapping that a userfaultfd
watches for missing pages, with UFFD_FEATURE_SIGBUS, leaves them missing: who touches one gets
SIGBUS, or EFAULT where it is the kernel that touches. So each frame of a mapping of the file is named to a
call that reads some bytes of it and then fails in any case (rt_sigprocmask with a ``how`` that is
none): EINVAL if they were there, EFAULT if not. A microsecond a frame; tried on 5.10, 6.18.

A filter may refuse userfaultfd (Docker's does), and then nobody tells.
"""

import array
import errno
import os

from mrm.system import features
from mrm.system.calls import system_call
from mrm.system.pages import frame_size

_PROT_READ, _MAP_SHARED, _MAP_NORESERVE = 1, 1, 0x4000
_MADV_DONTFORK = 10
_O_NONBLOCK = os.O_NONBLOCK
_USER_MODE_ONLY = 1  # takes no rights, from 5.11 on; a touch by the kernel fails all the same
_API, _ASK, _REGISTER = 0xAA, 0xC018AA3F, 0xC020AA00  # UFFDIO_API, UFFDIO_REGISTER
_SIGBUS, _MISSING = 1 << 7, 1  # UFFD_FEATURE_SIGBUS, UFFDIO_REGISTER_MODE_MISSING
_NO_WAY = -1  # none of SIG_BLOCK, SIG_UNBLOCK, SIG_SETMASK


class NotTold(Exception):
    """The kernel does not tell; the text says what it refuses."""


def missing(fd: int, count: int) -> "array.array[int]":
    """Numbers of those of the first ``count`` frames of a file of huge pages that have no page.

    Broken ones (hardware errors), which cannot be read either, are among them.

    Raises
    ------
    NotTold
        If userfaultfd is refused.
    """
    if features.is_missing("userfaultfd"):
        raise NotTold("userfaultfd is missing here")
    nbytes = count * frame_size()
    address = system_call("mmap", 0, nbytes, _PROT_READ, _MAP_SHARED | _MAP_NORESERVE, fd, 0)
    try:
        system_call("madvise", address, nbytes, _MADV_DONTFORK)
        watch = _watch(address, nbytes)
        try:
            frames = range(count)
            return array.array("I", (f for f in frames if not _there(address + f * frame_size())))
        finally:
            _close(watch)
    finally:
        system_call("munmap", address, nbytes)


def _watch(address: int, nbytes: int) -> int:
    """A userfaultfd that keeps missing pages of a range missing."""
    flags = os.O_CLOEXEC | _O_NONBLOCK
    watch = -1
    try:
        try:
            watch = system_call("userfaultfd", flags | _USER_MODE_ONLY)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            watch = system_call("userfaultfd", flags)
        for order, words in ((_ASK, [_API, _SIGBUS, 0]), (_REGISTER, [address, nbytes, _MISSING, 0])):
            asked = array.array("Q", words)
            system_call("ioctl", watch, order, asked.buffer_info()[0])
    except OSError as error:
        if watch >= 0:
            _close(watch)
        raise NotTold(f"{error.filename} is refused ({error.strerror})") from error
    return watch


def _there(address: int) -> bool:
    """Whether the kernel can read at an address."""
    try:
        system_call("rt_sigprocmask", _NO_WAY, address, 0, 8)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return True
        if error.errno != errno.EFAULT:
            raise
    return False


def _close(fd: int) -> None:
    try:
        system_call("close", fd)
    except OSError:
        pass  # it is closed all the same
