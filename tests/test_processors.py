"""Many processors: whom a relocation interrupts, and frames whose processor is gone.

Interrupts are counted twice, as they are sent and as they arrive: an invalidation that
goes to seven processors is one shootdown sent and seven received. What races, races
without the GIL (mrm.tools.stress.racer), and what a processor does with its own frames
is seen from outside: a frame that was given on it comes back first on it, and only there.
"""

import itertools
import os
import random
import subprocess
import threading
from pathlib import Path

import pytest
from helpers import FRAME, FakePool, counts_of, in_child, interrupts, running_on, stamp_all, stamp_at
from machine import THROWAWAY, needs_processors, throwaway

import mrm
from mrm.tools.bench.flips import Flip
from mrm.tools.bench.mutators import Mutators
from mrm.tools.bench.ours import Batch, BatchRuns, View
from mrm.tools.stress.racer import Racer

# Emulated machines run eight processors on two.
pytestmark = pytest.mark.timeout(900)

PROCESSORS = sorted(os.sched_getaffinity(0))
CPU = Path("/sys/devices/system/cpu")
FRAMES = (1 << 30) // FRAME  # a whole GiB, of which page tables are shared


# ---- interrupts ------------------------------------------------------------------------


class Interrupts:
    """What was sent and received within a context; ``sent`` is None where nobody may count it.

    The row TLB has the invalidations that were ``received``; the row CAL all ``calls`` of
    functions on other processors, invalidations among them.
    """

    def __enter__(self):
        try:
            self._sent = mrm.shootdowns("process")
        except mrm.Error:
            self._sent = None
        self._before = interrupts("TLB"), interrupts("CAL")
        return self

    def __exit__(self, *exception):
        self.received = interrupts("TLB") - self._before[0]
        self.calls = interrupts("CAL") - self._before[1]
        self.sent = None if self._sent is None else self._sent.stop()


@pytest.fixture(scope="module")
def tracefs():
    """The tracepoint within reach, on a machine where that may be arranged."""
    if THROWAWAY and not Path("/sys/kernel/tracing/events").exists():
        subprocess.run(["mount", "-t", "tracefs", "none", "/sys/kernel/tracing"], check=False)


@pytest.fixture
def gib():
    """A pool of a GiB of huge pages."""
    try:
        pool = mrm.Pool(FRAMES * FRAME, huge="require")
    except mrm.FundingError as shortage:
        pytest.skip(f"needs a GiB of huge pages: {shortage}")
    with pool:
        yield pool
        pool.audit()


@pytest.fixture
def crowd(tracefs):
    """A mutator on each processor but this thread's own, seven at the most; how many."""
    threads = min(len(PROCESSORS) - 1, 7)
    with running_on(*PROCESSORS[: threads + 1]), mrm.Pool(4 * FRAME, huge="off") as heap:
        heap.zero(heap.take(4))
        with Mutators(heap.address(0), 4 * FRAME, threads):
            yield threads


def check(seen, crowd, shootdowns):
    """So many shootdowns at the most, each of them received once by each of the crowd."""
    least = min(shootdowns, 1)
    if seen.sent is not None:
        assert least <= seen.sent <= shootdowns
    if THROWAWAY:  # where nobody else is at work
        assert least <= seen.received <= shootdowns * crowd


@needs_processors(2)
def test_a_flip_interrupts_each_processor_once(gib, crowd):
    flip = Flip(gib)
    all_kinds = []
    try:
        flip.run(2)
        for _ in range(3):
            with Interrupts() as seen:
                flip.run(1)
            check(seen, crowd, 1)
            all_kinds.append(seen.calls)
    finally:
        flip.close()
    if THROWAWAY:
        # The kernel has calls of its own now and then, but not in every flip.
        assert min(all_kinds) <= crowd, all_kinds


@needs_processors(2)
def test_relocating_a_gib_is_one_shootdown(gib, crowd):
    for kind in (View, Batch, BatchRuns):
        lane = kind(gib, FRAME)
        lane.open()
        try:
            lane.run(0)
            for _ in range(2):
                with Interrupts() as seen:
                    pages, _ = lane.run(0)
                assert pages == FRAMES
                check(seen, crowd, 1)
        finally:
            lane.close()


