"""A named file of a pool that may shrink and grow, opened again: what was inflated is, and what was kept is."""

import contextlib
import errno
import itertools
import os
import random
import time

import pytest
from helpers import FRAME, open_files, stamp, stamp_at, start
from keeping import FAILING, FRAMES, STAMPED, punch, state
from limited import needs_pages

import mrm
import mrm.system.calls as calls
from mrm.physical import holes
from mrm.physical.kept import pages_at

pytestmark = needs_pages(64)

MOST = 24  # frames that the pools may grow to


def needs_userfaultfd():
    """Skip the test where the kernel cannot be asked which frames have no page."""
    if mrm.system.features.is_missing("userfaultfd"):
        pytest.skip(
            "userfaultfd is refused here (a seccomp filter such as Docker's, or a kernel without it): "
            "run outside of the container"
        )


@pytest.fixture(params=["asked", "fetched"])
def way(request, features):
    """How the frames without a page are found: the kernel is asked, or each is fetched."""
    if request.param == "fetched":
        features("userfaultfd")
    else:
        needs_userfaultfd()
    return request.param


@pytest.fixture
def ballooned(heap):
    """A file of 24 frames of which 3, 7, 8 and those from 16 on have no page."""
    with mrm.Pool(16 * FRAME, path=heap, keep=True, maximum=MOST * FRAME) as pool:
        pool.give([3, 7, 8])
        assert pool.inflate(3 * FRAME).frames == 3
    assert (heap.stat().st_size, pages_at(str(heap))) == (MOST * FRAME, 13)
    return heap


def again(path, frames, most=MOST, **options):
    """The pool, opened again."""
    return mrm.Pool(frames * FRAME, path=path, keep=True, maximum=most * FRAME, **options)


def check(pool, path, *, kept, fetched):
    """A pool is as it was: these frames kept, these fetched, and the others in the balloon."""
    assert list(pool.kept) == list(kept)
    assert len(pool) == MOST
    stats = pool.audit()
    there = len(kept) + len(fetched)
    assert (stats.held, stats.ready, stats.inflated) == (len(kept), len(fetched), MOST - there)
    assert pool.size == there * FRAME == pages_at(str(path)) * FRAME
    assert [f for f in range(MOST) if pool.state_of(f) == "ready"] == list(fetched)
    assert [f for f in range(MOST) if pool.state_of(f) == "held"] == list(kept)
    assert [stamp_at(pool.address(f)) for f in kept] == [STAMPED[f] for f in kept]
    assert [stamp_at(pool.address(f)) for f in fetched] == [0] * len(fetched)
    assert pages_at(str(path)) == there  # looking at them has fetched nothing
    assert sum(fund.frames for fund in pool.funds.values()) == there


KEPT = [f for f in range(FRAMES) if f not in (3, 7, 8)]


# ---- as it was ------------------------------------------------------------------------


def test_what_was_inflated_is_still_inflated(ballooned, way):
    with again(ballooned, 13) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[])
        assert "13 kept as an earlier owner left them, 0 cleared" in pool.description
        assert "11 others of the file have no memory, and stay in the balloon" in pool.description
        assert ("found by fetching them" in pool.description) == (way == "fetched")
        with pool.open_view() as view:
            assert stamp_at(view.address(15)) == STAMPED[15]
        check(pool, ballooned, kept=KEPT, fetched=[])


def test_a_file_may_have_more_than_was_asked_for(ballooned, way):
    """A pool that had grown: nothing of it is lost."""
    with again(ballooned, 1) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[])


def test_size_is_the_least_that_it_has(ballooned, way):
    with again(ballooned, 15) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[3, 7])
        assert "13 kept as an earlier owner left them, 2 cleared" in pool.description
        assert list(pool.take(2)) == [3, 7]
        with pytest.raises(mrm.OutOfFrames):
            pool.take()


def test_with_the_same_words_as_before(ballooned, way):
    with again(ballooned, 16) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[3, 7, 8])
        pool.give(pool.kept)
        pool.inflate(16 * FRAME)
        assert pages_at(str(ballooned)) == 0
    with again(ballooned, 1) as pool:
        check(pool, ballooned, kept=[], fetched=[0])


def test_more_than_it_ever_had(ballooned, way):
    told = []
    with again(ballooned, 19, threads=2, progress=lambda done, total: told.append((done, total))) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[3, 7, 8, 16, 17, 18])
    assert told == sorted(told)
    assert told[-1] == (19 * FRAME, 19 * FRAME)


