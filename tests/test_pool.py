"""Pools: sizes, options, backings, views, dumps, and all the ways they end."""

import gc
import pathlib
import re
import warnings
import weakref

import pytest
from helpers import FRAME, in_child, open_files, stamp, stamp_all, stamp_at

import mrm

# ---- sizes and options ---------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [0, -1, -FRAME, 2**63, 2**64, 2**100, 2**62, "0", "-2MiB", "", "two", "2XiB", "1e3", "4EiB", "9000000TiB",
     1.5, None, True, b"2MiB", [FRAME]],
    ids=repr,
)  # fmt: skip
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(mrm.ArgumentError):
        mrm.Pool(size, huge="off")


@pytest.mark.parametrize(
    ("size", "frames"),
    [
        (1, 1),
        (FRAME, 1),
        (FRAME + 1, 2),
        ("2MiB", 1),
        ("3 MiB", 2),
        ("4M", 2),
        ("4mb", 2),
        ("0.5MiB", 1),
        ("8192K", 4),
    ],
)
def test_a_size_is_rounded_up_to_whole_frames(size, frames):
    with mrm.Pool(size, huge="off") as pool:
        assert len(pool) == frames
        assert pool.size == frames * FRAME == frames * pool.frame_size


def test_a_size_may_be_anything_with_an_index():
    numpy = pytest.importorskip("numpy")
    with mrm.Pool(numpy.int64(FRAME), huge="off") as pool:
        assert len(pool) == 1


@pytest.mark.parametrize(
    "option",
    [
        {"huge": "yes"}, {"huge": None}, {"views": 0}, {"views": -1}, {"views": 2**20}, {"views": True},
        {"views": 1.5}, {"threads": 0}, {"threads": 10**6}, {"numa_node": 10**6}, {"numa_node": -1},
        {"name": "a\0b"}, {"name": "n" * 300}, {"path": "/dev/shm", "huge": "off"},
    ],
    ids=repr,
)  # fmt: skip
def test_an_option_that_is_none_is_refused(option):
    with pytest.raises(mrm.ArgumentError):
        mrm.Pool(FRAME, **{"huge": "off", **option})


def test_a_pool_is_opened_once(pool):
    with pytest.raises(mrm.Error, match="once"):
        pool.__init__(FRAME)


def test_a_pool_that_was_not_opened_is_closed():
    pool = mrm.Pool.__new__(mrm.Pool)
    with pytest.raises(mrm.ClosedError):
        pool.take()


# ---- backings ------------------------------------------------------------------------


def test_the_backing_is_what_was_asked_for(pool, huge):
    assert pool.backing == {"require": "hugetlb", "off": "small"}[huge]
    assert pool.frame_size == FRAME


def test_the_page_size_is_proven(pool, huge):
    assert pool.page_size_of(3) == {"require": FRAME, "off": 4096}[huge]


def test_more_huge_pages_than_there_are_say_the_way_out():
    before = open_files()
    with pytest.raises(mrm.FundingError) as caught:
        mrm.Pool("6TiB", huge="require")
    assert "mrm fund" in str(caught.value) or "nr_hugepages" in str(caught.value)
    assert re.search(r"\d", str(caught.value))
    assert open_files() == before


def test_without_huge_pages_the_fallback_is_said_once(monkeypatch):
    import mrm.physical.funding as funding

    get = funding._get

    def refuse_huge(order, backing):
        if backing == funding.HUGETLB:
            raise mrm.FundingError("HugePages_Free is 0.")
        return get(order, backing)

    monkeypatch.setattr(funding, "_get", refuse_huge)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pool = mrm.Pool(2 * FRAME)
    with pool:
        assert [w.category for w in caught] == [mrm.BackingWarning]
        assert caught[0].filename == __file__, "the warning names the line that opened the pool"
        assert "HugePages_Free is 0." in str(caught[0].message)
        assert pool.backing in ("thp", "small")
    with pytest.raises(mrm.BackingWarning):  # as an error, it leaves no pool behind
        mrm.Pool(2 * FRAME)


def test_the_name_is_seen_in_the_maps(huge):
    with mrm.Pool(FRAME, huge=huge, name="shown-here") as pool:
        assert pool.name == "shown-here"
        assert "shown-here" in repr(pool)
        assert "memfd:shown-here" in pathlib.Path("/proc/self/maps").read_text()


# ---- number of views, dumps ----------------------------------------------------------


@pytest.mark.parametrize("dump", [False, True])
@pytest.mark.parametrize("views", [1, 3, 4, 7])
def test_as_many_views_as_asked_for_can_be_open(huge, views, dump):
    with mrm.Pool(FRAME, huge=huge, views=views, dump=dump) as pool:
        opened = [pool.open_view() for _ in range(views)]
        stamp_all(pool)
        assert {stamp_at(view.address(0)) for view in opened} == {0x5EED << 32}
        for view in opened:
            view.close()


