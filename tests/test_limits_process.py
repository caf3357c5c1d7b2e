"""Limits of a process: its resources, its user, and what it may see and write."""

import os

import pytest
from limited import ends_well, needs_pages, needs_root

from mrm.tools.doctor.facts import limits

# ---- resource limits -------------------------------------------------------------------


def test_addresses_that_a_limit_denies_are_told_with_its_figures(huge):
    ends_well(
        """
pool = mrm.Pool(4 * MIB, huge=huge, views=3)
from mrm.physical.limits import address_space_used
allowed = (address_space_used() >> 20) + 512
limit("RLIMIT_AS", allowed * MIB)
say(refused(lambda: pool.reserve(1024), "RLIMIT_AS", f"{allowed} MiB of addresses", "ulimit -v"))
say(refused(lambda: mrm.Pool(1024 * MIB, huge=huge), "RLIMIT_AS", "ulimit -v"))
use(pool)
""",
        "AddressSpaceError",
        "FundingError",
        "usable",
        huge=huge,
    )


@needs_root
def test_without_locked_memory_a_pool_is_no_different(huge):
    """A memfd of huge pages is not locked memory to the kernel; only SysV's shared memory is."""
    ends_well(
        """
mrm.Pool(4 * MIB, huge=huge).close()
limit("RLIMIT_MEMLOCK", 0)
become_nobody()
use(mrm.Pool(4 * MIB, huge=huge))
""",
        "usable",
        huge=huge,
    )


@needs_root
def test_locking_all_that_is_mapped_is_told_to_be_the_reason(huge):
    ends_well(
        """
pool = mrm.Pool(8 * MIB, huge=huge, views=3)
allowed = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
allowed = 64 * MIB if allowed == resource.RLIM_INFINITY else min(allowed, 64 * MIB)
limit("RLIMIT_MEMLOCK", allowed)
become_nobody()
lock_what_is_mapped()
say(refused(lambda: pool.reserve(1024), f"RLIMIT_MEMLOCK allows {allowed >> 10} KiB", "mlockall"))
pool.audit(); pool.close()
""",
        "AddressSpaceError",
        huge=huge,
    )


def test_a_file_that_is_too_large_is_refused_before_the_signal(huge):
    ends_well(
        """
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
limit("RLIMIT_FSIZE", 8 * MIB)
use(mrm.Pool(8 * MIB, huge=huge))
words = "RLIMIT_FSIZE allows files of 8 MiB", "one file of 10 MiB", "ulimit -f"
say(refused(lambda: mrm.Pool(10 * MIB, huge=huge), *words))
say(refused(lambda: mrm.Pool(10 * MIB), *words))
""",
        "usable",
        "FundingError",
        "FundingError",
        huge=huge,
    )


def test_descriptors_one_is_enough_and_none_is_told(huge):
    ends_well(
        """
from mrm.shootdowns import shootdowns
import mrm.verify
highest = max(open_files())
limit("RLIMIT_NOFILE", highest + 1)
say(refused(lambda: mrm.Pool(4 * MIB, huge=huge), "RLIMIT_NOFILE", str(highest + 1), "ulimit -n"))
limit("RLIMIT_NOFILE", highest + 2)
pool = mrm.Pool(8 * MIB, huge=huge)
r = pool.reserve(8)
fill(r, [0, 2])  # mappings are not counted without a descriptor: the kernel would refuse
say(refused(r.check, "/proc/self/maps", "Too many open files"))
say(refused(shootdowns, "Too many open files"))
r.close()
limit("RLIMIT_NOFILE", highest + 3)
use(pool)
""",
        "FundingError",
        "AuditError",
        "Error",
        "usable",
        huge=huge,
    )


@needs_root
def test_threads_that_cannot_be_started_are_told_with_the_limit(huge):
    ends_well(
        """
mrm.Pool(4 * MIB, huge=huge).close()
limit("RLIMIT_NPROC", 0)
become_nobody()
say(refused(lambda: mrm.Pool(4 * MIB, huge=huge), "RLIMIT_NPROC", "is 0", "pids.max"))
""",
        "FundingError",
        huge=huge,
    )


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_FSIZE"])
def test_the_doctor_warns_of_limits_that_pools_meet(name, monkeypatch):
    monkeypatch.setattr("mrm.tools.doctor.facts.rlimit", lambda asked: 1 << 30 if asked == name else None)
    found = {finding.name: finding for finding in limits()}
    assert (found[name].status, found[name].value) == ("warning", "1 GiB")
    assert found[name].advice


# ---- rights --------------------------------------------------------------------------


@needs_root
def test_a_user_without_rights_has_all_but_the_tracepoint(huge):
    ends_well(
        """
from mrm.shootdowns import shootdowns
from mrm.physical.kernelpool import raise_available, release
import mrm.verify
mrm.Pool(4 * MIB, huge=huge, numa_node=0).close()
become_nobody()
pool = mrm.Pool(8 * MIB, huge=huge, numa_node=0)
pool.take()
say(pool.page_size_of(0) == (FRAME if huge == "require" else 4096))
counting = shootdowns()
say(counting.scope)
use(pool)
outcome = raise_available(1 << 40)
say((outcome.added, "ask the administrator" in outcome.refused, outcome.enough))
""",
        "True",
        "system",
        "usable",
        "(0, True, False)",
        huge=huge,
    )


