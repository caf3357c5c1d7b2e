"""Settings of the whole machine, and what it was booted with, met by pools.

The last tests are for machines with a kernel command line of their own; they know one by
what they see, and say what it takes otherwise.
"""

import pytest
from helpers import other_process
from limited import ends_well, needs_pages, needs_root, pages, set_sysctl
from machine import throwaway

import mrm
from mrm.physical.kernelpool import persistent_setting, raise_available, release
from mrm.physical.limits import default_huge_page_size, huge_pages, meminfo, shmem_thp
from mrm.system.pages import FRAME_SIZE
from mrm.tools.doctor.facts import huge_page_pools, limits

MIB = 1 << 20


# ---- mappings ------------------------------------------------------------------------


@throwaway
@needs_root
@pytest.mark.parametrize("hidden", [False, True], ids=["seen", "hidden"])
def test_more_mappings_than_allowed_are_refused_or_undone(huge, hidden):
    """Seen, it is refused before anything is tried; with /proc hidden by the kernel, and undone."""
    said = "of the 3000 that vm.max_map_count allows" if not hidden else "Nothing is changed"
    with set_sysctl(vm_max_map_count=3000):
        ends_well(
            f"""
pool = mrm.Pool(32 * MIB, huge=huge)
r = pool.reserve(8192)
frames = list(pool.take(16))
stamp_all(pool)
commit(r, "map", range(0, 32, 2), frames)
hidden = {hidden}
if hidden:
    hide("/proc")
say(refused(lambda: commit(r, "alias", [0] * 4000, range(40, 8040, 2)), "vm.max_map_count", {said!r}))
say(len(shown(r)))
for slot, frame in shown(r).items():
    assert stamp_at(r.address(slot)) == stamp_at(pool.address(frame))
commit(r, "alias", [0] * 100, range(40, 240, 2))  # what there is room for
commit(r, "unmap", range(40, 240, 2))
if not hidden:
    check_contents(r)
view = pool.open_view()
view.close(); r.close(); pool.close()
""",
            "AddressSpaceError" if not hidden else "SystemCallError",
            "16",
            huge=huge,
        )


@throwaway
@needs_root
def test_the_doctor_warns_of_few_mappings():
    with set_sysctl(vm_max_map_count=3000):
        assert {f.name: f for f in limits()}["vm.max_map_count"].status == "warning"


# ---- overcommit ------------------------------------------------------------------------


@throwaway
@needs_root
def test_strict_overcommit_counts_small_pages_and_no_huge_ones():
    left = 256 * MIB
    allowed = meminfo()["Committed_AS"] + left
    with set_sysctl(vm_overcommit_kbytes=allowed >> 10, vm_overcommit_memory=2):
        assert {f.name: f for f in limits()}["vm.overcommit_memory"].status == "warning"
        ends_well(
            """
words = "vm.overcommit_memory is 2 and leaves", "MiB to promise", "vm.overcommit_ratio"
say(refused(lambda: mrm.Pool(512 * MIB, huge="off"), *words))
use(mrm.Pool(16 * MIB, huge="off"))
""",
            "FundingError",
            "usable",
        )
        if pages()[1] >= 64:
            ends_well('use(mrm.Pool(64 * FRAME, huge="require"))\n', "usable")


# ---- transparent huge pages --------------------------------------------------------------


@throwaway
@needs_root
@pytest.mark.parametrize("enabled", ["never", "always"])
def test_transparent_huge_pages_that_are_off_make_for_small_ones(enabled):
    if shmem_thp() is None:
        pytest.skip("this kernel has no transparent huge pages of shared memory")
    with set_sysctl(thp_shmem_enabled="never", thp_enabled=enabled):
        _prefer_without_huge_pages("small", "shmem_enabled is never")


@throwaway
@needs_root
def test_transparent_huge_pages_that_are_only_off_for_private_memory():
    if shmem_thp() is None:
        pytest.skip("this kernel has no transparent huge pages of shared memory")
    with set_sysctl(thp_shmem_enabled="advise", thp_enabled="never"):
        _prefer_without_huge_pages("thp small", "")


def _prefer_without_huge_pages(backings, words):
    ends_well(
        f"""
from mrm.system import calls
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught, calls.Script(fail=1, kinds=["memfd_create"], error=errno.EINVAL):
    pool = mrm.Pool(16 * MIB)
say([w.category.__name__ for w in caught])
say({words!r} in str(caught[0].message))
say(pool.backing in {backings.split()!r})
use(pool)
""",
        "['BackingWarning']",
        "True",
        "True",
        "usable",
    )


# ---- others who take huge pages ------------------------------------------------------------

_OTHER = """
import mmap, sys, time
from mrm.physical.limits import huge_pages
from mrm.system.pages import FRAME_SIZE
MAP_HUGETLB = 0x40000 | (FRAME_SIZE.bit_length() - 1) << 26
end = time.monotonic() + float(sys.argv[1])
taken = 0
print("began", flush=True)
while time.monotonic() < end:
    free = huge_pages().available
    try:
        held = mmap.mmap(-1, max(1, free) * FRAME_SIZE, mmap.MAP_SHARED | MAP_HUGETLB)
    except OSError:
        continue
    taken += 1
    time.sleep(0.002)
    held.close()
print(taken, flush=True)
"""


