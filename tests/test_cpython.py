"""CPython's objects on huge pages: where they lie, what outlives what, and what is refused."""

import os
import pathlib
import sys
import sysconfig

import pytest
from helpers import python
from programs import needs_arenas, needs_thp, run

pytestmark = needs_arenas


# ---- where objects lie -----------------------------------------------------------------


@needs_thp
def test_objects_and_their_tables_lie_on_huge_pages():
    run(
        """
        with mrm.cpython.install(huge="require") as objects:
            made = make()
            stats, found = objects.stats(), objects.coverage()
            assert stats.arenas >= 20 and stats.small == stats.arenas * stats.arena_size
            assert stats.small <= stats.small_memory <= stats.small + 2 * FRAME
            assert stats.large_memory >= sys.getsizeof(made)
            assert (stats.elsewhere, stats.refused) == (0, 0)
            assert found.resident >= stats.small and found.share > 0.95, found
            assert mrm.coverage().of("mrm private").huge >= stats.small * 0.95
            assert "transparent huge pages" in objects.description
        assert good(made)
        """
    )


def test_small_pages_on_request():
    run(
        """
        objects = mrm.cpython.install(huge="off")
        made = make()
        assert objects.coverage().huge == 0 and objects.stats().large_memory == 0
        assert good(made) and "ordinary size" in objects.description
        """
    )


def test_arenas_that_outlive_are_good_and_come_back():
    run(
        """
        objects = mrm.cpython.install(keep=0)
        made = make()
        before = objects.stats()
        objects.uninstall()
        assert not objects.active and mrm.cpython.installed() is None
        more = make()
        after = objects.stats()
        assert (after.arenas, after.large_memory) == (before.arenas, before.large_memory), (before, after)
        assert good(made) and good(more)
        made[5] = (5, "5", [5.0])
        for i in range(200_000, 400_000):
            made[i] = (i, str(i), [float(i)])      # its table grows, and moves away
        assert good(made, 400_000)
        made.clear(); del made; gc.collect()
        assert objects.stats().arenas < before.arenas // 4
        assert good(more)
        again = mrm.cpython.install(keep=0)
        assert again.active and not objects.active
        objects.uninstall()                       # which ended already, and not this one
        assert again.active
        third = make()
        assert again.stats().arenas > before.arenas // 2 and good(third) and good(more)
        """
    )


def test_one_at_a_time():
    run(
        """
        with mrm.cpython.install() as objects:
            assert mrm.cpython.installed() is objects and "active" in repr(objects)
            try:
                mrm.cpython.install()
            except mrm.Error as error:
                assert "already" in str(error) and "uninstall" in str(error)
            else:
                say("allowed")
        assert "uninstalled" in repr(objects)
        with mrm.cpython.install(large=False) as objects:
            made = make()
            assert objects.stats().arenas > 20
        """
    )


def test_memory_goes_back_to_the_kernel():
    run(
        """
        objects = mrm.cpython.install(keep="8MiB")
        made = make()
        peak = objects.stats()
        del made; gc.collect()
        now = objects.stats()
        assert now.kept <= 16 << 20 and now.small_peak == peak.small
        assert objects.coverage().resident < peak.small_memory // 2
        given = objects.trim()
        assert given >= now.kept and objects.stats().kept == 0
        made = make()
        assert good(made)
        """
    )


def test_what_is_beyond_the_limit_comes_from_before():
    run(
        """
        objects = mrm.cpython.install(limit="8MiB")
        made = make()
        stats = objects.stats()
        assert stats.small_memory <= 8 << 20 and stats.large_memory <= 8 << 20 and stats.elsewhere > 10
        assert good(made)
        del made; gc.collect()
        assert good(make())
        """
    )


def test_where_writable_means_promised():
    """vm.overcommit_memory = 2: chunks lose their promise when they are closed."""
    run(
        """
        mrm.cpython.overcommit_memory = lambda: 2
        def promised():
            # What is writable, which is what is told.
            told = None
            while told != objects.stats().small_memory:     # to read takes memory, too
                told = objects.stats().small_memory
                maps = pathlib.Path("/proc/self/maps").read_text()
            base, nbytes = mrm._arenas.where(0)
            total = 0
            for line in maps.splitlines():
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if base <= start < base + nbytes and line.split()[1] == "rw-p":
                    total += end - start
            assert total == told, (total, told)
            return total
        objects = mrm.cpython.install(keep=0)
        made = make()
        before = promised()
        del made; gc.collect()
        assert promised() < 8 << 20 < before
        made = make()
        assert good(made) and promised() > 8 << 20
        """
    )


