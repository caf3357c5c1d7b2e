"""limits and cgroups: what a machine has, and which limit stood in the way.

The machines are made up: trees of files like those in /proc and /sys.
"""

import errno
import resource
from pathlib import Path

import pytest

from mrm.physical.cgroups import counts_hugetlb_as_memory, hugetlb_limits, memory_limits
from mrm.physical.limits import (
    RLIMITS,
    allowed_nodes,
    chosen_word,
    default_huge_page_size,
    explain_ordinary_shortage,
    explain_shortage,
    huge_page_sizes,
    huge_pages,
    max_map_count,
    meminfo,
    memory_available,
    memory_nodes,
    node_refusal,
    nodes,
    overcommit_memory,
    parse_list,
    process_shortage,
    rlimit,
    shmem_thp,
    unseen_limits,
)
from mrm.physical.permission import explain_permission
from mrm.system.pages import pretend

MIB, GIB = 1 << 20, 1 << 30
POOL = "sys/kernel/mm/hugepages/hugepages-2048kB"


@pytest.fixture(autouse=True)
def base_pages_of_4_kib():
    """The made-up machines are of that kind: their huge pages have 2 MiB."""
    with pretend(4096):
        yield


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def pool(
    total: int, free: int, reserved: int = 0, overcommit: int = 0, surplus: int = 0
) -> dict[str, object]:
    return {
        f"{POOL}/nr_hugepages": total,
        f"{POOL}/free_hugepages": free,
        f"{POOL}/resv_hugepages": reserved,
        f"{POOL}/nr_overcommit_hugepages": overcommit,
        f"{POOL}/surplus_hugepages": surplus,
    }


def version_2(options: str = "rw") -> dict[str, object]:
    """A machine with cgroups of version 2, this process in /app/worker."""
    return {
        "proc/self/cgroup": "0::/app/worker",
        "proc/self/mountinfo": f"29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 {options}",
        "sys/fs/cgroup/app/worker/cgroup.procs": "",
    }


@pytest.fixture
def root(tmp_path):
    return tmp_path


# ---- readers ---------------------------------------------------------------------------


def test_an_empty_machine_fails_nowhere(root):
    assert huge_pages(root=root) is None
    assert huge_page_sizes(root) == []
    assert nodes(root) == [0]
    assert meminfo(root) == {}
    assert memory_available(root=root) is None
    assert (max_map_count(root), overcommit_memory(root), shmem_thp(root)) == (None, None, None)
    assert hugetlb_limits(root=root) == []
    assert memory_limits(root) == []
    assert not counts_hugetlb_as_memory(root)
    assert "cannot be seen from here" in explain_shortage(GIB, errno.ENOMEM, root=root)
    assert explain_ordinary_shortage(GIB, root=root) is None


def test_a_kernel_without_huge_pages_is_not_taken_for_a_hidden_one(root):
    (root / "sys/kernel/mm").mkdir(parents=True)
    assert "no huge pages of 2 MiB" in explain_shortage(GIB, errno.ENOMEM, root=root)


def test_where_sys_is_hidden_proc_tells_of_the_default_size(root):
    lines = "HugePages_Total: 9\nHugePages_Free: 7\nHugePages_Rsvd: 1\nHugePages_Surp: 2\nHugepagesize: {} kB"
    write(root, {"proc/meminfo": lines.format(2048), "proc/sys/vm/nr_overcommit_hugepages": 5})
    found = huge_pages(root=root)
    assert (found.total, found.free, found.reserved, found.surplus, found.overcommit) == (9, 7, 1, 2, 5)
    assert "6 of 9 are free" in explain_shortage(GIB, errno.ENOMEM, root=root)
    write(root, {"proc/meminfo": lines.format(GIB >> 10)})
    assert huge_pages(root=root) is None
    assert default_huge_page_size(root) == GIB


def test_where_proc_is_hidden_nodes_tell_of_memory(root):
    node = "sys/devices/system/node"
    write(root, {f"{node}/online": "0-1"})
    for n in (0, 1):
        write(
            root, {f"{node}/node{n}/meminfo": f"Node {n} MemFree: 1024 kB\nNode {n} Inactive(file): 512 kB"}
        )
    assert memory_available(root=root) == 3 * MIB