@throwaway
@needs_pages(64)
def test_all_pages_taken_by_another_between_our_look_and_our_call():
    """It takes all that are free and gives them back, over and over; we open pools meanwhile."""
    before = pages()
    with other_process(_OTHER, "20") as other:
        assert other.stdout.readline() == "began\n"
        funded = denied = 0
        for _ in range(4000):
            if other.poll() is not None or (funded >= 20 and denied >= 20):
                break
            try:
                with mrm.Pool(16 * FRAME_SIZE, huge="require") as pool:
                    pool.zero(pool.take(16))  # a page that is not there would be SIGBUS
                funded += 1
            except mrm.FundingError as error:
                assert error.call == "mmap", error  # reserved there, all or none; no later call can miss one
                denied += 1
        assert funded, denied
        assert int(other.stdout.readline()) > 0
        other.wait(120)
    assert denied > 0, "the other process never was in the way"
    assert pages() == before


@throwaway
@needs_pages(64)
def test_all_pages_taken_by_another_for_good():
    """The figures are those that it leaves; where huge pages are only preferred, there are others."""
    ends_well(
        """
import mmap
from mrm.physical.limits import huge_pages
there = huge_pages()
MAP_HUGETLB = 0x40000 | (FRAME.bit_length() - 1) << 26
child = os.fork()
if child == 0:
    held = mmap.mmap(-1, (there.available - 2) * FRAME, mmap.MAP_SHARED | MAP_HUGETLB)
    signal.pause()
while huge_pages().available > 2:
    pass
say(refused(lambda: mrm.Pool(8 * FRAME, huge="require"), "8 huge pages", f"2 of {there.total} are free", "mrm fund"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pool = mrm.Pool(8 * FRAME)
say(len(caught))
use(pool)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
use(mrm.Pool(8 * FRAME, huge="require"))
""",
        "FundingError",
        "1",
        "usable",
        "usable",
    )


# ---- how the machine was booted ------------------------------------------------------------


def _without_pages():
    found = huge_pages()
    return found is None or found.total == 0


@pytest.mark.skipif(not _without_pages(), reason="for machines without huge pages: hugepages=0")
def test_a_machine_without_huge_pages_says_what_to_do():
    ends_well(
        """
say(refused(lambda: mrm.Pool(8 * FRAME, huge="require"), "0 of 0 are free", "nr_hugepages is 0", "mrm fund"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pool = mrm.Pool(8 * FRAME)
say([w.category.__name__ for w in caught])
use(pool)
""",
        "FundingError",
        "['BackingWarning']",
        "usable",
    )
    assert "problem" in {f.status for f in huge_page_pools()}


needs_gigantic = pytest.mark.skipif(
    default_huge_page_size() != 1 << 30,
    reason="for machines whose default huge page is of 1 GiB: default_hugepagesz=1G hugepagesz=1G hugepages=1",
)


@needs_gigantic
def test_where_the_default_is_1_gib_frames_are_of_their_own_size():
    """vm.nr_hugepages, HugePages_Free and mounts are about the default size; pools are not."""
    gigantic = huge_pages(1 << 30)
    outcome = raise_available(64 * FRAME_SIZE)
    try:
        assert outcome.enough, outcome
        ends_well(
            """
pool = mrm.Pool(8 * FRAME, huge="require")
say(pool.page_size_of(0) == FRAME)
use(pool)
total = pages()[0]
say(refused(lambda: mrm.Pool((total + 64) * FRAME, huge="require"), f"of {total} are free", "mrm fund"))
""",
            "True",
            "usable",
            "FundingError",
        )
    finally:
        release(outcome.added * FRAME_SIZE)
    assert huge_pages(1 << 30) == gigantic


@needs_gigantic
def test_where_the_default_is_1_gib_settings_say_which_size_they_mean():
    """The same number written to vm.nr_hugepages would ask for as many GiB."""
    file, line = persistent_setting(raise_available(0))
    assert file.startswith("etc/tmpfiles.d/")
    assert f"hugepages-{FRAME_SIZE >> 10}kB/nr_hugepages" in line
    found = {f.name: f for f in huge_page_pools()}["default size"]
    assert (found.value, found.status) == ("1 GiB", "warning")
    assert "hugepagesz=" in found.advice


@needs_gigantic
@needs_root
def test_where_the_default_is_1_gib_a_mount_without_a_size_is_no_place_for_frames():
    ends_well(
        """
own_mounts()
mount("none", "/mnt", "hugetlbfs")
say(refused(lambda: mrm.Pool(8 * FRAME, path="/mnt"), "1048576 KiB pages", "pagesize=2M"))
hide("/sys")
say(refused(lambda: mrm.Pool(1 << 40, huge="require"), "cannot be seen from here", "/sys is hidden"))
""",
        "ArgumentError",
        "FundingError",
    )
