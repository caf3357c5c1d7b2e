"""CPython's objects on huge pages, and fork: contents on both sides, workers of every kind, pools that refuse it."""

import pytest
from helpers import python
from programs import needs_arenas, needs_thp, run

import mrm.system.features

pytestmark = needs_arenas


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
    done = python(str(script))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), done


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
