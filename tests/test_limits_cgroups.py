"""Control groups of version 2: each limit, met by a pool in a group of its own.

What the kernel does when a page is touched beyond the limit is not left to it: SIGBUS with
hugetlb.max, and with memory.max, where huge pages count as memory, a fault that is
repeated for ever (6.12, 6.18; SIGBUS on 7.3). Each test has a timeout.
"""

import pathlib

import pytest
from limited import ends_well, group, group2, hugetlb_accounting, join, needs_pages, needs_root, remove
from machine import throwaway

from mrm.system.pages import FRAME_SIZE
from mrm.tools.doctor import facts

MIB = 1 << 20
SIZE = f"{FRAME_SIZE >> 20}MB"

pytestmark = [throwaway, needs_root, needs_pages(64)]


# ---- huge pages ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "call", "name"),
    [
        ({"hugetlb_max": 8 * FRAME_SIZE}, "fallocate", f"hugetlb.{SIZE}.max"),
        ({"hugetlb_rsvd_max": 8 * FRAME_SIZE}, "mmap", f"hugetlb.{SIZE}.rsvd.max"),
    ],
)
def test_a_limit_on_huge_pages_is_named_and_nothing_is_kept(limits, call, name):
    with group(**limits) as path:
        current = pathlib.Path(path, name.replace("max", "current"))
        ends_well(
            join(path)
            + f"""
pool = mrm.Pool(6 * FRAME, huge="require")
words = "{call} says", "{name} of {path} is {8 * FRAME_SIZE >> 20} MiB with {2 * FRAME_SIZE >> 20} MiB left"
for threads in (1, 2):
    say(refused(lambda: mrm.Pool(4 * FRAME, huge="require", threads=threads), *words, "raise it"))
pool.zero(pool.take(6)); pool.give(range(6))
use(pool)
with mrm.Pool(8 * FRAME, huge="require") as pool:  # to the last page
    pool.zero(pool.take(8))
say("all")
""",
            "FundingError",
            "FundingError",
            "usable",
            "all",
            timeout=300,
        )
        assert current.read_text() == "0\n"


def test_a_limit_that_is_lowered_afterwards_takes_nothing_away():
    """Down to what is in use: lower the kernel does not let it go (EBUSY). A memory.max lowered below it kills."""
    with group(hugetlb_max=64 * FRAME_SIZE) as path:
        ends_well(
            join(path)
            + f"""
pool = mrm.Pool(32 * FRAME, huge="require")
try:
    with open("{path}/hugetlb.{SIZE}.max", "w") as limit:
        limit.write("0")
except OSError as error:
    say(errno.errorcode[error.errno])
with open("{path}/hugetlb.{SIZE}.max", "w") as limit:
    limit.write(str(32 * FRAME))
view = pool.open_view()
for frame in range(32):
    poke(view.address(frame), frame)
say(sum(peek(pool.address(frame)) for frame in range(32)))
view.close(); pool.close()
say(refused(lambda: mrm.Pool(33 * FRAME, huge="require"), "is {32 * FRAME_SIZE >> 20} MiB with"))
""",
            "EBUSY",
            str(sum(range(32))),
            "FundingError",
        )


@pytest.mark.parametrize("limit", ["hugetlb_max", "hugetlb_rsvd_max"])
def test_where_huge_pages_are_preferred_a_limit_makes_for_small_ones(limit):
    with group(**{limit: 0}) as path:
        ends_well(
            join(path)
            + f"""
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    pool = mrm.Pool(8 * FRAME)
say([w.category.__name__ for w in caught])
say("hugetlb.{SIZE}" in str(caught[0].message) and "is 0 B" in str(caught[0].message))
say(pool.backing in ("thp", "small"))
use(pool)
""",
            "['BackingWarning']",
            "True",
            "True",
            "usable",
        )


def test_a_limit_above_the_container_is_said_to_be_hidden():
    """As in a pod that allows less than its container: of the tree only the container's part is mounted."""
    with group(hugetlb_max=4 * FRAME_SIZE) as path:
        inner = path / "container"
        inner.mkdir()
        try:
            ends_well(
                join(inner)
                + """
own_cgroups()
use(mrm.Pool(4 * FRAME, huge="require"))
say(refused(lambda: mrm.Pool(5 * FRAME, huge="require"), "fallocate says", "groups above the one at", "are hidden"))
""",
                "usable",
                "FundingError",
            )
        finally:
            remove(inner)


