"""Features of the kernel, found by trying each, in a process of its own.

    python -m mrm.tools.doctor.probes NAME ...

tries the probes named and prints a line of JSON for each as soon as it is done. The
doctor reads them (see ``trial``): a probe that crashes its process, or never comes
back, costs only its own answer.

A probe answers True, False or None for unknown, with a sentence. Those about huge
pages need one or two free ones; they take them for a moment and give them back.

None of them moves more than one huge page with mremap. An mremap whose destination
covers an aligned GiB of shareable huge pages waits for a lock that it holds itself
(seen on 6.18), and such a process cannot be killed.
"""

import array
import contextlib
import ctypes
import errno
import json
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mrm.physical.limits import huge_pages
from mrm.system.calls import system_call
from mrm.system.pages import FRAME_SIZE, memfd_flag, page_table_span, shared_table_span

Answer = tuple[bool | None, str]

_MFD_HUGETLB = 1 | 4  # with MFD_CLOEXEC
_PROT_NONE, _PROT_READ_WRITE = 0, 3
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000
_MAP_FIXED_NOREPLACE = 0x100000
_MADV_DONTNEED, _MADV_POPULATE_WRITE = 4, 23
_MREMAP_MAYMOVE_FIXED = 3
_SPAN = page_table_span()  # a GiB, where base pages have 4 KiB
_PAGE = mmap.PAGESIZE

_NO_PAGES = "needs {} free huge pages to try: run `mrm fund 2GiB` as root"


# ---- mapping ---------------------------------------------------------------------


def memfd_hugetlb() -> Answer:
    """Huge pages in a memfd, which pools are made of."""
    with _memfd(FRAME_SIZE):
        return True, ""


def populate_write() -> Answer:
    """Pages fetched beforehand, with an error instead of a signal (5.14)."""
    at = system_call("mmap", 0, _PAGE, _PROT_READ_WRITE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
    try:
        system_call("madvise", at, _PAGE, _MADV_POPULATE_WRITE)
    finally:
        system_call("munmap", at, _PAGE)
    return True, ""


def fixed_noreplace() -> Answer:
    """A mapping at an address that fails where something is (4.17); older kernels ignore it."""
    at = system_call("mmap", 0, _PAGE, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS, -1, 0)
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    try:
        other = system_call("mmap", at, _PAGE, _PROT_NONE, flags, -1, 0)
    except FileExistsError:
        return True, ""
    else:
        if other != at:
            system_call("munmap", other, _PAGE)
        return False, "the flag is ignored"
    finally:
        system_call("munmap", at, _PAGE)


def hugetlb_dontneed() -> Answer:
    """MADV_DONTNEED on huge pages (5.18): takes the mapping away, keeps the frame."""
    if not _free(1):
        return None, _NO_PAGES.format(1)
    with _frames(1) as fd, _mapped(fd, FRAME_SIZE) as at:
        _poke(at, 7)
        system_call("madvise", at, FRAME_SIZE, _MADV_DONTNEED)
        return _peek(at) == 7, ""


def hugetlb_mremap() -> Answer:
    """mremap of a huge page (5.16): the page moves, its contents with it."""
    if not _free(1):
        return None, _NO_PAGES.format(1)
    with _reserved(2 * FRAME_SIZE, FRAME_SIZE) as at, _frames(1) as fd:
        system_call("mmap", at, FRAME_SIZE, _PROT_READ_WRITE, _MAP_SHARED | _MAP_FIXED, fd, 0)
        _poke(at, 7)
        target = at + FRAME_SIZE
        system_call("mremap", at, FRAME_SIZE, FRAME_SIZE, _MREMAP_MAYMOVE_FIXED, target)
        return _peek(target) == 7, ""


def shared_page_tables() -> Answer:
    """Page tables of huge pages shared between mappings, which makes views cheap.

    Two mappings of the same span of a page table (a GiB), aligned to it, of a file that has only
    its first two pages. Touching page 0 through both lets the kernel link the second to
    the page table of the first. Then page 1 is touched through the first alone: if the
    second has it too, without having been touched there, they share the table.
    """
    if not shared_table_span():
        return False, "a page table spans more than is worth the addresses"
    if not _free(2):
        return None, _NO_PAGES.format(2)
    with _frames(2, size=_SPAN) as fd, _reserved(2 * _SPAN, _SPAN) as first:
        second = first + _SPAN
        for at in (first, second):
            flags = _MAP_SHARED | _MAP_FIXED | _MAP_NORESERVE
            system_call("mmap", at, _SPAN, _PROT_READ_WRITE, flags, fd, 0)
            _poke(at, 1)
        if _present(second + FRAME_SIZE):
            return None, "the kernel mapped a page that nobody touched"
        _poke(first + FRAME_SIZE, 1)
        if _present(second + FRAME_SIZE):
            return True, ""
        return False, "linking a view costs a fault a page, and retiring it visits each"


# ---- faults and rights ---------------------------------------------------------------


def userfaultfd() -> Answer:
    """Page faults of this process, handled by itself."""
    features, _ = _userfaultfd_features()
    return True, f"features {features:#x}"


def userfaultfd_minor_hugetlbfs() -> Answer:
    """UFFDIO_CONTINUE on huge pages (5.13): puts a mapping back without a fault."""
    features, _ = _userfaultfd_features()
    return bool(features >> 9 & 1), ""


def protection_keys() -> Answer:
    """Access changed by a register, in nanoseconds and without an invalidation."""
    try:
        system_call("pkey_free", system_call("pkey_alloc", 0, 0))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EINVAL, errno.ENOSYS):
            return False, "the processor or the kernel has none"
        raise
    return True, ""


