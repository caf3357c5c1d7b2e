"""The machine's limits, met while a pool is in use: mappings, addresses, frames."""

import contextlib
import pathlib

import pytest
from helpers import FRAME, check_contents, commit, in_child, mapping_count, shown, stamp_all, table

import mrm
import mrm.system.calls as calls

MAX_MAP_COUNT = pathlib.Path("/proc/sys/vm/max_map_count")

_LIMITED = """
import resource
from pathlib import Path
limit = Path("/proc/sys/vm/max_map_count")
"""


@contextlib.contextmanager
def many_mappings(leave):
    """Use up the process's mappings but for about ``leave`` of them."""
    free = int(MAX_MAP_COUNT.read_text()) - mapping_count() - leave
    pages = free + 2  # a page with access in between makes two more
    base = calls.system_call("mmap", 0, pages * 4096, 0, 0x4022, -1, 0)  # PRIVATE, ANONYMOUS, NORESERVE
    try:
        for page in range(1, free, 2):
            calls.system_call("mprotect", base + page * 4096, 4096, 1)
        yield
    finally:
        calls.system_call("munmap", base, pages * 4096)


needs_default_limit = pytest.mark.skipif(
    int(MAX_MAP_COUNT.read_text()) > 200_000,
    reason="vm.max_map_count is so high that using it up takes too long",
)


@needs_default_limit
def test_more_mappings_than_the_kernel_allows_are_refused_beforehand(pool):
    """Once the budget that was read at the last look is used up, a commit looks again."""
    with pool.reserve(2048) as r, pool.reserve(4096) as other:
        frames = list(pool.take_run(16))
        stamp_all(pool)
        commit(r, "map", range(0, 32, 2), frames)
        before = table(r)
        batch = r.batch()
        batch.map(range(40, 40 + 1024, 2), frames * 32)
        with many_mappings(leave=1000):
            filling = other.batch()
            for first in range(0, 4096, 16):  # 16 mappings a commit, until it is refused
                filling.map(range(first, first + 16, 2), frames[::2])
                try:
                    filling.commit()
                except (mrm.AddressSpaceError, mrm.SystemCallError) as error:
                    assert "vm.max_map_count" in str(error)
                    break
            else:
                raise AssertionError("no commit was refused")
            filling.abort()
            check_contents(other)
            with calls.Script() as script, pytest.raises(mrm.AddressSpaceError, match="vm.max_map_count"):
                batch.commit()
            assert {name for name, _, _ in script.calls()} <= {"openat", "pread", "close"}, (
                "nothing was tried"
            )
            assert table(r) == before
            check_contents(r)
        batch.commit()  # there is room again
        check_contents(r)
        assert len(shown(r)) == 16 + 512
        batch.abort()


@needs_default_limit
def test_at_the_limit_what_makes_room_is_not_refused_for_want_of_it(pool):
    with pool.reserve(8192) as r:
        frames = pool.take_run(4)
        commit(r, "map", range(4), frames)
        with many_mappings(leave=120):
            # Refused beforehand, or by the kernel where the budget was read long ago: known after that.
            with pytest.raises((mrm.AddressSpaceError, mrm.SystemCallError)):
                commit(r, "alias", [0] * 4000, range(10, 8010, 2))
            commit(r, "unmap", range(4))
            pool.give(frames, reuse="after_retire")
            r.retire()
            assert pool.audit().strict == 0


@needs_default_limit
def test_at_the_limit_what_is_there_can_be_closed(pool):
    view, r = pool.open_view(), pool.reserve(64)
    commit(r, "map", range(0, 32, 2), pool.take(16))
    with many_mappings(leave=2):
        with contextlib.suppress(mrm.Error):
            commit(r, "unmap", range(0, 32, 4))
        check_contents(r)
        r.close()
        view.close()
    pool.audit()


def test_a_batch_that_is_too_fragmented_is_refused():
    """Every second slot of so many would be a mapping of its own."""
    limit = int(MAX_MAP_COUNT.read_text())
    slots = 2 * limit
    with mrm.Pool(FRAME, huge="off") as pool, pool.reserve(slots) as r:
        frame = pool.take()
        before = pool.stats()
        with (
            calls.Script(kinds=["mmap"]) as script,
            pytest.raises(mrm.AddressSpaceError, match="vm.max_map_count") as caught,
        ):
            commit(r, "map", range(0, slots, 2), [frame] * (slots // 2))
        assert script.counted == 0
        assert str(limit) in str(caught.value)
        assert pool.stats() == before
        assert r[0] is None


def test_a_commit_counts_the_mappings_that_the_kernel_has(pool):
    """What the plan says a batch adds is no less than what the kernel then counts."""
    with pool.reserve(64) as r:
        frames = list(pool.take_run(16))
        for change in (
            ("map", range(0, 32, 2), frames), ("unmap", range(0, 32, 4)), ("move", [2, 6], [40, 50]),
            ("protect", [10, 14], "r"),
        ):  # fmt: skip
            commit(r, *change)
            check_contents(r)


def test_a_process_without_addresses_is_told(huge):
    ending = in_child(
        _LIMITED
        + """
pool = mrm.Pool(2 * FRAME, huge=huge, views=3)
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 512 * MIB, resource.RLIM_INFINITY))
for attempt in (lambda: pool.reserve(1024), lambda: mrm.Pool(2 * FRAME, huge=huge, views=3)):
    try:
        attempt()
    except (mrm.AddressSpaceError, mrm.FundingError) as error:
        say("RLIMIT_AS" in str(error))
r = pool.reserve(8)
fill(r, [0, 2])
check_contents(r)
commit(r, "move", [0, 2], [1, 3])
check_contents(r)
view = pool.open_view()
view.close(); r.close()
pool.audit()
pool.close()
say("usable")
""",
        huge,
    )
    assert (ending.out, ending.code) == ("True\nTrue\nusable\n", 0), ending


def test_an_address_limit_makes_for_fewer_views(huge):
    ending = in_child(
        _LIMITED
        + """
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 20 * 1024 * MIB, resource.RLIM_INFINITY))
with mrm.Pool(2 * FRAME, huge=huge) as pool:
    count = pool.layout["view_count"]
    say(4 <= count <= 16)
    views = [pool.open_view() for _ in range(count - 1)]
    for view in views:
        poke(view.address(1))
        view.close()
say("usable")
""",
        huge,
    )
    assert (ending.out, ending.code) == ("True\nusable\n", 0), ending


def test_all_frames_are_used_and_one_is_enough_to_compact(pool):
    """Hand over hand: with one spare frame every other one can be moved."""
    frames = list(pool.take(16))
    spare = frames.pop()
    stamp_all(pool)
    with pool.reserve(64) as r:
        commit(r, "map", range(15), frames)
        with pytest.raises(mrm.OutOfFrames):
            pool.take()
        for slot in range(15):
            old = r[slot]
            pool.copy_frame(spare, old)
            with r.batch() as batch:
                batch.unmap(slot, deferred=True)
                batch.map(20 + slot, spare)
            pool.give(old)
            spare = pool.take()
            assert spare == old
        r.retire()
        check_contents(r)
        assert len(shown(r)) == 15
    pool.give([*(f for f in range(16) if pool.state_of(f) == "held")])
