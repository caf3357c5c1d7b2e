"""A child under a limit: what tests of limits have in common.

Most limits are put on by the child itself, once it has imported what it needs: resource
limits, filters of system calls, another user, and, in a mount namespace of its own, a
/proc or /sys that is hidden, a file system that is read-only, a hugetlbfs mount. All of it
goes with the child, so these tests run on any machine whose root they have. Control groups
and settings of the whole machine are made by the test, in machines that are thrown away.

The code of a child begins with ``from limited import *``; see ``helpers.in_child``.
"""

import contextlib
import ctypes
import errno
import os
import pathlib
import platform
import resource
import subprocess
import time

import pytest
from helpers import in_child
from machine import THROWAWAY

from mrm.physical.limits import huge_pages
from mrm.system.pages import FRAME_SIZE

__all__ = [
    "DOCKER_ALLOWS", "DOCKER_REFUSES", "become_nobody", "docker_filter", "errno", "hide", "hide_mounts", "limit",
    "lock_what_is_mapped", "mount", "own_cgroups", "own_mounts", "pages", "read_only",
    "refuse", "refused", "resource", "set_sysctl",
]  # fmt: skip

MIB = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p,) * 3 + (ctypes.c_ulong, ctypes.c_char_p)

_CLONE_NEWNS, _CLONE_NEWCGROUP = 0x20000, 0x2000000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to put the limit on")


def needs_pages(count):
    """For tests that take so many huge pages of a frame's size."""
    found = huge_pages()
    free = 0 if found is None else found.available
    return pytest.mark.skipif(
        free < count,
        reason=f"needs {count} free huge pages, and there are {free}: `mrm fund {count * FRAME_SIZE >> 20}MiB` as root",
    )


# ---- how it ended --------------------------------------------------------------------

_USES = """
from limited import *
def use(pool):
    r = pool.reserve(8)
    fill(r, [0, 2])
    stamp_all(pool)
    commit(r, "move", [0, 2], [1, 3])
    check_contents(r)
    view = pool.open_view()
    assert peek(view.address(1)) == peek(pool.address(1))
    view.close(); r.close()
    pool.audit()
    pool.close()
    say("usable")
"""


def ends_well(code, *said, huge="off", timeout=180):
    """Run a child, which must say this and end by itself: by no signal, and in time.

    Besides what ``helpers.in_child`` gives it has all of this file, and ``use(pool)``, which
    does something of everything with a pool and closes it.
    """
    before = pages()
    ending = in_child(_USES + code, huge, timeout)
    assert (ending.out.splitlines(), ending.code) == (list(said), 0), ending
    assert as_it_was(before), "huge pages are not as they were"


def pages():
    """The kernel's pool of huge pages of a frame's size: (total, free, reserved, surplus)."""
    found = huge_pages()
    return (0, 0, 0, 0) if found is None else (found.total, found.free, found.reserved, found.surplus)


def as_it_was(before):
    """Whether ``pages()`` are; on a machine that is not ours alone others take and give them meanwhile."""
    return pages() == before or not THROWAWAY


def refused(attempt, *words):
    """Have an attempt fail with an error of mrm's that has these words in it; its class's name."""
    import mrm

    try:
        attempt()
    except mrm.Error as error:
        said = str(error)
        missing = [word for word in words if word not in said]
        assert not missing, f"{missing} not in: {said}"
        return type(error).__name__
    raise AssertionError("it was not refused")


# ---- the process itself --------------------------------------------------------------


def limit(name, value):
    """Set a soft resource limit."""
    which = getattr(resource, name)
    resource.setrlimit(which, (value, resource.getrlimit(which)[1]))


def become_nobody():
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    # What changes its user loses its own files in /proc; a user's own process has them.
    _prctl(_PR_SET_DUMPABLE, 1)


def lock_what_is_mapped():
    """mlockall(MCL_FUTURE): from now on every mapping counts against RLIMIT_MEMLOCK."""
    if _libc.mlockall(2):
        raise OSError(ctypes.get_errno(), "mlockall")


