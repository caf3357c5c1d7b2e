"""Boots a machine, runs one command on it as root, and says how that ended.

QEMU with software emulation, one thread a processor. Everything it needs lies in a folder
of this run, which goes at the end; every program started here dies with this process.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mrm.sizes import parse_size
from tools.machines import host
from tools.machines.cache import cache
from tools.machines.guest import SHARED, write_scripts
from tools.machines.initrd import initrd
from tools.machines.kernels import Kernel, kernel
from tools.machines.needs import MachineError, program
from tools.machines.shares import daemon, root_of

TIMED_OUT, FAILED = 124, 125
# An emulated processor on a loaded machine may trip a kernel over before it has come up: 7.3
# panicked in an interrupt there once, and never when it was booted dozens of times to see it again.
_BOOTS = 3

# No mitigations and no watchdogs, which cost an emulated processor most of its time.
_WORDS = (
    *("console=ttyS0", "panic=-1", "no_timer_check", "mitigations=off", "nokaslr", "nowatchdog", "audit=0"),
    *("cgroup_no_v1=all", "rcupdate.rcu_cpu_stall_suppress=1", "random.trust_cpu=on"),
)
_PASSED = ("PATH", "HOME", "LANG", "LC_ALL")


@dataclass(frozen=True)
class Machine:
    """What a machine is made of.

    Attributes
    ----------
    kernel : str
        The beginning of its version, or ``"newest"``.
    processors, nodes : int
        How many of each; processors are shared out among nodes in order.
    memory : str
        Of all nodes together.
    hugepages : str
        Huge pages of the kernel's default size set aside at boot: a number, or
        ``"0:80,1:20"`` by node (from 5.16 on).
    words : tuple of str
        More of the kernel's command line. What says ``default_hugepagesz=`` comes
        before ``hugepages=``, as the kernel needs it.
    setup : tuple of str
        Shell lines that are run inside first.
    modules : tuple of str
        Kernel modules loaded besides.
    qemu : tuple of str
        More of QEMU's arguments.
    balloon : bool
        Whether there is a virtio balloon, which reports free pages too. It is driven from outside,
        at the word of what runs inside (``host``).
    """

    kernel: str = "6.18"
    processors: int = 2
    nodes: int = 1
    memory: str = "3GiB"
    hugepages: str = "320"
    words: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    qemu: tuple[str, ...] = ()
    balloon: bool = False


@dataclass
class Outcome:
    """How it ended.

    Attributes
    ----------
    status : int
        The command's exit status; ``TIMED_OUT`` or ``FAILED`` if the machine's.
    kernel : str
        The version of the kernel that ran.
    boot_seconds, seconds : float
        Until the command started, 0 if it never did; and in all.
    console : str
        The end of what the kernel printed.
    boots : int
        How often it was booted until it came up.
    """

    status: int
    kernel: str
    boot_seconds: float = 0.0
    seconds: float = 0.0
    console: str = ""
    boots: int = 1

    @property
    def panic(self) -> str:
        """The line in which the kernel said that it gave up; empty if it did not."""
        return next((line for line in self.console.splitlines() if "Kernel panic" in line), "")


@dataclass(frozen=True)
class Run:
    """What a running machine may be asked for.

    Attributes
    ----------
    folder : Path
        The folder of this run, which the guest sees as ``guest.SHARED`` and may write.
    qmp : Path
        QEMU's socket, for ``qmp.Qmp``.
    """

    folder: Path
    qmp: Path


def boot(
    machine: Machine,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    shared: Path | None = None,
    output: IO[bytes] | None = None,
    seconds: float = 600.0,
    started: Callable[[Run], object] | None = None,
) -> Outcome:
    """Boot a machine, run a command, and wait for its end.

    A machine that ends before its command begins has tried nothing of it, and is booted
    again, twice at the most.

    Parameters
    ----------
    machine : Machine
        Which.
    command : sequence of str
        What to run, as root.
    environment : mapping, optional
        Added to PATH, HOME and the language of this process.
    directory : Path, optional
        Where to run it; here when not given.
    shared : Path, optional
        A folder that the guest sees as ``guest.SHARED`` and may write; one that goes with
        the machine when not given.
    output : file, optional
        Takes what the command prints; this process's own output and error when not given.
    seconds : float, optional
        How long it may take; then it is ended.
    started : callable, optional
        Called with the Run in a thread of its own when the command starts.

    Returns
    -------
    Outcome

    Raises
    ------
    MachineError
        If the machine could not be put together.
    """
    directory = (directory or Path.cwd()).resolve()
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    passed |= {"MRM_THROWAWAY": "1"} | dict(environment or {})
    if machine.balloon:
        passed["MRM_BALLOON"] = f"{SHARED}/{host.FOLDER}"

    def write(folder: Path) -> None:
        write_scripts(folder, command, directory=directory, environment=passed, setup=machine.setup)

    for boots in range(1, _BOOTS + 1):
        outcome = _boot_once(machine, write, directory, shared, output, seconds, started)
        outcome.boots = boots
        if outcome.boot_seconds or outcome.status == TIMED_OUT:
            break
    return outcome


def _boot_once(
    machine: Machine,
    write: Callable[[Path], object],
    directory: Path,
    shared: Path | None,
    output: IO[bytes] | None,
    seconds: float,
    started: Callable[[Run], object] | None,
) -> Outcome:
    """The same, whatever comes of it; ``write`` puts the guest's scripts into the folder of this run."""
    began = time.monotonic()
    found = kernel(machine.kernel)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(_folder()))
        for name in ("root", "shared"):
            (folder / name).mkdir()
        run = Run(shared or folder / "shared", folder / "qmp")
        write(run.folder)
        busybox = Path(program("busybox") or "busybox")
        (folder / "initrd").write_bytes(initrd(busybox, found.modules, machine.modules))
        arguments = _arguments(machine, found)
        arguments += _share(stack, folder, "host", folder / "root", seen=[directory])
        arguments += _share(stack, folder, "run", run.folder)
        control = _Control(run, began, [started] if started else [])
        if machine.balloon:
            (run.folder / host.FOLDER).mkdir(exist_ok=True)
            over = threading.Event()
            stack.callback(over.set)
            control.started.append(lambda run: host.drive(run.qmp, run.folder / host.FOLDER, over))
        pipes = []
        for name, take in (("out", _pump(output, 1)), ("err", _pump(output, 2)), ("control", control.listen)):
            reading, writing = os.pipe()
            pipes.append((take, reading, writing))
            arguments += ["-chardev", f"file,id={name},path=/dev/fd/{writing}"]
            arguments += ["-device", f"virtserialport,chardev={name},name={name}"]
        vm = _start(stack, arguments, folder, pass_fds=[writing for _, _, writing in pipes])
        threads = []
        for take, reading, writing in pipes:
            os.close(writing)
            threads.append(threading.Thread(target=take, args=(reading,), daemon=True))
            threads[-1].start()
        status = None
        try:
            vm.wait(seconds)
        except subprocess.TimeoutExpired:
            vm.kill()
            vm.wait()
            status = TIMED_OUT
        for thread in threads:
            thread.join(5)
        if status is None:
            status = FAILED if control.status is None else control.status
        log = folder / "console"
        text = log.read_text(errors="replace") if log.exists() else ""
        log = folder / "qemu.log"
        text += log.read_text(errors="replace")
    return Outcome(status, found.version, control.boot_seconds, time.monotonic() - began, text[-20000:])


