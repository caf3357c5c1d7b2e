"""Filters of system calls, as container runtimes have them: another way, or the reason."""

import pathlib

import pytest
from limited import DOCKER_ALLOWS, DOCKER_REFUSES, ends_well, needs_filter, needs_pages, needs_root

from mrm.system import calls

pytestmark = needs_filter


def test_every_call_of_mrm_is_looked_up_in_dockers_profile():
    """A new call must be looked up there before it is relied on."""
    refused = set(DOCKER_REFUSES) - {"clone3"}  # which is libc's
    assert set(calls.KINDS) == refused | DOCKER_ALLOWS
    assert not refused & DOCKER_ALLOWS


def test_under_dockers_filter_pools_are_no_different(huge):
    ends_well(
        """
docker_filter()
use(mrm.Pool(8 * MIB, huge=huge))
from mrm.shootdowns import shootdowns
say(shootdowns().scope)
seen = any(os.path.exists(f"/sys/kernel/{place}/events/tlb/tlb_flush/id") for place in ("tracing", "debug/tracing"))
say(refused(lambda: shootdowns("process"), "CAP_PERFMON" if seen else "tracefs"))
""",
        "usable",
        "system",
        "Error",
        huge=huge,
    )


def test_under_dockers_filter_a_node_is_refused_with_the_way_out(huge):
    ends_well(
        """
docker_filter()
pool_size = 8 * MIB
words = "set_mempolicy", "seccomp", "--cap-add SYS_NICE", "numa_node"
say(refused(lambda: mrm.Pool(pool_size, huge=huge, numa_node=0), *words))
say(refused(lambda: mrm.Pool(pool_size, numa_node=0), *words))
use(mrm.Pool(pool_size, huge=huge))
""",
        "FundingError",
        "FundingError",
        "usable",
        huge=huge,
    )


@needs_pages(4)
def test_with_cap_sys_nice_the_node_is_proven_without_move_pages():
    """Docker refuses move_pages whatever the capability; get_mempolicy tells the same."""
    ends_well(
        """
from mrm.system import calls
docker_filter(["CAP_SYS_NICE"])
with calls.Script() as script:
    pool = mrm.Pool(8 * MIB, huge="require", numa_node=0)
made = [(name, result) for name, _, result in script.calls() if name in ("move_pages", "get_mempolicy")]
say(made)
use(pool)
""",
        "[('move_pages', -1), ('get_mempolicy', 0), ('get_mempolicy', 0), ('get_mempolicy', 0), ('get_mempolicy', 0)]",
        "usable",
    )


def test_the_doctor_says_what_the_filter_refuses():
    ends_well(
        """
from mrm.tools.doctor.findings import findings
docker_filter()
found = {f.name: f for f in findings()}
say(found["seccomp"].value)
say((found["memory policy"].value, "SYS_NICE" in found["memory policy"].advice))
say(found["userfaultfd"].value)
say(found["MAP_FIXED_NOREPLACE"].value)
""",
        "True",
        "(False, True)",
        "False",
        "True",
    )


# ---- no memfd_create -----------------------------------------------------------------


@needs_root
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_without_memfd_create_and_without_mounts_the_reason_is_said(error):
    ends_well(
        f"""
own_mounts()
mount("none", "/dev", "tmpfs", 0, "size=64k")  # neither /dev/shm nor /dev/hugepages
hide_mounts("hugetlbfs")
refuse({{"memfd_create": errno.{error}}})
words = "memfd_create says", "seccomp", "mount -t hugetlbfs", "/dev/shm"
for huge in ("require", "off", "prefer"):
    say(refused(lambda: mrm.Pool(4 * MIB, huge=huge), *words))
""",
        "FundingError",
        "FundingError",
        "FundingError",
    )


@needs_root
@needs_pages(8)
def test_without_memfd_create_a_hugetlbfs_mount_serves():
    ends_well(
        """
own_mounts()
hide_mounts("hugetlbfs")
mount("none", "/mnt", "hugetlbfs", 0, f"pagesize={FRAME >> 10}K")
refuse({"memfd_create": errno.EPERM})
pool = mrm.Pool(8 * MIB, huge="require")
say(pool.backing)
say(pool.page_size_of(0) == FRAME)
say(os.listdir("/mnt"))
use(pool)
from mrm.physical.funding import fund
got = fund(8 * MIB, huge="require")
say("in a file without a name on" in got.place and "memfd_create is refused" in got.place)
got.give_up()
""",
        "hugetlb",
        "True",
        "[]",
        "usable",
        "True",
    )


@needs_root
@needs_pages(8)
def test_the_mounts_size_is_the_limit_then():
    ends_well(
        """
own_mounts()
hide_mounts("hugetlbfs")
mount("none", "/mnt", "hugetlbfs", 0, f"pagesize={FRAME >> 10}K,size={4 * FRAME}")
refuse({"memfd_create": errno.EPERM})
use(mrm.Pool(4 * FRAME, huge="require"))
say(refused(lambda: mrm.Pool(5 * FRAME, huge="require"), "The mount of /mnt", "8 MiB left of its size= option"))
use(mrm.Pool(4 * FRAME, huge="require"))
""",
        "usable",
        "FundingError",
        "usable",
    )


@needs_root
def test_small_pages_without_memfd_create_lie_on_dev_shm():
    ends_well(
        """
own_mounts()
mount("none", "/dev", "tmpfs", 0, "size=64k")
os.mkdir("/dev/shm")
mount("none", "/dev/shm", "tmpfs", 0, f"size={8 * MIB}")
refuse({"memfd_create": errno.EPERM})
pool = mrm.Pool(8 * MIB, huge="off")
say(pool.backing)
say(os.listdir("/dev/shm"))
use(pool)
say(refused(lambda: mrm.Pool(10 * MIB, huge="off"), "fallocate says", "The mount of /dev/shm has 8 MiB left"))
""",
        "small",
        "[]",
        "usable",
        "FundingError",
    )


# ---- memory that nobody may execute ----------------------------------------------------


@needs_root
@pytest.mark.skipif(
    not pathlib.Path("/proc/sys/vm/memfd_noexec").exists(), reason="vm.memfd_noexec came with Linux 6.3"
)
def test_where_memfds_must_not_be_executable_they_are_not(huge):
    """vm.memfd_noexec=2, of a namespace of processes: memfd_create wants to be told."""
    ends_well(
        """
import ctypes
assert ctypes.CDLL(None).unshare(0x20000000) == 0  # CLONE_NEWPID: the setting is the namespace's
child = os.fork()
if child == 0:
    with open("/proc/sys/vm/memfd_noexec", "w") as setting:
        setting.write("2")
    use(mrm.Pool(8 * MIB, huge=huge))
    os._exit(0)
say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
        "usable",
        "0",
        huge=huge,
    )