def _prctl(*arguments):
    numbers = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if _libc.prctl(*numbers, *[ctypes.c_ulong(0)] * (5 - len(numbers))):
        raise OSError(ctypes.get_errno(), "prctl")


# ---- filters of system calls ------------------------------------------------------------

# Architecture as the kernel's audit numbers it, and the numbers of calls.
_NUMBERS = {
    "x86_64": (
        0xC000003E,
        {
            "clone3": 435, "get_mempolicy": 239, "mbind": 237, "memfd_create": 319, "mmap": 9, "move_pages": 279,
            "perf_event_open": 298, "pkey_alloc": 330, "set_mempolicy": 238, "userfaultfd": 323,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "clone3": 435, "get_mempolicy": 236, "mbind": 235, "memfd_create": 279, "mmap": 222, "move_pages": 239,
            "perf_event_open": 241, "pkey_alloc": 289, "set_mempolicy": 237, "userfaultfd": 282,
        },
    ),
}  # fmt: skip

needs_filter = pytest.mark.skipif(
    platform.machine() not in _NUMBERS,
    reason=f"no numbers of system calls for {platform.machine()} in this test",
)

# Docker's default profile, of a container without added capabilities: moby/profiles,
# seccomp/default.json. An allow list; what is not in it is answered with EPERM, and clone3
# with ENOSYS, so that libc falls back to clone.
DOCKER_REFUSES = {
    "userfaultfd": errno.EPERM,
    "perf_event_open": errno.EPERM,  # unless CAP_PERFMON or CAP_SYS_ADMIN
    "mbind": errno.EPERM,  # these three unless CAP_SYS_NICE
    "get_mempolicy": errno.EPERM,
    "set_mempolicy": errno.EPERM,
    "move_pages": errno.EPERM,  # whatever capability
    "clone3": errno.ENOSYS,
}
# What mrm calls and Docker lets pass: with the above it is all that mrm calls.
DOCKER_ALLOWS = {
    "mmap", "munmap", "mremap", "mprotect", "madvise", "memfd_create", "openat", "close", "ftruncate", "fallocate",
    "fstatfs", "pread", "ioctl", "mincore", "pkey_alloc", "pkey_free", "unlinkat", "flock", "fcntl", "fchmod",
    "sched_setscheduler", "write", "rt_sigprocmask", "prctl",
}  # fmt: skip


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("yes", ctypes.c_uint8),
        ("no", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def refuse(calls):
    """Have the kernel refuse these system calls in this process, for good: ``{name: errno}``."""
    load, equal, give = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    allow, refusal = 0x7FFF0000, 0x00050000
    architecture, numbers = _NUMBERS[platform.machine()]
    steps = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, allow), (load, 0, 0, 0)]
    for name, error in calls.items():
        steps += [(equal, 0, 1, numbers[name]), (give, 0, 0, refusal | error)]
    steps.append((give, 0, 0, allow))
    program = (_Instruction * len(steps))(*steps)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.byref(_Program(len(steps), program)))


def docker_filter(capabilities=()):
    """Docker's default filter, in so far as mrm notices, with these capabilities added."""
    calls = dict(DOCKER_REFUSES)
    if "CAP_SYS_NICE" in capabilities:
        for name in ("mbind", "get_mempolicy", "set_mempolicy"):
            del calls[name]
    refuse(calls)


# ---- mounts of its own -----------------------------------------------------------------


def mount(source, target, kind, flags=0, options=""):
    """mount(2)."""
    if _libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        raise OSError(
            ctypes.get_errno(), f"mount {kind} {options}: {os.strerror(ctypes.get_errno())}", target
        )


def own_mounts():
    """Go into a mount namespace: what is mounted from now on, nobody else sees, and it goes with us."""
    if _libc.unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", "none", _MS_REC | _MS_PRIVATE)


def hide(*directories):
    """Put an empty directory over each."""
    own_mounts()
    for directory in directories:
        mount("none", directory, "tmpfs", 0, "size=64k")