# ---- putting it together ---------------------------------------------------------------


def _arguments(machine: Machine, found: Kernel) -> list[str]:
    """QEMU's command line, but for shares and pipes."""
    nbytes = parse_size(machine.memory)
    n, nodes = machine.processors, machine.nodes
    words = [*_WORDS, *machine.words]
    if machine.hugepages:
        if not any(word.startswith("default_hugepagesz=") for word in machine.words):
            words.append("hugepagesz=2M")
        words.append(f"hugepages={machine.hugepages}")
    given = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off"),
        *("-smp", f"{n},sockets={nodes},cores={n // nodes},threads=1", "-m", str(nbytes >> 20)),
        *("-kernel", str(found.image), "-initrd", "initrd", "-append", " ".join(words)),
        *("-chardev", "file,id=console,path=console", "-serial", "chardev:console"),
        *("-qmp", "unix:qmp,server=on,wait=off", "-device", "virtio-serial-pci"),
    ]
    for node in range(nodes):
        size = f"size={nbytes // nodes >> 20}M"
        first, last = node * n // nodes, (node + 1) * n // nodes - 1
        # Shared memory, since virtiofsd reads and writes it.
        given += ["-object", f"memory-backend-memfd,id=memory{node},{size},share=on"]
        given += ["-numa", f"node,nodeid={node},memdev=memory{node},cpus={first}-{last}"]
    if machine.balloon:
        given += ["-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on"]
    return [*given, *machine.qemu]


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder that goes at the end."""
    runs = cache() / "runs"
    runs.mkdir(exist_ok=True)
    made = tempfile.mkdtemp(dir=runs)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _share(
    stack: contextlib.ExitStack, folder: Path, name: str, shown: Path, seen: Sequence[Path] = ()
) -> list[str]:
    """Start showing a folder; QEMU's arguments for it. ``seen``: this machine's root is shown there."""
    virtiofsd = program("virtiofsd")
    if virtiofsd is None:
        raise MachineError("there is no virtiofsd here: apt-get install virtiofsd, or qemu-system-x86")
    # Named after the run: virtiofsd locks a file of this name for the whole machine.
    socket = f"{folder.name}-{name}.sock"
    command = daemon(virtiofsd, socket, shown, cached=bool(seen))
    if seen:
        command = root_of(shown, seen, command)
    started = _start(stack, command, folder)
    until = time.monotonic() + 60
    while not (folder / socket).exists():
        if started.poll() is not None or time.monotonic() > until:
            said = (folder / "qemu.log").read_text(errors="replace")[-500:]
            raise MachineError(f"virtiofsd did not start: {said}")
        time.sleep(0.02)
    return [
        *("-chardev", f"socket,id={name},path={socket}"),
        *("-device", f"vhost-user-fs-pci,queue-size=1024,chardev={name},tag={name}"),
    ]


def _start(
    stack: contextlib.ExitStack, command: list[str], folder: Path, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a program that ends with the stack, and with this process."""
    log = stack.enter_context((folder / "qemu.log").open("ab"))
    command = ["setpriv", "--pdeathsig", "KILL", *command]
    quiet = subprocess.DEVNULL
    started = subprocess.Popen(command, cwd=folder, stdin=quiet, stdout=log, stderr=log, pass_fds=pass_fds)

    def end() -> None:
        if started.poll() is None:
            started.kill()
        started.wait()

    stack.callback(end)
    return started