def test_what_is_hidden_is_said(root):
    assert len(unseen_limits(root)) == 3
    write(root, {"proc/meminfo": "MemAvailable: 1 kB"} | version_2())
    (root / "sys/kernel/mm").mkdir(parents=True)
    assert unseen_limits(root) == []
    write(root, {"sys/fs/cgroup/cgroup.type": "domain"})  # which the root of the whole tree has not
    assert "groups above the one at /sys/fs/cgroup are hidden" in unseen_limits(root)[0]
    write(root, {"proc/self/mountinfo": ""})
    assert "no control group file system is mounted" in unseen_limits(root)[0]


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        ("set_mempolicy", errno.EPERM, "SYS_NICE"),
        ("move_pages", errno.ENOSYS, "numa_node"),
        ("memfd_create", errno.EPERM, "hugetlbfs"),
        ("openat", errno.EROFS, "/mnt is mounted read-only"),
        ("openat", errno.EACCES, "may not make files in /mnt"),
        ("fallocate", errno.EPERM, "refuses fallocate"),
    ],
)
def test_refusals_that_are_not_about_amounts(root, call, error, word):
    assert word in explain_shortage(GIB, error, call=call, directory="/mnt", root=root)


def test_refusals_that_are_about_amounts_have_nothing_to_do_with_rights():
    assert explain_permission("mmap", errno.ENOMEM) is None
    assert explain_permission(None, errno.EPERM) is None


def test_huge_pages_of_the_machine_and_of_a_node(root):
    node = "sys/devices/system/node/node1/hugepages/hugepages-2048kB"
    write(root, pool(100, 60, 20, 30, 10) | {f"{node}/nr_hugepages": 40, f"{node}/free_hugepages": 5})
    found = huge_pages(root=root)
    assert (found.total, found.free, found.reserved, found.surplus, found.overcommit) == (100, 60, 20, 10, 30)
    assert (found.available, found.growth) == (40, 20)
    assert huge_pages(node=1, root=root).available == 5
    assert huge_pages(node=0, root=root) is None
    assert huge_page_sizes(root) == [2 << 20]


def test_nodes_and_lists(root):
    write(root, {"sys/devices/system/node/online": "0-1,4"})
    assert nodes(root) == [0, 1, 4]
    assert parse_list("") == parse_list("\n") == []
    assert parse_list("7") == [7]


def test_chosen_word(root):
    write(root, {"a": "always [madvise] never", "b": "junk"})
    assert chosen_word(root / "a") == "madvise"
    assert chosen_word(root / "b") is None


def test_memory_of_a_node_counts_what_can_be_dropped(root):
    write(
        root,
        {
            "sys/devices/system/node/online": "0-1",
            "proc/meminfo": "MemAvailable: 4096 kB\nHugePages_Total: 3",
            "sys/devices/system/node/node1/meminfo": "Node 1 MemFree: 1024 kB\nNode 1 Active(file): 512 kB",
        },
    )
    assert memory_available(root=root) == 4 * MIB
    assert memory_available(1, root) == 1536 << 10
    assert meminfo(root)["HugePages_Total"] == 3


def test_rlimits_of_this_process():
    for name in RLIMITS:
        assert rlimit(name) is None or rlimit(name) >= 0


# ---- control groups ----------------------------------------------------------------------


def test_version_2_is_read_up_to_the_mount(root):
    group = "sys/fs/cgroup/app"
    write(
        root,
        version_2()
        | {
            f"{group}/worker/hugetlb.2MB.max": 64 * MIB,
            f"{group}/worker/hugetlb.2MB.current": 16 * MIB,
            f"{group}/worker/hugetlb.2MB.rsvd.max": "max",
            f"{group}/hugetlb.2MB.rsvd.max": 32 * MIB,
            f"{group}/memory.max": GIB,
            f"{group}/memory.current": GIB - 10 * MIB,
            f"{group}/memory.stat": f"anon 5\ninactive_file {2 * MIB}\nactive_file {MIB}",
        },
    )
    found = hugetlb_limits(root=root)
    assert [(limit.file, limit.left) for limit in found] == [
        ("hugetlb.2MB.max", 48 * MIB),
        ("hugetlb.2MB.rsvd.max", 32 * MIB),
    ]
    assert found[0].directory.endswith("/app/worker")
    assert found[1].directory.endswith("/app")
    assert [limit.left for limit in memory_limits(root)] == [13 * MIB]


