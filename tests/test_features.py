"""Features of the kernel: what is tried, what it leaves, and the ways of kernels that lack one."""

import ctypes
import os
import threading

import facts
import pytest
from helpers import (
    FRAME,
    MIB,
    after_fork,
    check_contents,
    commit,
    counts_of,
    fill,
    in_child,
    notes_of,
    open_files,
    own_mappings,
    shown,
    stamp_all,
    stamp_at,
    steps_of,
)

import mrm
import mrm.system.calls as calls
from mrm.physical import funding
from mrm.sizes import format_size
from mrm.system import features as table
from mrm.system import pages

# ---- the table -------------------------------------------------------------------------


def test_every_feature_is_told_in_full():
    told = mrm.features()
    assert [feature.name for feature in told] == list(table.NAMES)
    assert told == mrm.features()
    for feature in told:
        assert feature.present in (True, False, None)
        assert feature.since and feature.instead and feature.cost
    assert {feature.name for feature in told if feature.present is False} == set(table.missing_features())


def test_what_every_kernel_from_5_10_on_has_is_there():
    mrm.features()
    told = table.found_by_trial()
    assert told["MAP_FIXED_NOREPLACE"] is True
    assert told["memory_hugetlb_accounting"] in (True, False)


def test_what_one_pool_has_shown_is_known(needs_huge):
    """By now a pool of huge pages was open."""
    told = {feature.name: feature.present for feature in mrm.features()}
    for name in ("hugetlb mremap", "hugetlb MADV_DONTNEED", "shared page tables", "MADV_POPULATE_WRITE"):
        assert told[name] in (True, False), name


# ---- trials ----------------------------------------------------------------------------


def test_trials_leave_nothing_and_are_made_once(needs_huge):
    ending = in_child(
        """
        import mrm.system.calls as calls
        from mrm.physical.limits import huge_pages
        with calls.Script():
            pass                  # its records are there
        files, free = open_files(), huge_pages().free
        def anonymous():
            lines = open("/proc/self/maps").read().splitlines()
            return {tuple(line.split()[:2]) for line in lines if line.split()[4] == "0" and "[" not in line}
        maps = anonymous()
        with calls.Script() as script:
            mrm.features()
        new = anonymous() - maps
        say(open_files() == files and huge_pages().free == free)
        say(not [at for at, access in new if access != "rw-p"])     # those are the interpreter's
        say({"madvise", "mremap", "userfaultfd"} <= {name for name, _, _ in script.calls()})
        with calls.Script() as script:
            mrm.features()
        # What is known is not tried again; what cannot be known without a pool costs no call.
        say([name for name, _, _ in script.calls() if name not in ("perf_event_open", "ioctl")])
        """
    )
    assert ending.out == "True\nTrue\nTrue\n[]\n", ending


def test_a_pool_tries_what_it_uses_and_takes_no_page_for_it(needs_huge):
    ending = in_child(
        """
        from mrm.physical.limits import huge_pages
        from mrm.system import features as table
        free = huge_pages().free
        say([name for name, there in table.answers().items() if there is not None])
        with mrm.Pool(4 * FRAME, huge="require") as pool:
            say(free - huge_pages().free)
            stamp_all(pool)
            names = ["hugetlb mremap", "MADV_POPULATE_WRITE", "hugetlb MADV_DONTNEED", "shared page tables"]
            say([table.answers()[name] is not None for name in names])
            say([mrm.classify(pool.address(0) + n * (1 << pool.layout["stride_shift"])).state
                 for n in (0, 1, pool.layout["view_count"] - 1)])
            say(pool.audit().ready)
            # The addresses of the trial trap again.
            last = pool.address(0) + (pool.layout["view_count"] - 1) * (1 << pool.layout["stride_shift"])
            peek(last)
        """,
        "require",
    )
    assert ending.out == "[]\n4\n[True, True, True, True]\n['open', 'unused', 'unused']\n4\n", ending
    assert ending.signal == 11