# ---- while it runs -----------------------------------------------------------------------


def _pump(output: IO[bytes] | None, usual: int) -> Callable[[int], None]:
    """Something that passes on what comes by a pipe."""

    def pump(reading: int) -> None:
        with os.fdopen(reading, "rb", buffering=0) as pipe:
            while data := pipe.read(65536):
                if output is None:
                    while data:
                        data = data[os.write(usual, data) :]
                else:
                    output.write(data)
                    output.flush()

    return pump


class _Control:
    """What the guest says of its command."""

    def __init__(self, run: Run, began: float, started: list[Callable[[Run], object]]) -> None:
        self._run = run
        self._began = began
        self.started = started
        self.boot_seconds = 0.0
        self.status: int | None = None

    def listen(self, reading: int) -> None:
        with os.fdopen(reading) as pipe:
            for line in pipe:
                word, *values = line.split() or [""]
                if word == "start":
                    self.boot_seconds = time.monotonic() - self._began
                    for each in self.started:
                        threading.Thread(target=each, args=(self._run,), daemon=True).start()
                elif word == "exit":
                    self.status = int(values[0])


def in_words(machine: Machine) -> str:
    """A machine in a few words, for people."""
    words = [f"{machine.processors} processors", machine.memory]
    if machine.nodes > 1:
        words.append(f"{machine.nodes} nodes")
    words.append(f"huge pages {machine.hugepages or 'none'}")
    if machine.balloon:
        words.append("a balloon")
    return ", ".join([*words, shlex.join(machine.words)] if machine.words else words)
