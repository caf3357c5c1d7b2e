"""One run of ``mrm bench programs``: a process for every measurement, and setups in changing order."""

import json
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mrm._coverage import HUGE, HUGETLB
from mrm.errors import Error
from mrm.physical import kernelpool
from mrm.physical.files import read_text
from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.machine import Neighbours, available_bytes, machine
from mrm.tools.bench.options import Advance
from mrm.tools.bench.programs.figures import Result, figure
from mrm.tools.bench.programs.lineup import SCRIPT, Program, Setup, ask, started_with
from mrm.tools.bench.rounds import Rounds
from mrm.tools.fund import available

PATIENCE = 1800  # seconds
SPARE = 1.3  # of a program's memory: so much must be free

NO_FIGURE = "{step} has no figure with {name}"
PROCESSES = (
    "A process for each measurement; {repeats} each, interleaved. Seconds are medians, spreads the fastest and the "
    "slowest process. Each does its work once untimed, and then three times."
)
SHARES = (
    "The share on huge pages is of all that the process has, the interpreter and its libraries too, by "
    "/proc/PID/smaps_rollup when the work is done: AnonHugePages, ShmemPmdMapped, FilePmdMapped and hugetlb pages, "
    "over Rss and hugetlb pages."
)
NUMPY = (
    "NumPy asks for transparent huge pages for arrays of 4 MiB and more by itself (NUMPY_MADVISE_HUGEPAGE): where the "
    "kernel's setting is madvise, gather has them in every setup."
)


def run(
    python: str, sizes: dict[Program, int], setups: list[Setup], repeats: int, advance: Advance
) -> Result:
    """Measure everything.

    Parameters
    ----------
    python : str
        The interpreter.
    sizes : dict of Program to int
        What is run, and how large.
    setups : list of Setup
        How. Those that cannot be had are left out, and named.
    repeats : int
        Processes for each figure.
    advance : callable
        Told what is being measured, how many steps are done, and of how many.
    """
    result = Result(machine(), {program.name: size for program, size in sizes.items()})
    result.machine["interpreter"] = _version(python)
    neighbours = Neighbours()
    present = []
    for setup in setups:
        if (why := setup.missing(python)) is None:
            present.append(setup)
        else:
            result.missing[setup.name] = why
    programs = [program for program in sizes if _fits(result, python, program, sizes[program])]
    rounds: Rounds[str, tuple[float, float | None]] = Rounds(
        repeats, len(programs) * len(present) * repeats, NO_FIGURE, result.notes, advance
    )
    with rounds:
        for program in programs:
            process = partial(once, python, program, sizes[program])
            rounds.measure(program.name, program.name, present, process)
    result.programs = [figure(*measured) for measured in rounds.kept()]
    result.notes[:0] = [f"{name} is left out: {why}." for name, why in result.missing.items()]
    result.notes += [PROCESSES.format(repeats=rounds.each), SHARES]
    if any(program.needs == "numpy" for program in programs):
        result.notes.append(NUMPY)
    result.notes += [f"{setup.name}: {setup.what}." for setup in present]
    result.stopped = rounds.tell(result.notes)
    neighbours.tell(
        result.machine, result.notes, "seconds are more and spreads wider than on a machine at rest"
    )
    return result


def once(python: str, program: Program, size: int, setup: Setup) -> tuple[float, float | None]:
    """Run a program once: its seconds, and the share of its memory on huge pages.

    Raises
    ------
    Error
        If it fails, with its last words, or there are too few huge pages to lend it.
    """
    with ExitStack() as stack:
        if setup.lends:
            wanted = program.memory(size)
            outcome = stack.enter_context(available(wanted))
            if not outcome.enough:
                raise Error(
                    f"{format_size(wanted)} of huge pages are to be lent, and {outcome.after.available} are free. "
                    f"{kernelpool.why_not_all(outcome)}"
                )
        stack.enter_context(setup.around())
        command = [python, *setup.command, str(SCRIPT), program.name, str(size)]
        return _watched(command, started_with(setup.environment))


def _watched(command: list[str], environment: dict[str, str]) -> tuple[float, float | None]:
    """Run a command until it has said its figures, look at its memory, and let it end."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            if not line:
                words = process.stderr.read().strip().splitlines()
                raise Error(words[-1] if words else "it ended without a word")
            said = json.loads(line)
            share = huge_share(read_text(Path(f"/proc/{said['pid']}/smaps_rollup")))
            process.communicate("\n", timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    return said["seconds"], share


def huge_share(rollup: str) -> float | None:
    """What part of a process's memory lies on huge pages, by its ``smaps_rollup``; None where that is empty."""
    figures: dict[str, int] = {}
    for line in rollup.splitlines()[1:]:
        name, _, figure_ = line.partition(":")
        figures[name] = int(figure_.split()[0])
    hugetlb = sum(figures.get(name, 0) for name in HUGETLB)
    resident = figures.get("Rss", 0) + hugetlb
    return (sum(figures.get(name, 0) for name in HUGE) + hugetlb) / resident if resident else None


def _fits(result: Result, python: str, program: Program, size: int) -> bool:
    """Whether there is memory for a program, and what it imports; a note if not."""
    if program.needs and ask(python, f"import {program.needs}").returncode:
        result.notes.append(
            f"{program.name} is left out: it needs {program.needs}: pip install {program.needs}."
        )
        return False
    needed = int(program.memory(size) * SPARE)
    if needed > available_bytes():
        result.notes.append(
            f"{program.name} is left out: it needs {format_size(needed)} of memory, and "
            f"{format_size(available_bytes() // FRAME_SIZE * FRAME_SIZE)} are to be had: choose a smaller one."
        )
        return False
    return True


def _version(python: str) -> str:
    """What an interpreter says of itself."""
    try:
        ended = subprocess.run([python, "--version"], capture_output=True, text=True, timeout=60)
    except OSError as error:
        raise Error(f"{python} cannot be run: {error.strerror}") from error
    return ended.stdout.strip()