def own_cgroups():
    """Go into a namespace of control groups, whose root is the group we are in, and mount what is seen of it."""
    top = str(group2())
    if _libc.unshare(_CLONE_NEWCGROUP):
        raise OSError(ctypes.get_errno(), "unshare")
    own_mounts()
    if _libc.umount2(top.encode(), _MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount2")
    mount("none", top, "cgroup2")


def hide_mounts(kind):
    """Put an empty directory over every mount of a kind that can be reached."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if f" - {kind} " in line and os.path.isdir(line.split()[4]):
            mount("none", line.split()[4], "tmpfs", 0, "size=64k")


def read_only():
    """Make every mount read-only."""
    own_mounts()
    points = [line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in points:
        with contextlib.suppress(OSError):  # one below a mount that hides it
            mount("none", point, "none", _MS_REMOUNT | _MS_BIND | _MS_RDONLY)


# ---- control groups of version 2 ----------------------------------------------------------


def group2():
    """Where the hierarchy of version 2 is mounted, with controllers for memory; or skip the test."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            top = pathlib.Path(line.split()[4])
            there = (top / "cgroup.controllers").read_text().split()
            if {"memory", "hugetlb"} <= set(there):
                (top / "cgroup.subtree_control").write_text("+memory +hugetlb")
                return top
    pytest.skip(
        "needs control groups of version 2, with the controllers memory and hugetlb: "
        "boot with cgroup_no_v1=all, or run `make matrix`"
    )


@contextlib.contextmanager
def group(**limits):
    """A control group with limits (``memory_max=...``), which a child joins by ``join``."""
    path = group2() / f"mrm-{os.getpid()}"
    path.mkdir()
    try:
        for name, value in limits.items():
            (path / _file(name)).write_text(str(value))
        yield path
    finally:
        remove(path)


def _file(name):
    """``hugetlb_rsvd_max`` is hugetlb.2MB.rsvd.max, by the size of a frame."""
    kind, _, rest = name.partition("_")
    size = f".{FRAME_SIZE >> 20}MB" if kind == "hugetlb" else ""
    return f"{kind}{size}.{rest.replace('_', '.')}"


def remove(path):
    """A group can be removed when the last process in it is quite gone."""
    for _ in range(100):
        try:
            path.rmdir()
            return
        except OSError:
            time.sleep(0.05)
    path.rmdir()


def join(path):
    """Code with which a child joins a group."""
    return f"with open({str(path / 'cgroup.procs')!r}, 'w') as group:\n    group.write(str(os.getpid()))\n"


@contextlib.contextmanager
def hugetlb_accounting():
    """Have huge pages count as memory, machine-wide; skip where the kernel does not know that (before 6.7)."""
    top = str(group2())
    command = ["mount", "-t", "cgroup2", "-o", "remount,memory_hugetlb_accounting", "none", top]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(
            "this kernel has no memory_hugetlb_accounting, which came with 6.7: `make matrix` boots one that has it"
        )
    try:
        yield
    finally:
        subprocess.run(["mount", "-t", "cgroup2", "-o", "remount", "none", top], check=True)


# ---- settings of the machine -----------------------------------------------------------


@contextlib.contextmanager
def set_sysctl(**settings):
    """Settings below /proc/sys/vm or /sys/kernel/mm, put back at the end; names as ``vm_max_map_count``."""
    before = []
    try:
        for name, value in settings.items():
            path = _setting(name)
            old = path.read_text()
            if "[" in old:
                old = old[old.index("[") + 1 : old.index("]")]
            before.append((path, old))
            path.write_text(f"{value}\n")
        yield
    finally:
        for path, old in reversed(before):
            path.write_text(old)


def _setting(name):
    kind, _, rest = name.partition("_")
    base = {"vm": "/proc/sys/vm", "thp": "/sys/kernel/mm/transparent_hugepage"}[kind]
    return pathlib.Path(base, rest)
