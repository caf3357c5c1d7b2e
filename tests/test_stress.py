"""Racing threads for a fixed number of steps; and that what is broken on purpose is found."""

import json
import subprocess
import sys

import pytest

import mrm
from mrm.tools.stress import run
from mrm.tools.stress.mapper import Mapper
from mrm.tools.stress.probe import Probe
from mrm.tools.stress.racer import Racer

pytestmark = pytest.mark.filterwarnings("ignore::mrm.BackingWarning")


@pytest.mark.parametrize("huge", ["prefer", "off"])
def test_eight_threads_race_and_the_books_balance(huge):
    outcome = run(steps=150, seed=1, huge=huge)
    assert outcome.broken == []
    assert outcome.steps == 8 * 150
    assert outcome.frame_operations == 4 * 150 * 1000


def test_it_ends_when_its_time_is_up():
    outcome = run(seconds=0.5, seed=2, threads=3)
    assert outcome.broken == []
    assert 0.5 <= outcome.seconds < 5


def test_the_same_seed_does_the_same(monkeypatch):
    done = []
    step = Mapper.step

    def recorded(self):
        step(self)
        done.append((self.operation, self.holds))

    monkeypatch.setattr(Mapper, "step", recorded)
    for _ in range(2):
        assert run(steps=100, seed=5, threads=1).broken == []
    assert done[:100] == done[100:]
    assert len({operation for operation, _ in done}) > 8


class TwiceTaken(mrm.Pool):
    """Hands a frame out again that is held already."""

    last = None

    def take(self, n=None):
        frames = super().take(n)
        if self.last is not None:
            frames[0] = self.last
        self.last = frames[0]
        return frames


class Hoarding(mrm.Pool):
    """Does not give back what it is given."""

    def give(self, frames, *, reuse="now"):
        if isinstance(frames, int):
            super().give(frames, reuse=reuse)


@pytest.mark.parametrize(("broken", "word"), [(TwiceTaken, "frame"), (Hoarding, "frames held")])
def test_a_pool_that_is_broken_is_found_out(monkeypatch, broken, word):
    monkeypatch.setattr("mrm.tools.stress.race.Pool", broken)
    outcome = run(steps=200, seed=3, threads=2, size="64MiB")
    assert outcome.broken
    assert word in str(outcome.broken[0])
    assert "seed 3, " in str(outcome.broken[0])


def test_a_racer_notices_a_frame_that_another_one_holds():
    with mrm.Pool("8MiB") as pool:
        racer = Racer(pool, 1, 1, 4)
        probe = Probe()
        for frame in range(4):
            probe.store(pool.address(frame), 2)
        wrong = racer.burst(1000)
        assert wrong is not None
        assert wrong[2:] == (0, 2)
        probe.close()


def test_a_probe_says_what_traps():
    probe = Probe()
    with mrm.Pool("8MiB") as pool, pool.reserve(2) as reservation:
        frame = pool.take()
        with reservation.batch() as batch:
            batch.map(0, frame, "r")
        assert probe.store(pool.address(frame), 7)
        assert probe.load(reservation.address(0)) == 7
        assert not probe.store(reservation.address(0), 8)
        assert probe.load(reservation.address(1)) is None
        assert probe.load(pool.address(frame)) == 7
    probe.close()


def test_the_command_says_what_it_did():
    pytest.importorskip("rich")
    done = subprocess.run(
        [sys.executable, "-m", "mrm.tools.cli", "stress", "--steps", "20", "--seed", "4", "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 160
