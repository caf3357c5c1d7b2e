"""Cycles of inflate and deflate, each beside the kernel's own, in changing order.

The pool and the file by hand have memory in turn, never at once, so that both are measured on
the same huge pages, and so many are enough: what one gave back, the other fetches next.
A cycle measures both with every number of threads; the next one begins with the other. What
is reported are medians over the cycles, and ratios cycle by cycle.

The kernel's own rate is that of the fastest way there is: before the first cycle, calls and parts
of several sizes are tried on as many pages.

On to the system it is the same, with nr_hugepages lowered after the pages were given back, and
raised before they are fetched. The pool's keeper is started before anything is measured. By
hand the setting is written by this process, as anybody would, and put back at the end of each cycle:
who ends the process within one leaves it lowered.
"""

import time
from collections.abc import Callable
from statistics import median

from mrm import Pool
from mrm.errors import Error
from mrm.physical import keeper as numbers
from mrm.physical import kernelpool
from mrm.sizes import format_size
from mrm.stats import Ballooned
from mrm.tools.bench.balloon.byhand import FALLOCATE, POPULATE, KernelFile
from mrm.tools.bench.balloon.figures import Deflate, Inflate, beside_kernel

MIB = 1 << 20
PARTS = (4 * MIB, 8 * MIB, 64 * MIB)
TRIALS = 3
TRIED_BYTES = 1 << 30
WAYS = {POPULATE: "MADV_POPULATE_WRITE", FALLOCATE: "fallocate"}


class Best:
    """The kernel's fastest ways with a file, found by trying.

    Parameters
    ----------
    file : KernelFile
        Empty; it is empty again afterwards.
    threads : sequence of int
        Numbers of threads to try.
    """

    def __init__(
        self, file: KernelFile, threads: list[int], ways: tuple[int, ...] = (POPULATE, FALLOCATE)
    ) -> None:
        self.file = file
        self._shown = POPULATE in ways
        self.tried: dict[str, float] = {}
        self.fills: dict[int, tuple[int, int]] = {}
        punches: dict[int, list[float]] = {}
        parts = sorted({min(part, file.nbytes) for part in PARTS})
        holes = sorted({min(part, file.nbytes) for part in (64 * MIB, 1 << 30, file.nbytes)})
        for n in threads:
            seconds: dict[tuple[int, int], list[float]] = {}
            for trial in range(TRIALS):
                for number, (way, part) in enumerate((w, p) for w in ways for p in parts):
                    seconds.setdefault((way, part), []).append(file.fill(part, n, way))
                    if self._shown:
                        file.fill(part, 1, POPULATE)
                    hole = holes[(trial + number) % len(holes)]
                    punches.setdefault(hole, []).append(file.punch(hole))
            self.fills[n] = min(seconds, key=lambda key: median(seconds[key]))
            for (way, part), found in seconds.items():
                name = f"{WAYS[way]}, {format_size(part)} a call, {_threads(n)}"
                self.tried[name] = file.nbytes / median(found) / 1e9
        self.hole = min(punches, key=lambda hole: median(punches[hole]))
        for hole, found in punches.items():
            name = f"PUNCH_HOLE, {format_size(hole)} a call"
            self.tried[name] = file.nbytes / median(found) / 1e9

    def use(self, file: KernelFile) -> None:
        """Go on with another file, with what was found on this one."""
        if self.hole == self.file.nbytes:
            self.hole = file.nbytes
        self.file = file

    def fill(self, threads: int) -> float:
        """Fetch all pages: seconds. Page tables show them afterwards, as a pool's do, timed or not."""
        way, part = self.fills[threads]
        seconds = self.file.fill(part, threads, way)
        if self._shown and way != POPULATE:
            self.file.fill(part, 1, POPULATE)
        return seconds

    def punch(self) -> float:
        """Give all pages back: seconds."""
        return self.file.punch(self.hole)

    def fill_way(self, threads: int) -> str:
        """The fastest way to fetch, in words."""
        way, part = self.fills[threads]
        return f"{WAYS[way]}, {format_size(part)} a call"

    @property
    def punch_way(self) -> str:
        """The same for giving back."""
        return f"PUNCH_HOLE, {format_size(self.hole)} a call"


