"""CPython's objects on huge pages: contents on both sides of a fork, what outlives what, and what is refused.

What is put in place stays for a process's life, so each test has a process of its own.
"""

import os
import pathlib
import subprocess
import sys
import sysconfig
import textwrap

import pytest
from helpers import environment, in_child

import mrm.system.features
from mrm.physical.transparent import why_not

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="a free-threaded CPython has no arenas"
)
needs_thp = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")

_PREAMBLE = """
import errno, gc, os, pathlib, random, signal, threading, time
import mrm.cpython
from mrm.system.calls import Script
warnings.simplefilter("ignore", mrm.BackingWarning)

def make(n=200_000):
    "Objects in arenas, and a list and a dict above them, that tell when a byte of theirs is wrong."
    return {i: (i, str(i), [float(i)]) for i in range(n)}

def good(made, n=200_000):
    return len(made) == n and all(a == i and b == str(i) and c == [float(i)] for i, (a, b, c) in made.items())

def wait(child):
    status = os.waitpid(child, 0)[1]
    assert status == 0, os.waitstatus_to_exitcode(status)

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child
"""


def run(code, **options):
    """Run it in a process of its own, which must say "done" in the end, and end well."""
    ending = in_child(_PREAMBLE + "\n" + textwrap.dedent(code) + "\nsay('done')", **options)
    assert (ending.code, ending.out.splitlines()[-1:], ending.err) == (0, ["done"], ""), ending
    return ending


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
        def writable():
            base, nbytes = mrm._arenas.where(0)
            total = 0
            for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
                start, end = (int(word, 16) for word in line.split()[0].split("-"))
                if base <= start < base + nbytes and line.split()[1] == "rw-p":
                    total += end - start
            return total
        objects = mrm.cpython.install(keep=0)
        made = make()
        assert writable() == objects.stats().small_memory
        del made; gc.collect()
        assert writable() == objects.stats().small_memory < 8 << 20
        made = make()
        assert good(made) and writable() == objects.stats().small_memory
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


# ---- fork ------------------------------------------------------------------------------


def test_both_sides_of_a_fork_have_their_own():
    run(
        """
        objects = mrm.cpython.install()
        made = make()
        def child():
            assert good(made) and mrm.cpython.installed() is objects
            for i in range(0, 200_000, 2):
                made[i] = "child"
            more = make(50_000)
            def grandchild():
                assert good(more, 50_000) and made[0] == "child" and made[1][0] == 1
                made.clear()
                gc.collect()
                assert good(make(20_000), 20_000)
            wait(forked(grandchild))
            assert made[0] == "child" and good(more, 50_000)
        pid = forked(child)
        for i in range(1, 200_000, 2):
            made[i] = "parent"
        wait(pid)
        assert all(made[i] == "parent" and made[i - 1][0] == i - 1 for i in range(1, 200_000, 2))
        """
    )


def test_a_hundred_workers():
    run(
        """
        objects = mrm.cpython.install()
        made = make(50_000)
        reading, writing = os.pipe()
        def child(number):
            os.close(writing)
            os.read(reading, 1)                  # all of them are there
            assert good(made, 50_000)
            for i in range(number, 50_000, 100):
                made[i] = number
            assert sum(value == number for value in made.values() if type(value) is int) == 500
        children = [forked(lambda number=number: child(number)) for number in range(100)]
        os.close(writing)
        for pid in children:
            wait(pid)
        assert good(made, 50_000)
        """,
        timeout=110,
    )


def test_fork_while_threads_make_objects():
    run(
        """
        warnings.simplefilter("ignore", DeprecationWarning)     # from 3.12 on
        objects = mrm.cpython.install(keep=0)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                made = make(5_000)
                assert good(made, 5_000)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(20):
            wait(forked(lambda: good(make(5_000), 5_000) or os._exit(3)))
        stop.set()
        for thread in threads: thread.join()
        """
    )


@needs_thp
def test_what_a_fork_has_split_is_joined():
    if "MADV_COLLAPSE" in mrm.system.features.missing_features():
        pytest.skip("this kernel has no MADV_COLLAPSE (Linux 6.1)")
    run(
        """
        objects = mrm.cpython.install()
        made = make()
        reading, writing = os.pipe()
        child = forked(lambda: os.read(reading, 1))
        assert good(made)                           # its references are counted: a write to each page
        split = objects.coverage().share
        os.write(writing, b"x")
        wait(child)
        assert split < 0.5, split
        assert objects.collapse().share > 0.9
        assert good(made)
        """
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path, method):
    script = tmp_path / "workers.py"
    script.write_text(
        f"""
import multiprocessing, warnings
import mrm, mrm.cpython
warnings.simplefilter("ignore")
shared = None

def work(n):
    global shared
    if shared is None:
        shared = [str(i) for i in range(100_000)]
    assert shared[n] == str(n)
    shared[n] = "mine"
    return mrm.cpython.installed() is not None, sum(word == "mine" for word in shared)

if __name__ == "__main__":
    mrm.cpython.install()
    if {method!r} == "fork":
        shared = [str(i) for i in range(100_000)]
    with multiprocessing.get_context({method!r}).Pool(3) as pool:
        told = pool.map(work, range(30), chunksize=1)
    assert {{there for there, _ in told}} == {{ {method == "fork"} }}, told
    if shared is not None:
        assert all(word == str(i) for i, word in enumerate(shared))
    print("done")
"""
    )
    done = _python(str(script))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), done


