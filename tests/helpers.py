"""What many tests need: stamps in memory, children that may die, and looks at the process."""

import contextlib
import ctypes
import faulthandler
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import time

import mrm
import mrm.system.calls
from mrm.system.pages import low_addresses

MIB = 1 << 20
FRAME = mrm.FRAME_SIZE
ROOT = pathlib.Path(__file__).resolve().parent.parent

# Where mrm reserves addresses, and the kernel places nothing by itself (pages.pyx).
LOWEST, HIGHEST = low_addresses()

_LAST_WORD = FRAME - 8


# ---- contents ------------------------------------------------------------------------


def stamp(address, value):
    """Write a number into the first and the last word of the frame shown at an address."""
    ctypes.c_uint64.from_address(address).value = value
    ctypes.c_uint64.from_address(address + _LAST_WORD).value = value


def stamp_at(address):
    """The number that ``stamp`` wrote, seen through an address."""
    first = ctypes.c_uint64.from_address(address).value
    last = ctypes.c_uint64.from_address(address + _LAST_WORD).value
    assert first == last, f"one frame with two stamps at {address:#x}: {first:#x} and {last:#x}"
    return first


def peek_at(address):
    """The byte at an address."""
    return ctypes.c_uint8.from_address(address).value


def stamp_all(pool, seed=0x5EED):
    """Give every frame of a pool a stamp of its own, through the window."""
    for frame in range(len(pool)):
        stamp(pool.address(frame), seed << 32 | frame)


def check_contents(reservation):
    """Compare the table with the kernel, and what readable slots show with the window."""
    reservation.check()
    pool = reservation.pool
    for slot, frame in shown(reservation).items():
        if reservation.mapping(slot).protection != "none":
            assert stamp_at(reservation.address(slot)) == stamp_at(pool.address(frame)), (slot, frame)


def shown(reservation):
    """The frames that slots show, deferred ones left out, as a dict."""
    frames = {slot: reservation[slot] for slot in range(len(reservation))}
    return {slot: frame for slot, frame in frames.items() if frame is not None}


def table(reservation):
    """All that a reservation says of its slots, to be compared."""
    return [(reservation[slot], reservation.mapping(slot)) for slot in range(len(reservation))]


def commit(reservation, operation, *arguments, **options):
    """One operation as a batch of its own; its report."""
    with reservation.batch() as batch:
        getattr(batch, operation)(*arguments, **options)
    return batch.report


def fill(reservation, slots, protection="rw"):
    """Take a frame for each slot, one by one so that they are scattered, and map them."""
    frames = reservation.pool.take(len(slots))
    commit(reservation, "map", slots, frames, protection)
    return list(frames)


def fill_run(reservation, first, n, protection="rw"):
    """Take a run of frames, and map it from a slot on by one call."""
    frames = reservation.pool.take_run(n)
    commit(reservation, "map", range(first, first + n), frames, protection)
    return list(frames)


def give_all(pool, *reservations):
    """Close the reservations, and give every frame that is held."""
    for reservation in reservations:
        reservation.close()
    pool.give([frame for frame in range(len(pool)) if pool.state_of(frame) == "held"])


def steps_of(explanation):
    """The kinds of steps in what ``batch.explain()`` says, in order."""
    return [line.split()[0] for line in explanation.splitlines()[1:] if line.startswith("  ")]


def notes_of(explanation):
    """What ``batch.explain()`` says of features that the plan goes without."""
    return [line for line in explanation.splitlines()[1:] if not line.startswith("  ")]


def counts_of(explanation):
    """System calls and shootdowns that ``batch.explain()`` expects."""
    words = explanation.splitlines()[0].replace(":", "").replace(",", "").split()
    return int(words[words.index("system") - 1]), int(words[words.index("shootdowns") - 1])


# ---- pools -------------------------------------------------------------------------

MANY = 64  # frames of the fixture ``fake_pool``


class FakePool:
    """A pool of so many frames on the fake, which stays in place as long as the pool."""

    def __init__(self, frames):
        self._script = mrm.system.calls.Script(fake=True, record=False)
        self._frames = frames

    def __enter__(self):
        self._script.__enter__()
        try:
            self._pool = mrm.Pool(self._frames * FRAME, huge="require")
        except BaseException:
            self._script.__exit__(None, None, None)
            raise
        return self._pool

    def __exit__(self, *exception):
        try:
            self._pool.close()
        finally:
            self._script.__exit__(*exception)


# ---- the process ---------------------------------------------------------------------


def own_mappings():
    """What is mapped in mrm's part of the addresses, as [start, end] of every stretch.

    ThreadSanitizer's shadow lies there, and grows as it likes; and QEMU's user-mode emulation
    leaves out what is reserved: with them, nothing can be said.
    """
    if "libtsan" in os.environ.get("LD_PRELOAD", "") or "MRM_EMULATED" in os.environ:
        return []
    found = []
    for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if LOWEST <= start < HIGHEST:
            if found and found[-1][1] == start:
                found[-1][1] = end
            else:
                found.append([start, end])
    return found