def test_all_of_it_is_fetched_where_nothing_may_be_inflated(ballooned):
    with mrm.Pool(MOST * FRAME, path=ballooned, keep=True) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[3, 7, 8, *range(16, MOST)])


def test_a_file_that_grows_by_this(heap, way):
    """It was another pool's, without a balloon."""
    punch(heap, 0, 1)
    with again(heap, 17) as pool:
        check(pool, heap, kept=range(2, 16), fetched=[0, 1, 16])
    punch(heap, 0, 1, 15, 16)
    with again(heap, 5) as pool:
        check(pool, heap, kept=range(2, 15), fetched=[])


def test_it_deflates_what_was_inflated_and_in_order(ballooned, way):
    with again(ballooned, 13) as pool:
        assert pool.deflate(4 * FRAME).frames == 4
        check(pool, ballooned, kept=KEPT, fetched=[3, 7, 8, 16])
        pool.take_run(2)
        pool.give([0, 7, 8])
        assert pool.resize(MOST * FRAME).frames == 7
        assert pool.audit().inflated == 0
        assert pages_at(str(ballooned)) == MOST


def test_the_balloon_keeps_what_was_kept(ballooned, way):
    """Only what is given goes, and a restart finds that gone."""
    with again(ballooned, 13) as pool:
        assert pool.inflate(FRAME).frames == 0
        pool.give([0, 1, 15])
        assert pool.inflate(9 * FRAME).frames == 3
        kept = [f for f in KEPT if f not in (0, 1, 15)]
    with again(ballooned, 1) as pool:
        check(pool, ballooned, kept=kept, fetched=[])


def test_a_file_does_not_shrink_unseen(ballooned):
    before = state(ballooned)
    with pytest.raises(
        mrm.ArgumentError, match=r"holds 48 MiB and 40 MiB were asked for: .*\(size, or a maximum\)"
    ):
        again(ballooned, 13, most=20)
    assert state(ballooned) == before


def test_any_file(mount, way):
    """Holes wherever they may be, and any size and maximum that fit: what has memory is what should have."""
    path, mine = mount / "any", random.Random(9)
    for turn in range(60):
        length = mine.randint(1, 16)
        with mrm.Pool(length * FRAME, path=path) as pool:
            for frame in range(length):
                stamp(pool.address(frame), 1 + frame)
        gone = sorted(mine.sample(range(length), mine.randint(0, length)))
        punch(path, *gone)
        most, size = mine.randint(length + 1, 18), mine.randint(1, length + 1)
        with again(path, size, most) as pool:
            kept = [f for f in range(length) if f not in gone]
            fetched = [*gone, *range(length, most)][: max(0, size - len(kept))]
            stats = pool.audit()
            assert (list(pool.kept), stats.inflated) == (kept, most - len(kept) - len(fetched)), (turn, gone)
            assert [f for f in range(most) if pool.state_of(f) == "ready"] == fetched
            assert [stamp_at(pool.address(f)) for f in kept] == [1 + f for f in kept]
            assert pages_at(str(path)) == len(kept) + len(fetched)
        path.unlink()


def test_on_a_node(ballooned, way):
    with again(ballooned, 14, numa_node=0) as pool:
        check(pool, ballooned, kept=KEPT, fetched=[3])
    with again(ballooned, 17, numa_node=0) as pool:
        assert pool.size == 17 * FRAME


# ---- who else is there ------------------------------------------------------------------


def test_attachments_stay_where_nothing_is_fetched(ballooned):
    needs_userfaultfd()
    with mrm.attach(ballooned) as attachment:
        with again(ballooned, 13) as pool:
            check(pool, ballooned, kept=KEPT, fetched=[])
            stamp(pool.address(5), 55)
            assert stamp_at(attachment.address(5)) == 55
            stamp(pool.address(5), STAMPED[5])
        before = state(ballooned)
        with pytest.raises(mrm.ArgumentError, match="attached to by a living process, and pages are missing"):
            again(ballooned, 14)
        assert state(ballooned) == before


def test_fetching_to_find_out_wants_no_attachments(ballooned, features):
    features("userfaultfd")
    with mrm.attach(ballooned), pytest.raises(mrm.ArgumentError, match="attached to by a living process"):
        again(ballooned, 13)
    again(ballooned, 13).close()