def test_refused_trials_leave_features_unknown_or_missing_and_pools_usable(needs_huge):
    """Every call of the first pool's trials fails in turn."""
    ending = in_child(
        """
        import os
        import mrm.system.calls as calls
        from mrm.system import features as table
        def known():
            with mrm.Pool(4 * FRAME, huge="require"):
                return table.missing_features()
        missing = set(after_fork(known))    # in a child: this process tries nothing
        def attempt(turn):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                word = "?"
                with calls.Script(fail=turn, error=1, kinds=["madvise", "mremap", "mincore"]) as script:
                    try:
                        pool = mrm.Pool(4 * FRAME, huge="require")
                    except mrm.Error:
                        pool = None
                if pool is not None:
                    stamp_all(pool)
                    with pool.open_view() as view, pool.reserve(32) as r:
                        assert stamp_at(view.address(3)) == stamp_at(pool.address(3))
                        commit(r, "map", range(4), pool.take_run(4))
                        commit(r, "move", range(4), range(10, 14))
                        commit(r, "unmap", [10, 12])
                        check_contents(r)
                    pool.audit()
                    pool.close()
                    # Not permitted is no answer: what was missing before is what is missing now.
                    word = "good" if set(table.missing_features()) <= missing else "bad"
                else:
                    word = "refused"
                last = script.counted < turn
                os.write(writing, (word + (" last" if last else "")).encode())
                os._exit(0)
            os.close(writing)
            said = os.read(reading, 100).decode()
            os.close(reading)
            os.waitpid(child, 0)
            return said
        words = []
        for turn in range(1, 40):
            words.append(attempt(turn))
            if words[-1].endswith("last"):
                break
        say(words[-1])
        say(set(words[:-1]) <= {"good", "refused"})
        say("good" in words)
        """,
        "require",
    )
    assert ending.out == "good last\nTrue\nTrue\n", ending


def test_nothing_is_learned_from_the_fake():
    ending = in_child(
        """
        import mrm.system.calls as calls
        from mrm.system import features as table
        with calls.Script(fake=True):
            with mrm.Pool(4 * FRAME, huge="require") as pool:
                pass
            table.try_all()
        say([name for name, there in table.answers().items() if there is not None])
        """
    )
    assert ending.out == "[]\n", ending


def test_threads_that_ask_at_once_hear_the_same():
    ending = in_child(
        """
        import threading
        barrier, told = threading.Barrier(4), []
        def ask():
            barrier.wait()
            told.append(mrm.features())
        threads = [threading.Thread(target=ask) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        say(len(told) == 4 and len(set(told)) == 1)
        """
    )
    assert ending.out == "True\n", ending


def test_a_child_knows_what_its_parent_knew():
    told = mrm.features()
    assert after_fork(lambda: mrm.features() == told) is True


def test_without_descriptors_what_needs_one_is_unknown():
    ending = in_child(
        """
        import resource
        from mrm.system import features as table
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        table.try_all()
        told = table.answers()
        say([told[name] for name in ("hugetlb memfd", "hugetlb mremap", "userfaultfd")])
        say(told["MAP_FIXED_NOREPLACE"])
        """
    )
    assert ending.out == "[None, None, None]\nTrue\n", ending


# ---- shared page tables ------------------------------------------------------------------


def test_page_tables_that_are_not_shared_are_seen(needs_huge):
    """Mappings with different advice share none, on any kernel; and show the same all the same."""
    with mrm.Pool(16 * FRAME, huge="require") as pool, pool.open_view() as odd, pool.open_view() as usual:
        stamp_all(pool)
        calls.system_call("madvise", odd.base, pages.page_table_span(), 17)  # MADV_DODUMP
        assert odd._shares_page_tables() is False
        assert usual._shares_page_tables() is facts.shares_page_tables()
        assert [stamp_at(odd.address(f)) for f in range(16)] == [stamp_at(pool.address(f)) for f in range(16)]
        odd.retire()


def test_a_pool_of_one_frame_or_of_small_pages_cannot_tell(huge):
    with mrm.Pool(FRAME, huge=huge) as pool, pool.open_view() as view:
        assert view._shares_page_tables() is None
    with mrm.Pool(4 * FRAME, huge="off") as pool, pool.open_view() as view:
        assert view._shares_page_tables() is None


