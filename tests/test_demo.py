"""The demo's protocol: it holds, and when it is broken on purpose the checks say so."""

import json
import random
import subprocess
import sys
import threading
import time

import pytest

import mrm
from mrm.tools.demo.results import Latency
from mrm.tools.demo.run import run
from mrm.tools.demo.stale import prove
from mrm.tools.demo.world import World

pytestmark = pytest.mark.filterwarnings("ignore::mrm.BackingWarning")
SIZE = "128MiB"


@pytest.mark.parametrize(("mutators", "jitter"), [(1, 0), (2, 0), (2, 50), (3, 20)])
def test_no_object_and_no_write_is_lost(mutators, jitter):
    with mrm.Pool(SIZE) as pool:
        outcome = run(pool, seconds=1.0, mutators=mutators, jitter=jitter, seed=mutators)
        assert outcome.flaw is None
        assert outcome.held
        assert outcome.counters.cycles >= 3
        assert outcome.counters.sparse > 0
        assert outcome.counters.traps == outcome.counters.flips
        assert pool.audit().held == 0


def test_small_pages_do_as_well():
    with mrm.Pool(SIZE, huge="off") as pool:
        outcome = run(pool, seconds=1.0)
        assert outcome.flaw is None
        assert outcome.pool["backing"] == "small"


def test_one_spare_frame_is_enough_for_a_full_heap():
    """Live objects fill four fifths; mutators take every frame that comes free."""
    with mrm.Pool(SIZE) as pool:
        outcome = run(pool, seconds=2.0, live=0.8)
        assert outcome.flaw is None
        assert outcome.counters.sparse > 0


@pytest.mark.parametrize(("sabotage", "jitter"), [("barrier", 0), ("freeze", 20)])
def test_a_broken_protocol_is_found_out(sabotage, jitter):
    for seed in range(15):  # the first nearly always; not where the machine has no time for threads to meet
        with mrm.Pool(SIZE) as pool:
            outcome = run(pool, seconds=4.0, jitter=jitter, seed=seed, sabotage=sabotage)
        if not outcome.held:
            assert outcome.flaw
            return
    pytest.fail("a minute of a broken protocol, and the checks saw nothing")


def test_a_write_that_is_lost_at_rest_is_found_out():
    """One counter of one object, set back by one behind everybody's back."""
    with mrm.Pool(SIZE) as pool:
        world = World(pool, mutators=1)
        world.fill(0)
        thread = threading.Thread(target=world.mutate, args=(0,))
        thread.start()
        time.sleep(0.3)
        world.stop()
        thread.join()
        # The last word of an object is its own counter; most hold 0, some more.
        for frame in random.Random(1).sample(range(len(pool)), len(pool)):
            words = memoryview(pool[frame]).cast("Q") if pool.state_of(frame) == "held" else ()
            at = 0
            while at + 8 <= len(words) and words[at] and (granules := words[at + 1] & 0xFFFFFFFF):
                last = at + granules * 8 - 1
                # Not a dead object's: its account is settled.
                if 0 < words[last] < 1 << 62:
                    words[last] -= 1
                    break
                at += granules * 8
            else:
                continue
            break
        del words
        assert "a write was lost" in world.check()
        world.close()


def test_frames_come_back_when_a_world_is_closed():
    with mrm.Pool(SIZE) as pool:
        world = World(pool)
        world.fill(0)
        world.fill(1)
        assert pool.stats().held > 10
        world.close()
        assert pool.audit().held == 0
        with pytest.raises(mrm.ClosedError):
            world.counters()


def test_a_world_wants_a_pool_large_enough_and_known_words():
    with mrm.Pool("16MiB") as pool, pytest.raises(mrm.ArgumentError, match="too small"):
        World(pool)
    with mrm.Pool(SIZE) as pool:
        with pytest.raises(mrm.ArgumentError, match="mutators"):
            World(pool, mutators=9)
        with pytest.raises(mrm.ArgumentError, match="sabotage"):
            World(pool, sabotage="luck")


def test_a_stale_access_ends_the_process():
    stale = prove()
    assert stale.trapped, stale.words
    assert "SIGSEGV" in stale.words


def test_percentiles_of_known_counts():
    latency = Latency([(100, 98), (1000, 1), (5000, 1)], 5100)
    assert latency.percentile(50) == 100
    assert latency.percentile(99) == 1000
    assert latency.percentile(100) == 5100
    assert latency.total == 100


def test_the_command_writes_figures_and_a_report_that_needs_nothing_else(tmp_path):
    pytest.importorskip("rich")
    command = [sys.executable, "-m", "mrm.tools.cli", "demo", "--size", SIZE, "--seconds", "1", "--json"]
    done = subprocess.run(
        [*command, "--report", str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["held"]
    assert figures["stale_access"]["trapped"]
    assert figures["pages_remapped_per_s"] > 0
    page = next(tmp_path.glob("*.html"))
    assert figures["report"] == str(page)
    text = page.read_text()
    assert "<html" in text
    assert "src=" not in text
    assert "http://www.w3.org" in text or "No pictures" in text


def test_the_report_does_without_matplotlib(tmp_path, monkeypatch):
    from mrm.tools.demo.report import write

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "mrm.tools.demo.plots", raising=False)
    with mrm.Pool(SIZE) as pool:
        outcome = run(pool, seconds=0.5)
    assert "No pictures" in write(outcome, tmp_path).read_text()