def test_the_doctor_calls_a_group_without_huge_pages_a_problem():
    with group(hugetlb_max=0) as path:
        ends_well(
            join(path)
            + f"""
from mrm.tools.doctor.facts import groups
found = {{f.name: f for f in groups()}}
say(found["{path}/hugetlb.{SIZE}.max"].status)
""",
            "problem",
        )


# ---- memory ----------------------------------------------------------------------------


def test_memory_max_is_no_limit_on_huge_pages():
    with group(memory_max=64 * MIB) as path:
        ends_well(
            join(path)
            + """
with mrm.Pool(48 * FRAME, huge="require") as pool:
    pool.zero(pool.take(48))
    say(pool.size >> 20)
use(mrm.Pool(8 * FRAME, huge="require"))
""",
            str(48 * FRAME_SIZE >> 20),
            "usable",
        )


def test_small_pages_beyond_memory_max_are_refused_and_nobody_is_killed():
    with group(memory_max=160 * MIB) as path:
        ends_well(
            join(path)
            + f"""
words = "memory.max of {path} is 160 MiB", "left", "raise it"
say(refused(lambda: mrm.Pool(512 * MIB, huge="off"), *words))
use(mrm.Pool(16 * MIB, huge="off"))
""",
            "FundingError",
            "usable",
        )
        assert "oom_kill 0" in (path / "memory.events").read_text()


def test_beyond_memory_high_the_kernel_would_put_us_to_sleep():
    with group(memory_high=160 * MIB) as path:
        ends_well(
            join(path)
            + 'say(refused(lambda: mrm.Pool(512 * MIB, huge="off"), "memory.high", "is 160 MiB"))\n',
            "FundingError",
        )


@pytest.fixture
def accounting():
    with hugetlb_accounting():
        yield


@pytest.mark.usefixtures("accounting")
class TestAccounting:
    """memory_hugetlb_accounting: huge pages count as memory."""

    def test_a_pool_beyond_memory_max_is_refused_beforehand(self):
        with group(memory_max=128 * MIB) as path:
            ends_well(
                join(path)
                + f"""
from mrm.system import calls
words = "memory.max of {path} is 128 MiB", "left", "raise it"
with calls.Script() as script:
    say(refused(lambda: mrm.Pool(64 * FRAME, huge="require"), *words))
say([name for name, _, _ in script.calls()])
say(refused(lambda: mrm.Pool(64 * FRAME), *words))
pool = mrm.Pool(8 * FRAME, huge="require")
pool.zero(pool.take(8)); pool.give(range(8))
use(pool)
""",
                "FundingError",
                "[]",
                "FundingError",
                "usable",
                timeout=300,
            )
            assert "oom_kill 0" in (path / "memory.events").read_text()

    @pytest.mark.parametrize("hidden", [True, False])
    def test_a_limit_that_is_not_seen_beforehand_is_refused_by_the_kernel(self, hidden):
        """Hidden, or used up between our look and our call: no page is touched that fallocate has not given."""
        blind = (
            'hide("/proc", "/sys")\n'
            if hidden
            else "from mrm.physical import backings\nbackings.counts_hugetlb_as_memory = lambda: False\n"
        )
        words = '"cannot be seen from here"' if hidden else '"memory.max", "is 128 MiB"'
        with group(memory_max=128 * MIB) as path:
            ends_well(
                join(path)
                + blind
                + f"""
for threads in (1, 2):
    say(refused(lambda: mrm.Pool(64 * FRAME, huge="require", threads=threads), "fallocate says", {words}))
with mrm.Pool(8 * FRAME, huge="require") as pool:
    pool.zero(pool.take(8))
say("funded")
""",
                "FundingError",
                "FundingError",
                "funded",
                timeout=300,
            )
            assert "oom_kill 0" in (path / "memory.events").read_text()

    def test_the_doctor_warns(self):
        with group(memory_max=128 * MIB) as path:
            ends_well(
                join(path)
                + f"""
from mrm.tools.doctor.facts import groups
found = {{f.name: f for f in groups()}}["{path}/memory.max"]
say((found.status, "memory_hugetlb_accounting" in found.advice))
""",
                "('warning', True)",
            )


def test_without_accounting_the_doctor_only_notes_memory_max():
    group2()
    with group(memory_max=128 * MIB) as path:
        ends_well(
            join(path)
            + f"""
from mrm.tools.doctor.facts import groups
say({{f.name: f for f in groups()}}["{path}/memory.max"].status)
""",
            facts.NOTE,
        )