def test_more_views_than_there_are_addresses_are_refused():
    with pytest.raises(mrm.AddressSpaceError, match="views"):
        mrm.Pool(FRAME, huge="off", views=2**20 - 1)


def _flags_at(address):
    """VmFlags of the mapping that holds an address."""
    inside = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"nothing is mapped at {address:#x}")


@pytest.mark.parametrize("dump", [False, True])
def test_core_dumps_hold_each_frame_once_at_the_most(huge, dump):
    with mrm.Pool(4 * FRAME, huge=huge, dump=dump) as pool, pool.open_view() as view, pool.reserve(4) as r:
        with r.batch() as b:
            b.map(range(4), pool.take(4))
        assert ("dd" not in _flags_at(pool.address(0))) is dump
        for address in (view.address(0), r.address(0), r.address(3)):
            assert "dd" in _flags_at(address)
        for address in (pool.address(0), view.address(0), r.address(0)):
            assert "dc" in _flags_at(address), "not copied by fork"


# ---- the end -------------------------------------------------------------------------


def test_closing_gives_the_memory_back(huge):
    pool = mrm.Pool(2 * FRAME, huge=huge)
    address = pool.address(0)
    pool.close()
    pool.close()
    assert pool.closed
    assert repr(pool) == "<mrm.Pool closed>"
    assert mrm.classify(address).kind == "nothing"


def test_a_closed_pool_is_used_no_more():
    pool = mrm.Pool(FRAME, huge="off")
    pool.close()
    uses = [
        lambda: pool.backing, lambda: pool.frame_size, lambda: pool.size, lambda: len(pool), lambda: pool.number,
        lambda: pool.epoch, lambda: pool.layout, lambda: pool.window, pool.take, lambda: pool.take(2),
        lambda: pool.take_run(1), lambda: pool.give(0), lambda: pool.give([0]), lambda: pool.state_of(0),
        lambda: pool.address(0), lambda: pool[0], lambda: pool.zero(0), lambda: pool.copy_frame(0, 0),
        pool.open_view, lambda: pool.reserve(1), pool.retire, lambda: pool.mappings(0), pool.stats, pool.audit,
        lambda: pool.page_size_of(0), pool.__enter__, lambda: pool._c_pool,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(mrm.ClosedError):
            use()


def test_a_leaked_pool_warns():
    pool = mrm.Pool(FRAME, huge="off", name="forgotten")
    with pytest.warns(ResourceWarning, match="forgotten"):
        del pool
        gc.collect()


def test_buffers_keep_the_memory(pool):
    frame = pool.take()
    buffer = pool[frame]
    buffer[:4] = b"kept"
    pool.close()
    assert bytes(buffer[:4]) == b"kept"


def test_views_and_reservations_keep_the_memory(pool):
    frame = pool.take()
    view, r = pool.open_view(), pool.reserve(1)
    with r.batch() as b:
        b.map(0, frame)
    pool.close()
    stamp(view.address(frame), 77)
    assert stamp_at(r.address(0)) == 77
    with r.batch() as b:
        b.protect(0, "r")
    view.retire()
    view.close()
    r.close()


def test_a_window_outlives_its_pool(huge):
    window = mrm.Pool(FRAME, huge=huge).window
    # The window holds the pool object, too, so that nothing was leaked yet.
    stamp(window.address(0), 5)
    assert stamp_at(window.base) == 5
    with pytest.warns(ResourceWarning):
        del window
        gc.collect()


def test_a_reference_cycle_is_collected(huge):
    class Holder:
        pass

    holder = Holder()
    holder.pool = mrm.Pool(FRAME, huge=huge)
    holder.buffer = holder.pool[holder.pool.take()]
    holder.window = holder.pool.window
    holder.itself = holder
    gone = weakref.ref(holder)
    with pytest.warns(ResourceWarning):
        del holder
        gc.collect()
    assert gone() is None


def test_an_error_in_the_block_closes_the_pool():
    with pytest.raises(KeyError), mrm.Pool(FRAME, huge="off") as pool:
        raise KeyError
    assert pool.closed


def test_what_progress_raises_leaves_nothing(huge):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mrm.Pool(4 * FRAME, huge=huge, progress=stop)


def test_a_touch_beyond_the_last_frame_traps(huge):
    ending = in_child(
        """
        pool = mrm.Pool(2 * FRAME, huge=huge)
        last = pool.address(1) + FRAME - 1
        poke(last)
        say(peek(last))
        poke(last + 1)
        say("reached")
        """,
        huge,
    )
    assert ending.out == "1\n", ending
    assert ending.signal in (7, 11), ending  # SIGBUS or SIGSEGV


def test_an_address_stays_a_trap_after_the_pools_end(huge):
    ending = in_child(
        """
        with mrm.Pool(2 * FRAME, huge=huge) as pool:
            address = pool.address(0)
            poke(address)
        say("closed")
        peek(address)
        """,
        huge,
    )
    assert (ending.out, ending.signal) == ("closed\n", 11), ending
