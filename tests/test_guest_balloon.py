"""A guest and its host: the host's balloon asks for memory, and the pool follows it; nothing is lost.

The balloon is a real one, driven from outside of the machine by QEMU: see ``tools/machines/host.py``. What the
host asks for is more than the rest of the machine has, so that it can only come out of the pool.
"""

import os
import time
from pathlib import Path

import pytest
from helpers import FRAME, MIB
from machine import BALLOON, needs_balloon, throwaway
from mutating import Mutators

import mrm
from mrm.physical.limits import huge_pages, meminfo
from mrm.tools.doctor.virtual import BALLOON as BALLOONS
from mrm.tools.doctor.virtual import REPORTING, devices, virtual

pytestmark = [needs_balloon, throwaway]

PATIENCE = 900  # seconds; a balloon takes an emulated machine's memory 4 KiB at a time


class Host:
    """Who drives the balloon."""

    def __init__(self, folder):
        self._folder = Path(folder)

    def leave(self, nbytes):
        """Ask it to leave this machine so much."""
        new = self._folder / "wanted.new"
        new.write_text(str(nbytes))
        new.replace(self._folder / "wanted")

    def told(self):
        """What it was asked for last, and what this machine has now."""
        try:
            asked, now = (self._folder / "actual").read_text().split()
        except FileNotFoundError:
            return 0, 0
        return int(asked), int(now)

    @property
    def memory(self):
        """What this machine has now."""
        return self.told()[1]


def until(holds, what):
    """Wait, without taking the processor from who is waited for."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


def counters():
    """Pages that the balloon took and gave back since boot, as the kernel counts them."""
    rows = (row.split() for row in Path("/proc/vmstat").read_text().splitlines())
    return {name: int(value) for name, value in rows if name in ("balloon_inflate", "balloon_deflate")}


@pytest.fixture
def host():
    host = Host(BALLOON)
    until(lambda: host.memory, lambda: "the host says nothing")
    everything = host.memory
    yield host
    host.leave(everything)
    until(lambda: host.told() == (everything, everything), lambda: f"the host says {host.told()}")


def test_the_doctor_sees_what_this_machine_has(host):
    (device,) = (device for device in devices() if device.kind == BALLOONS)
    assert device.driven
    assert REPORTING in device.features
    found = {finding.name: finding.value for finding in virtual()}
    assert found["hypervisor"] not in ("none", None)
    assert found["balloon"].startswith(f"{device.name}: ")
    assert found["free page reporting"].startswith("on")
    assert found["virtio-mem"] == "none"


def test_the_pool_follows_the_hosts_balloon_and_nothing_is_lost(needs_huge, host, capsys):
    there = huge_pages()
    if there.available < 600:
        pytest.skip(
            f"needs 600 free huge pages, and there are {there.available}: `mrm fund {600 * FRAME >> 20}MiB` as root"
        )
    most, held, leave = there.available, 64, 384 * MIB
    everything, counted = host.memory, counters()
    with mrm.Pool(most * FRAME, huge="require", name="guest") as pool:
        with Mutators(pool, held) as mutators:
            scale = pool.autoscale(
                2 * held * FRAME,
                most * FRAME,
                headroom=(most - held) * FRAME,
                leave_free=0,
                leave_memory=leave,
                to="system",
                calm=2.0,
            )
            mutators.go_on()
            assert pool.size == most * FRAME  # nobody has asked for anything

            # All that the rest of the machine can spare, and two thirds of the pool.
            spare = max(0, meminfo()["MemAvailable"] - leave)
            asked = spare + (most - held) * 2 // 3 * FRAME
            rest = (everything - asked) // MIB * MIB
            host.leave(rest)
            until(
                lambda: host.told() == (rest, rest),
                lambda: f"the balloon is at {host.told()}, the pool at {pool.size}: {scale.log}",
            )
            small = pool.size
            taken = most * FRAME - small
            assert taken >= asked - spare - 64 * MIB, "it did not come out of the pool"
            assert pool.stats().inflated == taken // FRAME
            mutators.go_on()
            assert mutators.lost == []
            log = len(scale.log)

            host.leave(everything)
            until(
                lambda: host.told() == (everything, everything),
                lambda: f"the balloon is at {host.told()}, the pool at {pool.size}: {scale.log}",
            )
            until(
                lambda: pool.size == most * FRAME, lambda: f"the pool stays at {pool.size}: {scale.log[log:]}"
            )
            mutators.go_on()
            scale.close()
        assert mutators.lost == []
        pool.audit()
        assert pool.stats().held == 0
        now = counters()
    shrunk = [entry for entry in scale.entries if entry.action == "shrink" and entry.done]
    assert {entry.where for entry in shrunk} == {"system"}
    after = huge_pages()
    assert (after.total, after.surplus) == (there.total, there.surplus)
    with capsys.disabled():
        pages = {name: now[name] - counted[name] for name in now}
        print(f"\nasked for {asked // MIB} MiB, {spare // MIB} of which were to be had; the pool went from")
        print(f"{most * FRAME // MIB} to {small // MIB} MiB and back in {len(shrunk)} steps; {pages}")
        print(f"{mutators.rounds} rounds of {os.cpu_count()} processors' mutators", *scale.log, sep="\n")
