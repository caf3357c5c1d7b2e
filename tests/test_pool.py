"""Pools: sizes, backings, frames, contents, figures, and all the ways they end."""

import dataclasses
import gc
import json
import pathlib
import re
import warnings
import weakref

import pytest
from helpers import FRAME, ROOT, in_child, open_files, stamp, stamp_all, stamp_at

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


# ---- frames --------------------------------------------------------------------------


def test_take_gives_an_int_or_an_array(pool):
    assert type(pool.take()) is int
    some = pool.take(3)
    assert some.typecode == "I"
    assert len(set(some)) == 3
    assert len(pool.take(0)) == 0


def test_a_run_goes_on(pool):
    pool.take()
    run = pool.take_run(5)
    assert run == range(run[0], run[0] + 5)
    assert pool.take_run(0) == range(0)


@pytest.mark.parametrize("n", [-1, 1.0, "3", True, 2**32, 2**70, [1]], ids=repr)
def test_a_number_of_frames_that_is_none_is_refused(pool, n):
    for take in (pool.take, pool.take_run):
        with pytest.raises(mrm.ArgumentError):
            take(n)


def test_an_exhausted_pool_gives_nothing(pool):
    with pytest.raises(mrm.OutOfFrames):
        pool.take(17)
    held = pool.take(15)
    for take in (lambda: pool.take(2), lambda: pool.take_run(2), lambda: pool.take(2**32 - 1)):
        with pytest.raises(mrm.OutOfFrames):
            take()
    held.append(pool.take())
    with pytest.raises(mrm.OutOfFrames):
        pool.take()
    assert pool.stats().held == 16
    pool.give(held)
    assert pool.stats().ready == 16


def test_frames_that_cannot_be_given_are_all_kept(pool):
    held = pool.take(4)
    free = next(f for f in range(16) if f not in held)
    for wrong in ([held[0], held[0]], [held[0], free], [held[0], 16], [held[0], 2**32 - 1]):
        with pytest.raises(mrm.FrameError):
            pool.give(wrong)
        assert pool.stats().held == 4
    for wrong in (free, 16):
        with pytest.raises(mrm.FrameError):
            pool.give(wrong)
    pool.give(held)
    with pytest.raises(mrm.FrameError):
        pool.give(held[0])


def test_reuse_is_one_of_two(pool):
    frame = pool.take()
    with pytest.raises(mrm.ArgumentError, match="after_retire"):
        pool.give(frame, reuse="later")
    pool.give(frame)


@pytest.mark.parametrize("frame", [16, -1, 2**32, 2**70], ids=repr)
def test_a_frame_that_is_none_is_refused_everywhere(pool, frame):
    for use in (pool.address, pool.state_of, pool.mappings, pool.page_size_of, pool.__getitem__, pool.window.address,
                lambda f: pool.copy_frame(f, 0)):  # fmt: skip
        with pytest.raises(mrm.FrameError):
            use(frame)


# ---- contents ------------------------------------------------------------------------


def test_the_window_shows_every_frame(pool):
    window = pool.window
    assert len(window) == 16
    assert window.number == 0
    for frame in range(16):
        assert window.address(frame) == pool.address(frame) == window.base + frame * FRAME
        assert window.frame_of(pool.address(frame) + FRAME - 1) == frame
    for outside in (window.base - 1, window.base + 16 * FRAME, 0, 2**64 - 1, -1, 2**64):
        with pytest.raises(mrm.FrameError):
            window.frame_of(outside)


def test_a_frame_is_a_writable_buffer(pool):
    frame = pool.take()
    with pool[frame] as buffer:
        assert (len(buffer), buffer.readonly, buffer.format) == (FRAME, False, "B")
        buffer[:5] = b"hello"
        buffer[-1] = 7
    with pool.window[frame] as again:
        assert bytes(again[:5]) == b"hello"
        assert again[FRAME - 1] == 7


def test_fresh_frames_are_zero(pool):
    assert not any(bytes(pool[frame][::4096]).strip(b"\0") for frame in range(16))


def test_zero_clears_all_of_a_frame_and_no_other(pool):
    frames = pool.take(4)
    stamp_all(pool)
    pool.zero(frames[1:3])
    assert [stamp_at(pool.address(f)) == 0 for f in frames] == [False, True, True, False]
    pool.zero(frames[0])
    assert bytes(pool[frames[0]]) == bytes(FRAME)


def test_copy_frame_copies_from_the_second_to_the_first(pool):
    target, source = pool.take(2)
    stamp_all(pool)
    expected = stamp_at(pool.address(source))
    pool.copy_frame(target, source)
    pool.copy_frame(source, source)
    assert stamp_at(pool.address(target)) == stamp_at(pool.address(source)) == expected