def test_version_1_has_its_own_names_and_its_own_infinity(root):
    write(
        root,
        {
            "proc/self/cgroup": "9:hugetlb,pids:/docker/abc\n4:memory:/docker/abc",
            "proc/self/mountinfo": (
                "31 23 0:2 /docker/abc /cg/huge\\040tlb rw - cgroup cgroup rw,hugetlb,pids\n"
                "32 23 0:3 /docker/abc /cg/memory rw - cgroup cgroup rw,memory"
            ),
            "cg/huge tlb/hugetlb.2MB.limit_in_bytes": 8 * MIB,
            "cg/huge tlb/hugetlb.2MB.usage_in_bytes": 2 * MIB,
            "cg/memory/memory.limit_in_bytes": 9223372036854771712,
        },
    )
    assert [(limit.file, limit.left) for limit in hugetlb_limits(root=root)] == [
        ("hugetlb.2MB.limit_in_bytes", 6 * MIB)
    ]
    assert memory_limits(root) == []


def test_group_outside_of_the_mount_is_read_at_its_top(root):
    """As in a container that sees its own group as the root, but is told the host's name of it."""
    write(root, version_2() | {"proc/self/cgroup": "0::/not/visible", "sys/fs/cgroup/hugetlb.2MB.max": 0})
    assert [limit.left for limit in hugetlb_limits(root=root)] == [0]


def test_a_tree_that_is_mounted_twice_is_read_once(root):
    machine = version_2()
    line = machine["proc/self/mountinfo"]
    machine["proc/self/mountinfo"] = f"{line}\n" + line.replace("/sys/fs/cgroup", "/other")
    write(root, machine | {"sys/fs/cgroup/memory.max": MIB, "other/memory.max": MIB})
    assert len(memory_limits(root)) == 1


def test_other_page_sizes_have_other_names(root):
    write(root, version_2() | {"sys/fs/cgroup/hugetlb.1GB.max": GIB, "sys/fs/cgroup/hugetlb.64KB.max": MIB})
    assert hugetlb_limits(1 << 30, root)[0].limit == GIB
    assert hugetlb_limits(64 << 10, root)[0].limit == MIB


# ---- explanations ----------------------------------------------------------------------


def test_too_few_pages(root):
    write(root, pool(512, 100, 50))
    said = explain_shortage(GIB, errno.ENOMEM, root=root)
    for part in (
        "512 huge pages",
        "50 of 512 are free",
        "reserved 50",
        "nr_hugepages is 512",
        "mrm fund 1GiB",
    ):
        assert part in said


def test_overcommit_that_could_not_be_met(root):
    write(root, pool(0, 0, overcommit=1024))
    said = explain_shortage(GIB, errno.ENOMEM, root=root)
    assert "nr_overcommit_hugepages allows 1024" in said
    assert "fragmented" in said


def test_too_few_pages_on_a_node(root):
    node = "sys/devices/system/node/node1/hugepages/hugepages-2048kB"
    write(root, pool(1024, 1024) | {f"{node}/nr_hugepages": 8, f"{node}/free_hugepages": 4})
    said = explain_shortage(64 * MIB, errno.ENOSPC, 1, root=root)
    assert "on node 1" in said
    assert "4 of 8 are free" in said
    assert "mrm fund 64MiB --node 1" in said


def two_nodes(allowed: str = "0-1", memory: str = "0-1") -> dict[str, object]:
    """80 of 80 pages free on node 0, and 20 of 20 on node 1."""
    files = pool(100, 100) | {
        "sys/devices/system/node/online": "0-1",
        "sys/devices/system/node/has_memory": memory,
        "proc/self/status": f"Name:\tpython\nMems_allowed_list:\t{allowed}",
    }
    for node, pages in ((0, 80), (1, 20)):
        for name in ("nr_hugepages", "free_hugepages"):
            files[f"sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/{name}"] = pages
    return files