@needs_root
def test_a_read_only_machine_is_enough(huge):
    ends_well(
        """
from mrm.physical.kernelpool import raise_available
read_only()
try:
    open("/tmp/mrm-cannot-be-made", "w")
except OSError as error:
    assert error.errno == errno.EROFS
use(mrm.Pool(4 * MIB, huge=huge))
outcome = raise_available(1 << 40)
say("Read-only file system" in outcome.refused)
""",
        "usable",
        "True",
        huge=huge,
    )


# ---- /proc and /sys ------------------------------------------------------------------


@needs_root
def test_without_proc_everything_works_but_the_proofs(huge):
    ends_well(
        """
from mrm.shootdowns import shootdowns
import mrm.verify
hide("/proc")
assert not os.path.exists("/proc/self")
pool = mrm.Pool(4 * MIB, huge=huge)
r = pool.reserve(8)
frames = fill(r, [0, 2])
commit(r, "move", [0, 2], [1, 3])
view = pool.open_view()
poke(view.address(frames[0]), 7)
say(peek(r.address(1)))
say(refused(r.check, "/proc/self/maps cannot be read"))
say(refused(lambda: pool.page_size_of(0), "/proc/self/smaps cannot be read"))
try:
    say(shootdowns().scope)
except mrm.Error as error:
    say("/proc/interrupts cannot be read" in str(error))
view.close(); r.close(); pool.close()
""",
        "7",
        "AuditError",
        "AuditError",
        "True",
        huge=huge,
    )


@needs_root
@needs_pages(2)
def test_a_refusal_that_cannot_be_explained_says_what_is_hidden():
    ends_well(
        """
from mrm.tools.doctor.findings import findings
total = pages()[0]
hide("/proc", "/sys")
words = "cannot be seen from here", "/proc/meminfo", "/sys is hidden", "not all limits of control groups are known"
say(refused(lambda: mrm.Pool((total + 512) * FRAME, huge="require"), "mmap says", *words))
found = {f.name: f for f in findings(trial=lambda names: dict.fromkeys(names, (True, "")))}
say(found["control groups' limits"].status)
say(found["/proc/self/maps"].status)
use = mrm.Pool(4 * MIB, huge="require").close()
""",
        "FundingError",
        "warning",
        "warning",
    )


@needs_root
@needs_pages(2)
def test_proc_with_nothing_but_processes_is_enough():
    """``subset=pid``, and ``hidepid``: the machine's files are hidden, the process's own are there."""
    ends_well(
        """
own_mounts()
try:
    mount("proc", "/proc", "proc", 0, "subset=pid,hidepid=2")
except OSError:
    mount("proc", "/proc", "proc", 0, "hidepid=2")  # before 5.8
use(mrm.Pool(4 * MIB, huge="require"))
use(mrm.Pool(4 * MIB, huge="off"))
""",
        "usable",
        "usable",
    )


@needs_root
@needs_pages(2)
def test_without_sys_the_figures_are_those_of_proc():
    ends_well(
        """
from mrm.physical.limits import huge_pages
before = huge_pages()
hide("/sys")
after = huge_pages()
say(before.total == after.total)
say(refused(lambda: mrm.Pool((before.total + 512) * FRAME, huge="require"), "huge pages of 2 MiB are needed",
    f"of {before.total} are free", "mrm fund"))
use(mrm.Pool(4 * MIB, huge="require"))
""",
        "True",
        "FundingError",
        "usable",
    )


@needs_root
def test_mappings_that_nobody_counts_are_refused_by_the_kernel_and_undone(huge):
    """Beforehand nothing can be refused; tests/test_limits_machine.py has a kernel that refuses by itself."""
    ends_well(
        """
from mrm.system import calls
pool = mrm.Pool(32 * MIB, huge=huge)
r = pool.reserve(64)
stamp_all(pool)
hide("/proc")
batch = r.batch()
batch.map(range(0, 32, 2), list(pool.take(16)))
with calls.Script(fail=9, kinds=["mmap"]):
    say(refused(batch.commit, "Nothing is changed", "vm.max_map_count", "/proc is hidden"))
say(shown(r))
batch.commit()
say([stamp_at(r.address(slot)) for slot in shown(r)] == [stamp_at(pool.address(f)) for f in shown(r).values()])
r.close(); pool.close()
""",
        "SystemCallError",
        "{}",
        "True",
        huge=huge,
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="for users who are not root: root's tests become one")
def test_a_user_who_is_not_root_has_a_pool(huge):
    ends_well("use(mrm.Pool(4 * MIB, huge=huge))", "usable", huge=huge)