# ---- the ways without ----------------------------------------------------------------------


def test_the_way_without_mremap(pool, reservation, features, huge):
    features("hugetlb mremap")
    frames = list(pool.take_run(8))
    commit(reservation, "map", range(8), frames)
    stamp_all(pool)
    with reservation.batch() as batch:
        batch.move(range(8), range(20, 28))
        text = batch.explain()
    steps, system_calls, shootdowns = facts.lone_move(huge)
    assert steps_of(text) == steps
    assert counts_of(text) == (system_calls, shootdowns)
    lacks = "hugetlb mremap is missing here: runs are mapped anew and their sources sealed"
    assert notes_of(text) == ([lacks] if huge == "require" else [])
    assert batch.report.system_calls == system_calls
    assert shown(reservation) == {slot + 20: frame for slot, frame in enumerate(frames)}
    check_contents(reservation)
    assert pool.audit().held == 8


def test_the_way_without_populate(pool, reservation, features):
    features("MADV_POPULATE_WRITE")
    frames = list(pool.take_run(4))[::-1]
    stamp_all(pool)
    with reservation.batch() as batch:
        batch.map(range(4), frames)
        text = batch.explain()
        with calls.Script() as script:
            batch.commit()
    assert steps_of(text) == ["map"] * 4 + ["advise"]
    assert text.count(", populated") == 4
    lacks = "MADV_POPULATE_WRITE is missing here: each mapping is populated by its own mmap"
    assert [note.partition(",")[0] for note in notes_of(text)] == [lacks]
    assert all(
        arguments[3] & 0x8000 for name, arguments, _ in script.calls() if name == "mmap"
    )  # MAP_POPULATE
    check_contents(reservation)
    assert pool.audit().held == 4


def test_the_way_without_zap(pool, reservation, features, huge):
    features("hugetlb MADV_DONTNEED")
    commit(reservation, "map", range(12), pool.take_run(12))
    stamp_all(pool)
    with reservation.batch() as batch:
        batch.unmap([1, 3, 5])
        text = batch.explain()
    assert steps_of(text) == ["seal"] * 3
    assert counts_of(text) == (3, 3)
    lacks = "hugetlb MADV_DONTNEED is missing here: scattered slots of one mapping are unmapped run by run"
    assert notes_of(text) == ([lacks] if huge == "require" else [])
    assert batch.report.shootdowns == 3
    check_contents(reservation)
    assert pool.audit().mapped == 9


def test_zap_without_populate_puts_survivors_back_by_their_next_touch(pool, reservation, features):
    features("MADV_POPULATE_WRITE")
    commit(reservation, "map", range(12), pool.take_run(12))
    stamp_all(pool)
    with reservation.batch() as batch:
        batch.unmap([1, 3, 5])
        assert "populate" not in steps_of(batch.explain())
    check_contents(reservation)


def test_a_plan_that_needs_no_feature_speaks_of_none(pool, reservation, features):
    features(*table.NAMES)
    fill(reservation, [0])
    with reservation.batch() as batch:
        batch.unmap(0)
        assert notes_of(batch.explain()) == []


def test_the_window_is_filled_by_touching(needs_huge, features):
    features("MADV_POPULATE_WRITE")
    with mrm.Pool(32 * FRAME, huge="require") as pool:
        present = (ctypes.c_uint8 * 1)()
        for frame in range(32):
            calls.system_call("mincore", pool.address(frame), 1, ctypes.addressof(present))
            assert present[0] & 1
        stamp_all(pool)  # it may be written
        assert pool.audit().ready == 32