def _python(*arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**environment(), **variables},
    )


def test_subprocesses():
    run(
        """
        import subprocess
        objects = mrm.cpython.install()
        made = make()
        for options in ({}, {"preexec_fn": lambda: None}, {"start_new_session": True}):
            told = subprocess.run([sys.executable, "-c", "print(sum(range(10)))"], capture_output=True, **options)
            assert (told.returncode, told.stdout) == (0, b"45\\n"), told
        assert good(made)
        """
    )


# ---- calls that fail ---------------------------------------------------------------------


@pytest.mark.parametrize("call", ["mprotect", "madvise", "mmap", "mremap"])
@pytest.mark.parametrize(("first", "times"), [(1, 1), (2, None), (5, 3)])
def test_a_call_fails(call, first, times):
    run(
        f"""
        objects = mrm.cpython.install(keep=0)
        with Script(fail={first}, times={times}, kinds=[{call!r}], record=False) as script:
            for _ in range(2):
                made = make()
                assert good(made)
                del made; gc.collect()
            del script
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


def test_a_limit_on_addresses():
    run(
        """
        import resource
        from mrm.physical.limits import address_space_used
        room = address_space_used() + (1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            objects = mrm.cpython.install()
        assert any("ulimit -v" in str(w.message) for w in said), said
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


# ---- on a pool -----------------------------------------------------------------------------


def test_on_a_pool_objects_lie_on_its_frames(huge):
    run(
        """
        pool = mrm.Pool("64MiB", huge=huge)
        objects = mrm.cpython.install(pool, keep=0)
        made = make(100_000)
        stats = objects.stats()
        assert stats.arenas >= 8 and stats.elsewhere == 0, stats
        held = pool.stats().held
        assert held * FRAME >= stats.small_memory
        assert pool.state_of((id(made[99_999][1]) - pool.address(0)) // FRAME) == "held"
        pool.audit()
        assert good(made, 100_000)
        del made; gc.collect()
        assert pool.stats().held < held
        more = make(300_000)                         # more than the pool has
        assert good(more, 300_000) and objects.stats().elsewhere > 0
        pool.audit()
        pool.close()                                 # its frames are in use: it lives on
        again = make(50_000)
        assert good(more, 300_000) and good(again, 50_000)
        objects.uninstall()
        assert good(make(), 200_000)
        """,
        huge=huge,
    )


def test_on_a_pool_fork_is_refused():
    run(
        """
        import multiprocessing, subprocess
        pool = mrm.Pool("32MiB", huge=huge)
        objects = mrm.cpython.install(pool)
        made = make(50_000)
        def refused(work):
            try:
                work()
            except mrm.ForkedError as error:
                assert "spawn" in str(error) and "without a pool" in str(error)
                return True
        assert refused(os.fork) and refused(os.forkpty)
        process = multiprocessing.get_context("fork").Process(target=int)
        assert refused(process.start)
        told = subprocess.run([sys.executable, "-c", "print(45)"], capture_output=True)
        assert (told.returncode, told.stdout) == (0, b"45\\n"), told
        try:
            mrm.cpython.install()
        except mrm.Error as error:
            assert "already" in str(error)
        objects.uninstall()
        assert refused(os.fork) and good(made, 50_000)         # some live on
        other = mrm.Pool("4MiB", huge=huge)
        try:
            mrm.cpython.install(other)
        except mrm.Error as error:
            assert "another pool" in str(error)
        other.close()
        with mrm.cpython.install():                            # private memory beside it
            assert good(make())
        with mrm.cpython.install(pool):
            assert good(made, 50_000) and good(make(10_000), 10_000)
        pool.close()
        """
    )


# ---- the interpreter's own tests ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_gc", "test_dict", "test_list", "test_set", "test_json", "test_pickle"])
def test_the_interpreters_own(name, tmp_path):
    folder = pathlib.Path(sysconfig.get_path("stdlib")) / "test"
    if not any((folder / path).exists() for path in (f"{name}.py", name)):
        pytest.skip(f"this Python comes without its tests: there is no {folder / name}")
    done = _python("-m", "mrm", "run", "--objects", "-m", "test", "--tempdir", str(tmp_path), name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mrm: peak" in done.stderr
    assert os.listdir(tmp_path) == []