def test_who_touches_a_page_meanwhile_is_noticed(ballooned, monkeypatch):
    asked = holes.missing

    def late(fd, count):
        found = asked(fd, count)
        calls.system_call("fallocate", fd, 0, 20 * FRAME, FRAME)
        return found

    monkeypatch.setattr(holes, "missing", late)
    with again(ballooned, 13) as pool:  # it is asked for anew, by fetching
        assert list(pool.kept) == [*KEPT, 20]
        assert "is being touched" in pool.description
        pool.audit()


CYCLES = """
pool = mrm.Pool(13 * FRAME, path={path!r}, keep=True, maximum=24 * FRAME)
pool.give([f for f in pool.kept if f not in range(9, 16)])
say("busy")
while True:
    pool.deflate(mine.randrange(12) * FRAME, threads=1)
    pool.inflate(mine.randrange(12) * FRAME)
"""


def test_an_owner_killed_in_the_middle_of_its_balloon(ballooned):
    """What has a page is kept, what has none is inflated, and the sum is the kernel's."""
    rest = range(9, 16)
    for turn in range(4):
        with start(f"import random\nmine = random.Random({turn})" + CYCLES.format(path=str(ballooned))):
            time.sleep(0.05 * turn)
        with again(ballooned, 1) as pool:
            stats = pool.audit()
            assert stats.held == len(pool.kept) == pages_at(str(ballooned)) == MOST - stats.inflated
            assert [stamp_at(pool.address(f)) for f in rest] == [STAMPED[f] for f in rest]


# ---- failures -------------------------------------------------------------------------


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
@pytest.mark.parametrize("frames", [13, 15, 18])
def test_every_system_call_failing_in_turn_leaves_the_file_as_it_was(ballooned, way, frames, error):
    before = state(ballooned)
    for turn in itertools.count(1):
        files, opened = open_files(), None
        with calls.Script(fail=turn, error=error, kinds=FAILING) as script, contextlib.suppress(mrm.Error):
            opened = again(ballooned, frames)
        if opened:
            assert list(opened.kept) == KEPT, script.calls()
            assert opened.audit().inflated == MOST - frames
            opened.close()
            punch(ballooned, 3, 7, 8, *range(16, MOST))
        assert open_files() == files, script.calls()
        assert state(ballooned) == before, script.calls()
        if script.counted < turn:
            break
    assert turn > 20


def test_a_machine_without_a_page_to_spare_is_enough(ballooned, way):
    """Where all pages are taken, holes are told from contents all the same; and more is refused with the way out."""
    with mrm.Pool(19 * FRAME, path=ballooned.parent / "other"):
        before = state(ballooned)
        with again(ballooned, 13) as pool:
            check(pool, ballooned, kept=KEPT, fetched=[])
        with pytest.raises(
            mrm.FundingError, match="what is in the file, and no more, ask for a smaller size"
        ):
            again(ballooned, 14)
        assert state(ballooned) == before
    (ballooned.parent / "other").unlink()


def test_a_ctrl_c_in_the_middle_leaves_the_file_as_it_was(ballooned, way):
    before = state(ballooned)

    def strike(done, total):
        raise KeyboardInterrupt

    for frames in (15, 20):
        with pytest.raises(KeyboardInterrupt):
            again(ballooned, frames, progress=strike)
        assert state(ballooned) == before


def test_a_pool_that_cannot_be_opened_leaves_the_file_as_it_was(ballooned, way):
    before = state(ballooned)
    with pytest.raises(mrm.AddressSpaceError):
        again(ballooned, 20, views=2**20 - 1)
    assert state(ballooned) == before


# ---- what the kernel says -----------------------------------------------------------------


def test_asking_fetches_nothing(ballooned):
    fd = os.open(ballooned, os.O_RDWR)
    try:
        with calls.Script() as script:
            found = holes.missing(fd, MOST)
    except holes.NotTold as said:
        pytest.skip(str(said))
    finally:
        os.close(fd)
    assert list(found) == [3, 7, 8, *range(16, MOST)]
    assert pages_at(str(ballooned)) == 13
    assert [name for name, _, _ in script.calls()].count("rt_sigprocmask") == MOST


def test_asking_where_it_is_refused(ballooned):
    fd = os.open(ballooned, os.O_RDWR)
    files = open_files()
    for kind in ("userfaultfd", "ioctl"):
        with calls.Script(fail=1, error=errno.EPERM, kinds=[kind]), pytest.raises(holes.NotTold, match=kind):
            holes.missing(fd, MOST)
    assert open_files() == files
    os.close(fd)