@pytest.mark.parametrize(("asked", "size"), [(3, 512 * MIB), (3, 128 * MIB), (1, 512 * MIB)])
def test_a_description_says_how_many_threads_funded(features, asked, size):
    """On the fake, which clears nothing: as many as asked for, as far as there is work for them."""
    with calls.Script(fake=True, record=False):
        by = funding.fund(size, huge="require", threads=asked).description.rpartition(" by ")[2]
    expected = facts.funding_threads("require", min(asked, size // (64 * MIB)))
    assert by == ("1 thread)" if expected == 1 else f"{expected} threads)")


def test_one_thread_funds_where_pages_cannot_be_populated(needs_huge, features):
    features("MADV_POPULATE_WRITE")
    with calls.Script() as script:
        got = funding.fund(16 * FRAME, huge="require", threads=3)
    os.close(got.fd)
    assert "by 1 thread)" in got.description
    assert not [
        arguments for name, arguments, _ in script.calls() if name == "madvise" and arguments[2] == 23
    ]
    assert "fallocate" in [name for name, _, _ in script.calls()]


def test_unnamed_files_once_refused_are_not_asked_for_again(features):
    features("unnamed hugetlbfs files")
    assert table.is_missing("unnamed hugetlbfs files")
    assert {f.name: f.present for f in mrm.features()}["unnamed hugetlbfs files"] is False


def test_views_and_all_else_work_without_any_of_them(huge, features):
    features(*table.NAMES)
    with mrm.Pool(16 * FRAME, huge=huge) as pool:
        stamp_all(pool)
        with pool.open_view() as view, pool.reserve(64) as r:
            assert [stamp_at(view.address(f)) for f in range(16)] == [
                stamp_at(pool.address(f)) for f in range(16)
            ]
            frames = fill(r, range(8))
            commit(r, "move", range(8), range(30, 38))
            commit(r, "unmap", [31, 33], deferred=True)
            r.retire()
            check_contents(r)
            assert pool.audit().held == len(frames)
            pool.give([frames[1], frames[3]])
            view.retire()


# ---- what a pool says of itself ------------------------------------------------------------


def test_a_pool_describes_itself(pool, huge):
    size = {"require": FRAME, "off": pages.base_page_size()}[huge]
    kind = "huge pages" if huge == "require" else "pages"
    begin = f"{format_size(16 * FRAME)} of {kind} of {format_size(size)} (16 frames, funded in "
    assert pool.description.startswith(begin)
    assert ", in a memfd, on whichever NUMA nodes" in pool.description
    assert "Page tables are" in pool.description
    assert pool.description.endswith(".")


def test_a_description_names_the_node(huge):
    with mrm.Pool(FRAME, huge=huge, numa_node=0) as pool:
        assert "on NUMA node 0 (1 frames" in pool.description
        assert "whichever" not in pool.description


def test_a_description_says_each_lack_and_its_cost(needs_huge, features):
    lacking = ("hugetlb mremap", "MADV_POPULATE_WRITE", "hugetlb MADV_DONTNEED")
    features(*lacking)
    with mrm.Pool(4 * FRAME, huge="require") as pool:
        for row in table.TABLE:
            sentence = f"{row.name} is missing (Linux {row.since}): {row.instead}. Cost: {row.cost}"
            assert (sentence in pool.description) == (row.name in lacking)


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ((), f"Page tables are shared: a view costs a fault every {format_size(pages.page_table_span())}"),
        (("shared page tables",), "Page tables are not shared: a view has page tables of its own"),
    ],
    ids=["shared", "not shared"],
)
def test_a_description_says_what_a_view_costs(needs_huge, features, lacking, said):
    if not lacking and not facts.has(facts.SHARING):
        said = "Page tables are not shared"
    features(*lacking)
    with mrm.Pool(4 * FRAME, huge="require") as pool:
        assert said in pool.description


def test_a_closed_pool_describes_nothing(huge):
    pool = mrm.Pool(FRAME, huge=huge)
    pool.close()
    with pytest.raises(mrm.ClosedError):
        pool.description  # noqa: B018


def test_c_reads_the_same_description(pool):
    pytest.importorskip("cffi")
    from mrm.cffi import api, ffi

    handle = api.pool_from_object(ffi.cast("void *", id(pool)))
    assert ffi.string(api.pool_description(handle)).decode() == pool.description
    api.pool_release(handle)


def test_descriptions_are_read_by_threads(pool):
    told = []
    threads = [threading.Thread(target=lambda: told.append(pool.description)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(told) == {pool.description}


def test_the_process_keeps_no_trace_of_trials():
    files, mappings = open_files(), own_mappings()
    mrm.features()
    assert (open_files(), own_mappings()) == (files, mappings)
