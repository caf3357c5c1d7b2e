"""One run of ``mrm bench heap``: a process for every measurement, and allocators in changing order."""

import json
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from typing import Any

from mrm.errors import Error
from mrm.physical import kernelpool
from mrm.sizes import format_size
from mrm.system.pages import FRAME_SIZE
from mrm.tools.bench.heap.figures import Result, figure
from mrm.tools.bench.heap.lineup import ALLOCATORS, BASE, Entry, environment
from mrm.tools.bench.heap.workloads import WORKLOADS, Kind
from mrm.tools.bench.machine import Neighbours, machine
from mrm.tools.bench.options import Advance
from mrm.tools.bench.rounds import Rounds
from mrm.tools.fund import available

LEAST_POOL = 1 << 30
PATIENCE = 300.0  # seconds beyond those of the measurement, for what cannot stop in between

NO_FIGURE = "{step}: {name} has no figure"
LANES = (
    "A process for each measurement; {repeats} each, interleaved. Rates and peaks are medians, spreads the slowest and "
    "the fastest process. An operation is a block allocated, written to and freed; of a block that grows, a step."
)
PEAKS = (
    "Peak memory: what the process came to have beyond what it had before its threads began, resident pages by the "
    "kernel's own highest number, huge pages that were set aside by looking every 5 ms. Of a heap on a pool: the "
    "frames that it took; the pool itself is funded before."
)


def run(
    workloads: list[str],
    threads: list[int],
    allocators: list[str],
    repeats: int,
    seconds: float,
    grow_to: int,
    advance: Advance,
) -> Result:
    """Measure everything.

    Parameters
    ----------
    workloads, allocators : list of str
        Names, in the order of the figures. Allocators that are not here are left out, and named.
    threads : list of int
        Numbers of threads.
    repeats : int
        Processes for each figure.
    seconds : float
        That each is measured for.
    grow_to : int
        Bytes that blocks grow to, those of all threads together.
    advance : callable
        Told what is being measured, how many steps are done, and of how many.
    """
    result = Result(machine())
    neighbours = Neighbours()
    entries = _present(result, allocators)
    steps = [(WORKLOADS[name], count) for name in workloads for count in threads]
    room = max((pool_bytes(kind, count, grow_to) for kind, count in steps), default=0)
    with ExitStack() as stack:
        if any(entry.hugetlb for entry in entries):
            outcome = stack.enter_context(available(room))
            entries = _with_huge_pages(result, entries, outcome, room)
        rounds: Rounds[tuple[str, int], dict[str, Any]] = Rounds(
            repeats, len(steps) * repeats * len(entries), NO_FIGURE, result.notes, advance
        )
        with rounds:
            for kind, count in steps:
                once = partial(_once, kind, count, seconds, grow_to)
                rounds.measure((kind.name, count), f"{kind.name}, {words(count)}", entries, once)
    result.workloads = [
        figure(workload, count, name, processes) for (workload, count), name, processes in rounds.kept()
    ]
    _tell(result, entries, threads, rounds.each)
    result.stopped = rounds.tell(result.notes)
    neighbours.tell(
        result.machine, result.notes, "rates are lower and spreads wider than on a machine at rest"
    )
    return result


def words(threads: int) -> str:
    """So many threads."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def pool_bytes(kind: Kind, threads: int, grow_to: int) -> int:
    """Bytes of a pool that has room for a workload, and for what a heap keeps."""
    needed = max(LEAST_POOL, kind.memory(threads, grow_to) * 5 // 4)
    return -(-needed // FRAME_SIZE) * FRAME_SIZE


def _present(result: Result, allocators: list[str]) -> list[Entry]:
    """Those that this machine has; the others are named."""
    present = []
    for name in allocators:
        entry = ALLOCATORS[name]
        try:
            if entry.mount is not None and entry.mount not in environment(entry):
                raise Error("there is no mount of hugetlbfs for it")
            if not (entry.ours and entry.hugetlb):  # whether there are pages for it is looked at later
                child({"allocator": name, "room": LEAST_POOL}, environment(entry), PATIENCE)
        except Error as why:
            result.missing[name] = f"{why}; {entry.way_out}"
        else:
            present.append(entry)
    return present


def _with_huge_pages(
    result: Result, entries: list[Entry], outcome: kernelpool.Outcome, room: int
) -> list[Entry]:
    """All but those that cannot do without huge pages that are set aside, where there are too few."""
    if outcome.after.available * FRAME_SIZE >= room:
        return entries
    why = (
        f"{format_size(room)} of huge pages are needed, and {outcome.after.available} pages are free. "
        f"{kernelpool.why_not_all(outcome)}"
    ).rstrip(".")
    stay = []
    for entry in entries:
        if entry.hugetlb and (entry.ours or entry.mount):
            result.missing[entry.name] = why
        else:
            stay.append(entry)
            if entry.hugetlb:
                result.notes.append(f"{entry.name} had to do with the huge pages that there were: {why}.")
    return stay


def _once(kind: Kind, threads: int, seconds: float, grow_to: int, entry: Entry) -> dict[str, Any]:
    """One process's figures.

    Raises
    ------
    Error
        If it fails, or the allocator did.
    """
    asked = {
        "allocator": entry.name,
        "workload": kind.name,
        "threads": threads,
        "seconds": seconds,
        "grow_to": grow_to,
        "room": pool_bytes(kind, threads, grow_to),
    }
    figures = child(asked, environment(entry), seconds + PATIENCE)
    if figures["damaged"] or figures["refused"]:
        raise Error(
            f"it refused {figures['refused']} blocks, and {figures['damaged']} were not as they had been left"
        )
    return figures


def child(asked: dict[str, Any], started_with: dict[str, str], patience: float) -> dict[str, Any]:
    """Measure once, in a process of its own.

    Raises
    ------
    Error
        If it fails, with its last words.
    """
    command = [sys.executable, "-m", "mrm.tools.bench.heap.child", json.dumps(asked)]
    try:
        ended = subprocess.run(
            command,
            env=started_with,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
        )
    except subprocess.TimeoutExpired as error:
        raise Error(f"its process did not end within {patience:g} s") from error
    if ended.returncode:
        said = ended.stderr.strip().splitlines()
        raise Error(said[-1] if said else f"its process ended with status {ended.returncode}, without a word")
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def _tell(result: Result, entries: list[Entry], threads: list[int], repeats: str) -> None:
    """What a reader must know beside the figures."""
    result.notes[:0] = [f"{name} is left out: {why}." for name, why in result.missing.items()]
    result.notes.append(LANES.format(repeats=repeats))
    result.notes.append(PEAKS)
    result.notes += [f"{entry.name}: {entry.how}." for entry in entries if entry.how]
    if result.names("allocator") and BASE not in result.names("allocator"):
        result.notes.append(f"Nothing is compared with {BASE}, which was not measured.")
    if threads and max(threads) > result.machine["cpus"]:
        result.notes.append(f"{max(threads)} threads work on {result.machine['cpus']} processors.")