def test_random_sizes_in_all_threads():
    """Blocks of every size grow, shrink, and are freed by others than those who made them."""
    run(
        """
        objects = mrm.cpython.install(keep="4MiB")
        shelf, lock, errors = {}, threading.Lock(), []
        def work(seed):
            chance = random.Random(seed)
            try:
                for _ in range(4000):
                    key = chance.randrange(200)
                    with lock:
                        had = shelf.pop(key, None)
                    if had is not None:
                        fill, block = had
                        assert block == bytes([fill]) * len(block), (key, fill, len(block))
                    size = int(2 ** chance.uniform(0, 21))
                    block = bytearray([key % 256]) * size
                    block.extend(bytes([key % 256]) * chance.randrange(size))
                    del block[chance.randrange(len(block)) :]
                    with lock:
                        shelf[key] = key % 256, block
            except BaseException as error:
                errors.append(error)
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for half in range(2):
            if half:
                objects.uninstall()
                threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4, 8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            assert errors == [], errors
        assert all(block == bytes([fill]) * len(block) for fill, block in shelf.values())
        """
    )


def test_subinterpreters_come_and_go():
    pytest.importorskip("_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters")
    run(
        """
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            import _interpreters as interpreters
        objects = mrm.cpython.install()
        for _ in range(3):
            other = interpreters.create()
            interpreters.run_string(other, "made = {i: str(i) for i in range(50_000)}; assert made[77] == '77'")
            made = make(50_000)
            interpreters.destroy(other)
            assert good(made, 50_000)
        """
    )


# ---- calls that fail ---------------------------------------------------------------------


@pytest.mark.parametrize("call", ["mprotect", "madvise", "mremap"])
@pytest.mark.parametrize(("first", "times"), [(1, 1), (2, None), (5, 3)])
def test_a_call_fails(call, first, times):
    run(
        f"""
        objects = mrm.cpython.install(keep=0)
        with Script(fail={first}, times={times}, kinds=[{call!r}], record=False) as script:
            for _ in range(3):
                made, block = make(), bytearray(1)
                while len(block) < 64 << 20:
                    more = bytes(len(block))              # which may lie behind it
                    block += more
                assert good(made) and not block.strip(bytes(1))
                del made, block, more; gc.collect()
            assert script.counted >= {first}, script.counted
        made = make()
        assert good(made)
        del made; gc.collect()
        objects.uninstall()
        assert good(make())
        """
    )


def test_addresses_are_refused():
    run(
        """
        with Script(fail=1, times=None, kinds=["mmap"]):
            try:
                mrm.cpython.install()
            except mrm.AddressSpaceError as error:
                assert error.call == "mmap" and "ulimit -v" in str(error), error
            else:
                say("allowed")
        assert mrm.cpython.installed() is None
        with Script(fail=1, times=3, kinds=["mmap"]):
            objects = mrm.cpython.install()
        assert good(make())
        """
    )


@pytest.mark.parametrize(
    ("limit", "used", "way"),
    [("RLIMIT_AS", "address_space_used", "ulimit -v"), ("RLIMIT_DATA", "private_memory_used", "ulimit -d")],
)
def test_a_limit_on_addresses(limit, used, way):
    run(
        f"""
        import resource
        from mrm.physical.limits import {used}
        room = {used}() + (1 << 30)
        resource.setrlimit(resource.{limit}, (room, room))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            objects = mrm.cpython.install()
        assert any("{way}" in str(w.message) for w in said), said
        made = make()
        assert good(made) and objects.stats().arenas > 10 and objects.stats().large_memory == 0
        try:
            bytearray(1 << 31)
        except MemoryError:
            pass
        else:
            say("allowed")
        """
    )


# ---- beside other allocators -------------------------------------------------------------