def test_a_short_node_is_told_with_what_each_has(root):
    write(root, two_nodes())
    said = explain_shortage(64 * MIB, errno.ENOSPC, 1, root=root)
    assert "32 huge pages of 2 MiB are needed on node 1, and 20 of 20 are free" in said
    assert "node 0 has 80 of 80 free, node 1 has 20 of 20 free" in said
    assert "node 0 has" in explain_shortage(GIB, errno.ENOMEM, root=root)


def test_nodes_out_of_reach_are_told(root):
    write(root, two_nodes(allowed="1"))
    assert (memory_nodes(root), allowed_nodes(root)) == ([0, 1], [1])
    assert "memory of node 1 only, and not of node 0" in node_refusal(0, root)
    assert node_refusal(1, root) is None
    assert node_refusal(None, root) is None
    said = explain_shortage(64 * MIB, errno.ENOMEM, root=root)
    assert "20 are free on node 1, whose memory alone this process may use: raise cpuset.mems" in said
    write(root, two_nodes() | version_2() | {"proc/meminfo": "MemTotal: 4096 kB"})
    said = explain_shortage(64 * MIB, errno.ENOMEM, bound=[1], root=root)
    assert "20 are free on node 1, whose memory alone this thread's memory policy allows" in said
    assert "cpuset" not in said
    assert "no limit" in explain_shortage(64 * MIB, errno.ENOMEM, bound=[0, 1], root=root)
    assert "no limit" in explain_shortage(64 * MIB, errno.ENOMEM, bound=[0], root=root)


def test_a_node_without_memory_is_told(root):
    write(root, two_nodes(memory="0", allowed="0"))
    assert "node 1 has no memory of its own; node 0 of this machine has" in node_refusal(1, root)


def test_groups_are_named_with_their_figures(root):
    write(
        root,
        pool(1024, 1024)
        | version_2("rw,memory_hugetlb_accounting")
        | {
            "sys/fs/cgroup/app/hugetlb.2MB.max": 64 * MIB,
            "sys/fs/cgroup/app/memory.max": 128 * MIB,
        },
    )
    said = explain_shortage(GIB, errno.ENOSPC, root=root)
    assert "hugetlb.2MB.max" in said
    assert "64 MiB" in said
    assert "memory.max" in said
    assert "nr_hugepages" not in said
    assert counts_hugetlb_as_memory(root)


def test_memory_max_is_not_blamed_where_it_does_not_count(root):
    write(root, pool(1024, 1024) | version_2() | {"sys/fs/cgroup/app/memory.max": MIB})
    assert "memory.max" not in explain_shortage(GIB, errno.ENOSPC, root=root)


def test_nothing_to_blame_is_said(root):
    write(root, pool(1024, 1024))
    said = explain_shortage(MIB, errno.EPERM, root=root)
    assert "EPERM" in said
    assert "mrm doctor" in said


def test_ordinary_memory(root):
    write(root, {"proc/meminfo": f"MemAvailable: {GIB >> 10} kB"})
    assert explain_ordinary_shortage(512 * MIB, root=root) is None
    assert "1 GiB of memory is available" in explain_ordinary_shortage(GIB, root=root)
    write(root, version_2() | {"sys/fs/cgroup/app/memory.max": 256 * MIB})
    assert "memory.max" in explain_ordinary_shortage(512 * MIB, root=root)


def test_strict_overcommit(root):
    write(
        root,
        {
            "proc/meminfo": "MemAvailable: 99999999 kB\nCommitLimit: 2048 kB\nCommitted_AS: 1024 kB",
            "proc/sys/vm/overcommit_memory": 2,
        },
    )
    assert "leaves 1 MiB to promise" in explain_ordinary_shortage(4 * MIB, root=root)


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_FSIZE"])
def test_limits_of_the_process(name):
    soft, hard = resource.getrlimit(RLIMITS[name])
    resource.setrlimit(RLIMITS[name], (64 * GIB, hard))
    try:
        said = " ".join(process_shortage(1 << 50, None))
    finally:
        resource.setrlimit(RLIMITS[name], (soft, hard))
    assert name in said
    assert "64 GiB" in said


def test_open_files():
    assert "RLIMIT_NOFILE" in " ".join(process_shortage(MIB, errno.EMFILE))
    assert "fs.file-max" in " ".join(process_shortage(MIB, errno.ENFILE))