@needs_processors(2)
def test_a_plan_is_the_same_on_any_processors_and_promises_what_is_sent(gib, crowd):
    """Scattered frames are moved, swapped and unmapped: planned on one processor and on all."""
    frames = random.Random(3).sample(range(FRAMES), FRAMES)
    gib.take(FRAMES)
    with gib.reserve(2 * FRAMES) as r:
        with r.batch() as batch:
            batch.map(range(FRAMES), frames)
        changes = (
            lambda batch: batch.move(range(64), range(FRAMES, FRAMES + 64)),
            lambda batch: batch.swap(range(FRAMES, FRAMES + 32), range(FRAMES + 32, FRAMES + 64)),
            lambda batch: batch.unmap(range(64, 128)),
            lambda batch: batch.move(range(128, 192), range(FRAMES + 64, FRAMES + 128), deferred=True),
        )
        for change in changes:
            with r.batch() as batch:
                change(batch)
                plan = batch.explain()
                with running_on(*PROCESSORS):
                    assert batch.explain() == plan
                with Interrupts() as seen:
                    batch.commit()
                check(seen, crowd, counts_of(plan)[1])
        with Interrupts() as seen:
            r.retire()
        check(seen, crowd, 1)
        r.check()
    gib.give(range(FRAMES))


# ---- races -----------------------------------------------------------------------------


def race(pool, meanwhile=None, bursts=6, steps=4000, threads=8):
    """Racers that start on processors of their own; then all frames are back, each once.

    ``meanwhile(threads)`` is called again and again until they have ended.
    """
    room = len(pool) // threads - 1
    racers = [Racer(pool, i + 1, i, room) for i in range(threads)]
    wrong = []
    ready = threading.Barrier(threads + 1)

    def work(i):
        os.sched_setaffinity(0, [PROCESSORS[i % len(PROCESSORS)]])
        ready.wait()
        wrong.extend([racers[i].burst(steps) for _ in range(bursts)])

    running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for thread in running:
        thread.start()
    ready.wait()
    while any(thread.is_alive() for thread in running):
        if meanwhile:
            meanwhile(running)
        running[-1].join(0.05)
    for thread in running:
        thread.join()
    assert wrong == [None] * (threads * bursts)
    assert pool.audit().held == sum(racer.holds for racer in racers)
    for racer in racers:
        assert racer.steps == bursts * steps
        assert racer.finish() is None
    pool.retire()
    assert pool.audit().ready == len(pool)


@pytest.mark.parametrize("frames", [24, 72])
def test_racers_on_processors_of_their_own(huge, frames):
    with mrm.Pool(frames * FRAME, huge=huge) as pool:
        race(pool)


def test_racers_that_are_moved_in_mid_run(huge):
    choose = random.Random(1)
    moves = itertools.count()

    def move(running):
        for thread in running:
            try:
                os.sched_setaffinity(thread.native_id, [choose.choice(PROCESSORS)])
                next(moves)
            except (ProcessLookupError, TypeError):
                continue  # it has ended, or has no number yet

    with mrm.Pool(72 * FRAME, huge=huge) as pool:
        race(pool, move)
    assert next(moves) > 0


# ---- every processor its own frames -----------------------------------------------------


def sharing(pool, processors):
    """Pairs of processors that take from one stack."""
    mine = {}
    for cpu in processors:
        with running_on(cpu):
            mine[cpu] = pool.take()
    for cpu in processors:
        with running_on(cpu):
            pool.give(mine[cpu])
    found = []
    for cpu in processors:
        with running_on(cpu):
            frame = pool.take()
            pool.give(frame)
        found += [(cpu, other) for other, given in mine.items() if given == frame and other != cpu]
    return found


def test_each_processor_has_frames_of_its_own():
    with FakePool(64 * len(PROCESSORS)) as pool:
        assert sharing(pool, PROCESSORS) == []


CONFINED = """
    from test_processors import sharing
    os.sched_setaffinity(0, {allowed})
    with FakePool(64 * {count}) as pool:
        say(str(sharing(pool, {allowed})))
        assert pool.audit().ready == len(pool)
"""


@needs_processors(2)
@pytest.mark.parametrize("which", [[-2, -1], [-1], [0, -1]])
def test_a_process_confined_to_the_last_processors(which):
    allowed = sorted({PROCESSORS[i] for i in which})
    ending = in_child(CONFINED.format(allowed=allowed, count=len(allowed)), timeout=300)
    assert (ending.code, ending.out) == (0, "[]\n"), ending


@throwaway
@needs_processors(4)
def test_a_process_confined_by_a_cpuset(cpuset):
    allowed = PROCESSORS[-2:]
    (cpuset / "cpuset.cpus").write_text(",".join(map(str, allowed)))
    code = f'open("{cpuset}/cgroup.procs", "w").write(str(os.getpid()))'
    ending = in_child(
        CONFINED.format(allowed=allowed, count=2).replace("\n", f"\n    {code}\n", 1), timeout=300
    )
    assert (ending.code, ending.out) == (0, "[]\n"), ending