def open_files():
    """What the process's descriptors are, by number; fonts, which matplotlib keeps open, left out."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.endswith(".ttf"):
                found[int(name)] = target
        except FileNotFoundError:
            pass  # the one that listed the folder
    return found


def mapping_count():
    """Mappings that the kernel counts for this process, the vsyscall page left out."""
    return sum("[vsyscall]" not in line for line in pathlib.Path("/proc/self/maps").read_text().splitlines())


def huge_pages_mapped():
    """Bytes of huge pages that this process has mapped, each mapping counted."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("HugetlbPages:"):
            return int(line.split()[1]) << 10
    return 0


def interrupts(row):
    """Interrupts of one row of /proc/interrupts that all processors have received so far."""
    for line in pathlib.Path("/proc/interrupts").read_text().splitlines():
        name, _, figures = line.partition(":")
        if name.strip() == row:
            return sum(int(figure) for figure in figures.split() if figure.isdigit())
    return 0


def wait_until(holds, seconds=60):
    """Wait until it does; where it never will, fail."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


@contextlib.contextmanager
def running_on(*processors):
    """This thread on these processors only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---- children ------------------------------------------------------------------------


class Ending:
    """How a child process ended."""

    def __init__(self, done):
        self.code = done.returncode if done.returncode >= 0 else None
        self.signal = -done.returncode if done.returncode < 0 else None
        self.out = done.stdout
        self.err = done.stderr

    def __repr__(self):
        return f"exit code {self.code}, signal {self.signal}\n{self.out}\n{self.err}"


_PREAMBLE = """
import ctypes, os, signal, sys, warnings
sys.path.insert(0, {tests!r})
import mrm
from helpers import *
from helpers import FRAME, MIB
warnings.simplefilter("error")
huge = {huge!r}
def peek(address):
    return ctypes.c_uint8.from_address(address).value
def poke(address, value=1):
    ctypes.c_uint8.from_address(address).value = value
def say(word):
    print(word, flush=True)
"""


def in_child(code, huge="off", timeout=60):
    """Run Python in a fresh process, which may die of it.

    The code finds mrm, these helpers, ``huge``, ``peek(address)``, ``poke(address)`` and
    ``say(word)``. What it says before it dies tells how far it came.
    """
    return Ending(python("-c", _source(code, huge), timeout=timeout))


def _source(code, huge):
    return _PREAMBLE.format(tests=str(ROOT / "tests"), huge=huge) + textwrap.dedent(code)


def environment():
    """A child's environment: it finds the package that is tested, which need not be the checkout's."""
    variables = {**os.environ, "PYTHONPATH": str(pathlib.Path(mrm.__file__).parents[1])}
    variables.pop("PYTHONFAULTHANDLER", None)
    return variables


def python(*arguments, timeout=100, cwd=None, stdin=None, **variables):
    """Run the interpreter with these arguments until it ends, and with variables besides those of the tests."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        input=stdin,
        env={**environment(), **variables},
        check=False,
    )


@contextlib.contextmanager
def other_process(code, *arguments, **options):
    """Another process that runs Python, with pipes to it and from it; whatever happens, it is gone in the end."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment(), **pipes, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def start(code, huge="off", **options):
    """A child as ``in_child`` has it, that goes on after it has said "busy"; gone in the end."""
    with other_process(_source(code, huge), **options) as child:
        assert child.stdout.readline() == "busy\n"
        yield child


def kill(child):
    """End a child that was started, by SIGKILL."""
    child.kill()
    child.wait()


def state(pid):
    """R for running, S for asleep, T for stopped, Z for a zombie; None if it is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def alive(pid):
    """Whether a process is there and no zombie."""
    return state(pid) not in (None, "Z")


def waits(pid):
    """Whether a process's first thread is asleep for good: three looks, and it has not run in between."""
    looks = set()
    for _ in range(3):
        status = pathlib.Path(f"/proc/{pid}/task/{pid}/status").read_text().splitlines()
        looks.add(tuple(line for line in status if line.startswith(("State:", "voluntary_ctxt_switches:"))))
        time.sleep(0.02)
    return len(looks) == 1 and "State:\tS" in looks.pop()[0]


def after_fork(function):
    """Call a function in a forked child; what it returned, or the signal that ended it.

    Exceptions are returned as (class name, message).
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        faulthandler.disable()
        try:
            answer = function()
        except BaseException as error:
            answer = (type(error).__name__, str(error))
        os.write(writing, pickle.dumps(answer))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    return pickle.loads(answer)


def all_handles_closed():
    """Whether nothing of mrm's is open in this process."""
    return not any(mrm.live_handles().values())