def test_contents_of_free_frames_are_left_alone(pool):
    held = pool.take()
    free = (held + 1) % 16
    stamp_all(pool)
    for change in (
        lambda: pool.zero(free), lambda: pool.zero([held, free]), lambda: pool.zero(16),
        lambda: pool.copy_frame(free, held), lambda: pool.copy_frame(held, free),
    ):  # fmt: skip
        with pytest.raises(mrm.FrameError):
            change()
    assert stamp_at(pool.address(held)) == 0x5EED << 32 | held
    assert stamp_at(pool.address(free)) == 0x5EED << 32 | free


# ---- figures -------------------------------------------------------------------------


def test_the_figures_are_the_c_structs_field_by_field(pool):
    header = (ROOT / "include/mrm/mrm.h").read_text()
    struct = re.search(r"typedef struct mrm_stats \{(.*?)\} mrm_stats;", header, re.DOTALL)[1]
    fields = re.findall(r"^\s*(uint32_t|uint64_t) (\w+);", struct, re.MULTILINE)
    assert fields[:2] == [("uint32_t", "size"), ("uint32_t", "version")]
    assert fields[2:] == [("uint64_t", field.name) for field in dataclasses.fields(mrm.PoolStats)]
    stats = pool.stats()
    assert json.loads(stats.to_json()) == stats.as_dict() == dataclasses.asdict(stats)


def test_the_place_is_the_c_structs_field_by_field():
    header = (ROOT / "include/mrm/mrm.h").read_text()
    struct = re.search(r"typedef struct mrm_place \{(.*?)\} mrm_place;", header, re.DOTALL)[1]
    assert re.findall(r"^\s*\w+ (\w+);", struct, re.MULTILINE) == [
        f.name for f in dataclasses.fields(mrm.Place)
    ]


def test_the_figures_follow_what_is_done(pool):
    def differences(before):
        after = pool.stats().as_dict()
        return {name: after[name] - value for name, value in before.as_dict().items() if after[name] != value}

    start = pool.stats()
    assert (start.frames, start.ready, start.free, start.nbytes) == (16, 16, 16, 16 * FRAME)
    frames = pool.take(3)
    assert differences(start) == {"ready": -3, "held": 3}
    with pool.reserve(8) as r, pool.open_view() as view:
        assert differences(start) == {
            "ready": -3,
            "held": 3,
            "reservations": 1,
            "views_open": 1,
            "views_opened": 1,
        }
        opened = pool.stats()
        with r.batch() as b:
            b.map([0, 1, 5], frames)
        assert differences(opened) == {"mapped": 3, "batches": 1, "system_calls": b.report.system_calls}
        with r.batch() as b:
            b.unmap([0, 1], deferred=True)
        pool.give(frames[0])
        mapped = pool.stats()
        assert (mapped.mapped, mapped.pending, mapped.released, mapped.held) == (1, 2, 1, 2)
        pool.give(frames[1], reuse="after_retire")
        assert pool.stats().strict == 1
        r.retire()
        retired = pool.stats()
        assert (retired.pending, retired.strict, retired.released, retired.held) == (0, 0, 0, 1)
        assert retired.epoch > mapped.epoch
        view.retire()
        assert (pool.stats().views_open, pool.stats().views_retired) == (0, 1)
    assert (pool.stats().views_retired, pool.stats().reservations) == (0, 0)


def test_the_audit_counts_what_was_funded(pool):
    pool.take(5)
    stats = pool.audit()
    assert stats.ready + stats.released + stats.strict + stats.held == stats.frames == 16


def test_mappings_names_all_that_shows_a_frame(pool):
    frame = pool.take()
    with pool.open_view() as view, pool.reserve(8) as r:
        with r.batch() as b:
            b.map(2, frame, "r")
        with r.batch() as b:
            b.alias(2, 4)
        with r.batch() as b:
            b.unmap(2, deferred=True)
        view_at, slots_at = view.address(frame), [r.address(2), r.address(4)]
        assert pool.mappings(frame) == [
            mrm.Mapping("window", 0, frame, pool.address(frame), "rw"),
            mrm.Mapping("view", view.number, frame, view_at, "rw"),
            mrm.Mapping("reservation", r.number, 2, slots_at[0], "r", True),
            mrm.Mapping("reservation", r.number, 4, slots_at[1], "r"),
        ]
    assert len(pool.mappings(frame)) == 1


# ---- number of views, dumps ------------------------------------------------------------


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


def test_a_pinned_frame_is_not_given(pool):
    frames = pool.take(3)
    buffer = pool[frames[1]]
    part = buffer[8:16]
    buffer.release()
    for wanted in (frames, frames[1]):
        with pytest.raises(mrm.PinnedError):
            pool.give(wanted)
    assert isinstance(mrm.PinnedError("x"), BufferError)
    assert pool.stats().held == 3
    part.release()
    pool.give(frames)


def test_a_pin_by_numpy_is_a_pin(pool):
    numpy = pytest.importorskip("numpy")
    frame = pool.take()
    values = numpy.frombuffer(pool[frame], dtype=numpy.uint64)
    values[:] = 3
    with pytest.raises(mrm.PinnedError):
        pool.give(frame)
    assert int(values.sum()) == 3 * FRAME // 8
    del values
    pool.give(frame)


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