def own_shootdowns() -> Answer:
    """The tracepoint tlb:tlb_flush for this process alone."""
    number = _tracepoint()
    if number is None:
        return False, (
            "the tracepoint's number cannot be read: mount -t tracefs none /sys/kernel/tracing, and run as "
            "root; until then shootdowns are counted for the whole machine, from /proc/interrupts"
        )
    # perf_event_attr: type tracepoint, its size, which one; disabled.
    attributes = struct.pack("IIQQQQQIIQ", 2, 64, number, 0, 0, 0, 1, 0, 0, 0)
    try:
        fd = system_call("perf_event_open", attributes, 0, -1, -1, 8)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return False, "not permitted: needs CAP_PERFMON, or sysctl kernel.perf_event_paranoid=-1"
        raise
    system_call("close", fd)
    return True, ""


def _tracepoint() -> int | None:
    for place in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(place, "events/tlb/tlb_flush/id").read_text())
    return None


def _userfaultfd_features() -> tuple[int, int]:
    """``(features, ioctls)`` that userfaultfd offers; user mode only, which needs no rights."""
    user_mode_only = 1
    fd = system_call("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK | user_mode_only)
    try:
        question = array.array("Q", [0xAA, 0, 0])  # api, features, ioctls
        uffdio_api = 0xC018AA3F
        system_call("ioctl", fd, uffdio_api, question.buffer_info()[0])
        return question[1], question[2]
    finally:
        system_call("close", fd)


# ---- tools of the probes ----------------------------------------------------------------


def _free(pages: int) -> bool:
    found = huge_pages()
    return found is not None and found.available + found.growth >= pages


@contextlib.contextmanager
def _memfd(size: int) -> Iterator[int]:
    fd = system_call("memfd_create", b"mrm-doctor\0", _MFD_HUGETLB | memfd_flag())
    try:
        system_call("ftruncate", fd, size)
        yield fd
    finally:
        system_call("close", fd)


@contextlib.contextmanager
def _frames(count: int, size: int = 0) -> Iterator[int]:
    """A file of huge pages, of which the first ``count`` are there."""
    with _memfd(size or count * FRAME_SIZE) as fd:
        system_call("fallocate", fd, 0, 0, count * FRAME_SIZE)
        yield fd


@contextlib.contextmanager
def _mapped(fd: int, size: int) -> Iterator[int]:
    at = system_call("mmap", 0, size, _PROT_READ_WRITE, _MAP_SHARED | _MAP_NORESERVE, fd, 0)
    try:
        yield at
    finally:
        system_call("munmap", at, size)


@contextlib.contextmanager
def _reserved(size: int, alignment: int) -> Iterator[int]:
    """Addresses of the caller's own, aligned; whatever was mapped there goes at the end."""
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
    start = system_call("mmap", 0, size + alignment, _PROT_NONE, flags, -1, 0)
    try:
        yield -(-start // alignment) * alignment
    finally:
        system_call("munmap", start, size + alignment)


def _poke(address: int, value: int) -> None:
    ctypes.c_ubyte.from_address(address).value = value


def _peek(address: int) -> int:
    return ctypes.c_ubyte.from_address(address).value


def _present(address: int) -> bool:
    """Whether a page is mapped there, by this process's own page map, without touching it."""
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        pages.seek(address // _PAGE * 8)
        return bool(struct.unpack("Q", pages.read(8))[0] >> 63)


# ---- the process ---------------------------------------------------------------------

PROBES: dict[str, Callable[[], Answer]] = {
    probe.__name__: probe
    for probe in (
        memfd_hugetlb,
        populate_write,
        fixed_noreplace,
        hugetlb_dontneed,
        hugetlb_mremap,
        shared_page_tables,
        userfaultfd,
        userfaultfd_minor_hugetlbfs,
        protection_keys,
        own_shootdowns,
    )
}


def answer(name: str) -> Answer:
    """Try one; a system call that is refused means no."""
    try:
        return PROBES[name]()
    except OSError as error:
        if error.errno in (errno.ENOMEM, errno.ENOSPC):
            return None, f"{error.filename} says {error.strerror}: not enough memory to try"
        return False, f"{error.filename} says {error.strerror}"


def main(names: list[str]) -> None:
    """Try the probes named, a line of JSON each."""
    for name in names:
        value, said = answer(name)
        print(json.dumps([name, value, said]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