# ---- processors that go and come ---------------------------------------------------------


@pytest.fixture
def switch():
    """``switch(cpu, on)`` takes a processor away or brings it back; all are back at the end."""

    def turn(cpu, on):
        (CPU / f"cpu{cpu}/online").write_text(str(int(on)))

    yield turn
    for cpu in PROCESSORS:
        if (CPU / f"cpu{cpu}/online").exists():
            turn(cpu, True)
    os.sched_setaffinity(0, PROCESSORS)


@throwaway
@needs_processors(4)
def test_racers_whose_processors_go_and_come(huge, switch):
    choose = random.Random(2)
    gone = []

    def unsettle(running):
        if gone and choose.random() < 0.5:
            switch(gone.pop(), True)
        elif len(gone) < len(PROCESSORS) // 2:
            gone.append(choose.choice([cpu for cpu in PROCESSORS[1:] if cpu not in gone]))
            switch(gone[-1], False)

    with mrm.Pool(72 * FRAME, huge=huge) as pool:
        race(pool, unsettle, bursts=12)


@throwaway
@needs_processors(4)
@pytest.mark.parametrize("way", ["one by one", "as an array", "as a run"])
def test_frames_of_a_processor_that_is_gone_are_found(switch, way):
    """All of the pool's free frames lie in the stack of a processor that goes."""
    last, n = PROCESSORS[-1], 100
    with FakePool(n) as pool:
        with running_on(last):
            frames = [pool.take() for _ in range(n)]
            for frame in frames:
                pool.give(frame)
        switch(last, False)
        with running_on(PROCESSORS[0]):
            if way == "one by one":
                taken = [pool.take() for _ in range(n)]
            elif way == "as an array":
                taken = list(pool.take(n))
            else:
                taken = list(pool.take_run(n))
            assert sorted(taken) == list(range(n))
            with pytest.raises(mrm.OutOfFrames):
                pool.take()
            pool.give(taken)
        assert pool.audit().ready == n
        switch(last, True)
        with running_on(last):
            assert sorted(pool.take(n)) == list(range(n))
            pool.give(range(n))
        assert pool.audit().ready == n


@throwaway
@needs_processors(4)
def test_frames_held_by_a_processor_that_is_gone_come_back(switch):
    """They go to its stack when they are given elsewhere, and are taken from there."""
    last, n = PROCESSORS[-1], 100
    with FakePool(n) as pool:
        with running_on(last):
            frames = [pool.take() for _ in range(n)]
        switch(last, False)
        with running_on(PROCESSORS[0]):
            for _ in range(3):
                for frame in frames:
                    pool.give(frame)
                frames = [pool.take() for _ in range(n)]
                assert sorted(frames) == list(range(n))
            pool.give(frames)
        assert pool.audit().ready == n


@throwaway
@needs_processors(4)
def test_contents_and_views_while_processors_go_and_come(huge, switch):
    with mrm.Pool(16 * FRAME, huge=huge) as pool:
        pool.take(16)
        stamp_all(pool, 7)
        for cpu in PROCESSORS[1:4]:
            with pool.open_view() as view:
                switch(cpu, False)
                assert [stamp_at(view.address(f)) for f in range(16)] == [7 << 32 | f for f in range(16)]
                view.retire()
                switch(cpu, True)
                assert mrm.classify(view.base).state == "retired"
        pool.give(range(16))


@throwaway
@needs_processors(4)
def test_processors_that_nobody_counts(switch):
    """Two are gone and /sys is hidden: libc tells fewer processors than they have numbers."""
    for cpu in PROCESSORS[1:3]:
        switch(cpu, False)
    left = [PROCESSORS[0], *PROCESSORS[3:]]
    hidden = """
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x20000) == 0  # CLONE_NEWNS
    assert libc.mount(b"none", b"/", None, 0x44000, None) == 0  # MS_REC | MS_PRIVATE
    assert libc.umount2(b"/sys", 2) == 0  # MNT_DETACH
    say(str(os.sysconf("SC_NPROCESSORS_CONF")))
    """
    ending = in_child(hidden.rstrip() + CONFINED.format(allowed=left, count=len(left)), timeout=300)
    assert (ending.code, ending.out) == (0, f"{len(left)}\n[]\n"), ending
