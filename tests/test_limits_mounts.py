"""hugetlbfs mounts: of a size, with a promise, full, of other pages, read-only, not ours."""

from limited import ends_well, needs_pages, needs_root

pytestmark = [needs_root, needs_pages(32)]

# A mount of this child's own, of pages of a frame's size.
MOUNTED = """
own_mounts()
def mount_huge(options=""):
    mount("none", "/mnt", "hugetlbfs", 0, f"pagesize={FRAME >> 10}K" + options)
"""


def test_a_size_is_a_limit_with_its_figures():
    ends_well(
        MOUNTED
        + """
mount_huge(f",size={8 * FRAME}")
pool = mrm.Pool(6 * FRAME, path="/mnt")
words = f"The mount of /mnt has {2 * FRAME >> 20} MiB left of its size= option", f"remount,size={9 * FRAME >> 20}MiB "
say(refused(lambda: mrm.Pool(3 * FRAME, path="/mnt"), *words))
say(refused(lambda: mrm.Pool(3 * FRAME, path="/mnt/heap"), *words))
say(os.listdir("/mnt"))
use(pool)
use(mrm.Pool(8 * FRAME, path="/mnt"))
""",
        "FundingError",
        "FundingError",
        "[]",
        "usable",
        "usable",
    )


def test_a_full_mount_has_nothing_left():
    ends_well(
        MOUNTED
        + """
mount_huge(f",size={4 * FRAME}")
with mrm.Pool(4 * FRAME, path="/mnt/heap") as pool:
    for path in ("/mnt", "/mnt/other"):
        say(refused(lambda: mrm.Pool(FRAME, path=path), "The mount of /mnt has 0 B left"))
    say(os.listdir("/mnt"))
os.unlink("/mnt/heap")
use(mrm.Pool(4 * FRAME, path="/mnt"))
""",
        "FundingError",
        "FundingError",
        "['heap']",
        "usable",
    )


def test_what_a_mount_was_promised_is_for_pools_on_it_alone():
    """min_size= takes pages as reserved when it is mounted."""
    ends_well(
        MOUNTED
        + """
from mrm.physical.limits import huge_pages
mount_huge(f",min_size={16 * FRAME}")
there = huge_pages()
say(there.reserved >= 16)
count = there.free - 8  # enough pages, were none promised
say(refused(lambda: mrm.Pool(count * FRAME, huge="require"), f"{count} huge pages of 2 MiB are needed", "reserved",
    "mrm fund"))
use(mrm.Pool(4 * FRAME, huge="require"))
pool = mrm.Pool(16 * FRAME, path="/mnt")
say(pool.page_size_of(0) == FRAME)
use(pool)
say(huge_pages().reserved == there.reserved)
""",
        "True",
        "FundingError",
        "usable",
        "True",
        "usable",
        "True",
    )


def test_another_page_size_is_no_place_for_frames():
    ends_well(
        """
from mrm.physical.limits import huge_page_sizes
own_mounts()
others = [size for size in huge_page_sizes() if size != FRAME]
for size in others:
    mount("none", "/mnt", "hugetlbfs", 0, f"pagesize={size >> 10}K")
    for path in ("/mnt", "/mnt/heap"):
        refused(lambda: mrm.Pool(4 * MIB, path=path), f"{size >> 10} KiB pages", "pagesize=2M")
mount("none", "/mnt", "tmpfs", 0, "size=64k")
say(refused(lambda: mrm.Pool(4 * MIB, path="/mnt"), "/mnt is not on a hugetlbfs mount", "pagesize=2M"))
""",
        "ArgumentError",
    )


def test_a_read_only_mount_is_said_to_be():
    ends_well(
        MOUNTED
        + """
mount_huge()
mount("none", "/mnt", "none", 1 | 32 | 4096)  # read-only, remount, bind
for path in ("/mnt", "/mnt/heap"):
    say(refused(lambda: mrm.Pool(4 * MIB, path=path), "openat says Read-only file system", "/mnt is mounted read-only"))
use(mrm.Pool(4 * MIB, huge="require"))
""",
        "FundingError",
        "FundingError",
        "usable",
    )


def test_a_mount_of_somebody_elses_is_said_to_be():
    ends_well(
        MOUNTED
        + """
mount_huge(",mode=755")
mrm.Pool(4 * MIB, path="/mnt").close()
become_nobody()
for path in ("/mnt", "/mnt/heap"):
    say(refused(lambda: mrm.Pool(4 * MIB, path=path), "Permission denied", "may not make files in /mnt", "uid="))
use(mrm.Pool(4 * MIB, huge="require"))
""",
        "FundingError",
        "FundingError",
        "usable",
    )