def timed(do: Callable[[], Ballooned]) -> float:
    """Seconds that it took to do all of what was asked; raises if it was less."""
    begin = time.perf_counter()
    outcome = do()
    seconds = time.perf_counter() - begin
    if outcome.error is not None:
        raise outcome.error
    return seconds


def to_pool(
    pool: Pool, best: Best, threads: list[int], cycles: int, advance: Callable[[int], None]
) -> tuple[Inflate, list[Deflate]]:
    """Both directions within the kernel's pool of huge pages; ``pool`` and file are empty, before and after."""
    nbytes = pool.maximum
    inflate: tuple[list[float], list[float]] = ([], [])
    deflate: dict[int, tuple[list[float], list[float]]] = {n: ([], []) for n in threads}

    def ours(n: int) -> None:
        deflate[n][0].append(timed(lambda: pool.deflate(nbytes, threads=n)))
        inflate[0].append(timed(lambda: pool.inflate(nbytes)))

    def kernels(n: int) -> None:
        deflate[n][1].append(best.fill(n))
        inflate[1].append(best.punch())

    for cycle in range(cycles):
        advance(cycle)
        for n in threads if cycle % 2 else reversed(threads):
            for measure in (ours, kernels) if cycle % 4 < 2 else (kernels, ours):
                measure(n)
    backing = pool.backing
    return (
        Inflate(backing, kernel_way=best.punch_way, **beside_kernel(nbytes, *inflate)),
        [
            Deflate(backing, kernel_way=best.fill_way(n), threads=n, **beside_kernel(nbytes, *deflate[n]))
            for n in threads
        ],
    )


def to_system(pool: Pool, best: Best, cycles: int, advance: Callable[[int], None]) -> tuple[Inflate, Deflate]:
    """Both directions on to the system, by one thread; ``pool`` and file are empty, before and after."""
    refused = why_not_system()
    if refused:
        return Inflate(pool.backing, to="system", note=refused), Deflate(
            pool.backing, source="system", note=refused
        )
    nbytes, count = pool.maximum, pool.maximum // pool.frame_size
    setting = kernelpool.folder()
    inflate: tuple[list[float], list[float]] = ([], [])
    deflate: tuple[list[float], list[float]] = ([], [])

    def ours() -> None:
        pool.deflate(nbytes, threads=1)
        inflate[0].append(timed(lambda: pool.inflate(nbytes, to="system")))
        deflate[0].append(timed(lambda: pool.deflate(nbytes, source="system", threads=1)))
        pool.inflate(nbytes)

    def by_hand(change: int) -> int:
        return numbers.shift(setting, change)[0]

    def kernels() -> None:
        best.fill(1)
        taken = 0
        try:
            begin = time.perf_counter()
            best.punch()
            taken = by_hand(-count)
            inflate[1].append(time.perf_counter() - begin)
        finally:
            begin = time.perf_counter()
            while taken:
                added = by_hand(-taken)
                if not added:
                    raise Error("the huge pages that were given to the system by hand do not come back")
                taken += added
            raised = time.perf_counter() - begin
        deflate[1].append(raised + best.fill(1))
        best.punch()

    try:
        # Its keeper is a process, which is started when it is needed first.
        pool.deflate(pool.frame_size)
        timed(lambda: pool.inflate(pool.frame_size, to="system"))
        timed(lambda: pool.deflate(pool.frame_size, source="system"))
        pool.inflate(pool.frame_size)
        for cycle in range(cycles):
            advance(cycle)
            for measure in (ours, kernels) if cycle % 2 else (kernels, ours):
                measure()
    except Error as failed:
        note = f"after {len(inflate[0])} cycles: {failed}"
        return Inflate(pool.backing, to="system", note=note), Deflate(
            pool.backing, source="system", note=note
        )
    return (
        Inflate(
            pool.backing,
            kernel_way=f"{best.punch_way}, then nr_hugepages lowered",
            to="system",
            **beside_kernel(nbytes, *inflate),
        ),
        Deflate(
            pool.backing,
            kernel_way=f"nr_hugepages raised, then {best.fill_way(1)}",
            source="system",
            **beside_kernel(nbytes, *deflate),
        ),
    )


def why_not_system() -> str | None:
    """Why huge pages cannot be had from the system here, or None if they can."""
    if kernelpool.writable():
        return None
    return f"{kernelpool.setting()} may not be written: it takes root"


def _threads(n: int) -> str:
    return "1 thread" if n == 1 else f"{n} threads"