def test_tracemalloc_above_counts_each_block_once():
    run(
        """
        import tracemalloc
        objects = mrm.cpython.install()
        tracemalloc.start()
        def grown(make):
            before = tracemalloc.get_traced_memory()[0]
            made = make()
            return tracemalloc.get_traced_memory()[0] - before, made
        for size in (600, 100_000, 5 << 20):
            told, made = grown(lambda: bytearray(size))
            assert size <= told <= size + 512, (size, told)
        told, made = grown(lambda: [None] * 1_000_000)
        assert told < 8_000_000 + 4096
        for block in (bytearray(), []):
            block.extend(b"x" * 100_000)
        objects.uninstall()                          # under tracemalloc, which stays
        told, made = grown(lambda: bytearray(1 << 20))
        assert 1 << 20 <= told <= (1 << 20) + 512
        again = mrm.cpython.install()
        block = bytearray(3 << 20)
        assert again.stats().large_memory >= 3 << 20
        tracemalloc.stop()
        block.extend(b"x" * (1 << 20))
        made = make(20_000)
        assert good(made, 20_000) and again.stats().large_memory >= 4 << 20
        """
    )


def test_tracemalloc_below_is_refused():
    run(
        """
        import tracemalloc
        tracemalloc.start()
        try:
            mrm.cpython.install()
        except mrm.Error as error:
            assert "tracemalloc" in str(error) and "large=False" in str(error)
        else:
            say("allowed")
        objects = mrm.cpython.install(large=False)
        made = make()
        tracemalloc.stop()
        assert good(made) and objects.stats().large_memory == 0 and objects.stats().arenas > 20
        """
    )


def test_under_the_debug_allocator(monkeypatch):
    monkeypatch.setenv("PYTHONMALLOC", "debug")
    run(
        """
        objects = mrm.cpython.install()
        made = make(50_000)
        block = bytearray(10)
        for _ in range(30):
            block.extend(bytes(len(block)))
            if len(block) > 1 << 22:
                del block[100:]
        assert good(made, 50_000) and objects.stats().arenas > 5
        """
    )


@pytest.mark.parametrize("chosen", ["malloc", "malloc_debug"])
def test_without_arenas_it_says_so(monkeypatch, chosen):
    monkeypatch.setenv("PYTHONMALLOC", chosen)
    run(
        f"""
        try:
            mrm.cpython.install()
        except mrm.Error as error:
            assert "PYTHONMALLOC={chosen}" in str(error) and "no arenas" in str(error)
        else:
            say("allowed")
        """
    )


def test_another_hook_over_ours():
    run(
        """
        class Hook(ctypes.Structure):
            _fields_ = [("ctx", ctypes.c_void_p), ("alloc", ctypes.c_void_p), ("free", ctypes.c_void_p)]
        get, set_ = ctypes.pythonapi.PyObject_GetArenaAllocator, ctypes.pythonapi.PyObject_SetArenaAllocator
        first, ours = Hook(), Hook()
        get(ctypes.byref(first))
        objects = mrm.cpython.install()
        get(ctypes.byref(ours))
        assert first.alloc != ours.alloc
        made = make()
        objects.uninstall()
        set_(ctypes.byref(first))                    # as another might
        try:
            mrm.cpython.install()
        except mrm.Error as error:
            assert "another allocator" in str(error)
        else:
            say("allowed")
        set_(ctypes.byref(ours))
        assert good(made)
        with mrm.cpython.install():
            assert good(make())
        """
    )


def test_arguments():
    run(
        """
        for wrong in ({"huge": "always"}, {"limit": -1}, {"limit": "many"}, {"keep": "-2MiB"}):
            try:
                mrm.cpython.install(**wrong)
            except mrm.ArgumentError:
                pass
            else:
                say(f"allowed {wrong}")
        mrm.cpython.why_not = lambda: "they are switched off"
        try:
            mrm.cpython.install(huge="require")
        except mrm.FundingError as error:
            assert "switched off" in str(error)
        else:
            say("allowed")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mrm.cpython.install().uninstall()
        assert [w.category for w in said] == [mrm.BackingWarning] and "switched off" in str(said[0].message)
        """
    )


# ---- the interpreter's own tests ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["test_gc", "test_dict", "test_list", "test_set", "test_json", "test_pickle"]
)
def test_the_interpreters_own(name, tmp_path):
    folder = pathlib.Path(sysconfig.get_path("stdlib")) / "test"
    if not any((folder / path).exists() for path in (f"{name}.py", name)):
        pytest.skip(f"this Python comes without its tests: there is no {folder / name}")
    done = python("-m", "mrm", "run", "--objects", "-m", "test", "--tempdir", str(tmp_path), name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mrm: peak" in done.stderr
    assert os.listdir(tmp_path) == []
