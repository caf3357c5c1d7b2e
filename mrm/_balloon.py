"""Inflating, deflating and resizing a pool, as Python users do it: in shares, by threads, with progress.

The work is done in physical/balloon.pyx, which says how. Here it is cut into shares that a
Ctrl-C or a cancel can come between. Threads fetch side by side, each a share at a time;
what one has fetched may be taken at once. The caller waits, or has a handle that does.

Whatever happens, what was done is exact: each share says how many frames it did, and the
first error ends the others after the shares that they have in hand.
"""

import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mrm.errors import ArgumentError, Error, ForkedError, FundingError
from mrm.physical.backings import HUGETLB, NUMBERS, shortage_beforehand, useful_threads
from mrm.physical.kernelpool import pages
from mrm.physical.labour import Task, labour
from mrm.physical.limits import explain_shortage
from mrm.physical.spread import levelling, missing_on
from mrm.sizes import format_size, parse_size_or_zero
from mrm.stats import Ballooned
from mrm.system.events import event

if TYPE_CHECKING:
    from mrm._core import Pool

Progress = Callable[[int, int], object]

# How the core begins, with the counts of one call.
_COUNTS = re.compile(r"of \d+ frames[^:]*, \d+ did: ")
# A share: as much as makes the Python around it cheap, and a Ctrl-C not wait. Inflating is
# a hundred times faster, 30 ms for its share on to the system, which the keeper has a part in: it is
# told once a share (4 GiB by GiBs went on at 119 GB/s, at once at 140).
_FETCHED_BYTES = 64 << 20
_INFLATED_BYTES = 4 << 30
# The last shares of several threads shrink to this, so that no thread is left with 20 ms of work
# when the others have ended: as much as a call populates.
_LEAST_BYTES = 8 << 20


def inflate(pool: "Pool", size: int | str, to: str, retire: bool, progress: Progress | None) -> Ballooned:
    """What ``pool.inflate`` does."""
    wanted = parse_size_or_zero(size) // pool.frame_size
    return _Giving(pool, wanted, _check_place("to", to), retire).run(1, progress)


def deflate(
    pool: "Pool",
    size: int | str,
    source: str,
    threads: int | None,
    progress: Progress | None,
    background: bool,
) -> "Ballooned | Deflation":
    """What ``pool.deflate`` does."""
    wanted = _frames(pool, size)
    _check_place("source", source)
    number = _threads(pool, wanted, threads)
    if background:
        return Deflation(pool, wanted, source, number, progress)
    return _Fetching(pool, wanted, source).run(number, progress)


def resize(
    pool: "Pool", size: int | str, place: str, threads: int | None, progress: Progress | None
) -> Ballooned:
    """What ``pool.resize`` does."""
    _check_place("place", place)
    wanted = _frames(pool, size)
    if not 0 < wanted <= len(pool):
        raise ArgumentError(
            f"a pool that was opened with maximum={format_size(pool.maximum)} is resized to one frame at the least, "
            f"and to that at the most, not to {size!r}"
        )
    has = pool.size // pool.frame_size
    if wanted < has:
        return _Giving(pool, has - wanted, place).run(1, progress)
    job = _Fetching(pool, wanted - has, place)
    return job.run(_threads(pool, wanted - has, threads), progress)


def _check_place(name: str, place: str) -> str:
    """Where memory goes to, or comes from."""
    if place not in ("pool", "system"):
        raise ArgumentError(f'{name}= is "pool" or "system", not {place!r}')
    return place


def _frames(pool: "Pool", size: int | str) -> int:
    """A size in frames, rounded up."""
    return -(-parse_size_or_zero(size) // pool.frame_size)


def _threads(pool: "Pool", wanted: int, threads: int | None) -> int:
    """How many fetch so many frames."""
    return useful_threads(NUMBERS[pool.backing], wanted * pool.frame_size, threads)


class _Job:
    """Frames that are to go in or come out, a share at a time."""

    kind = ""  # what the log calls it
    words = ""  # what the frames are to do

    def __init__(
        self, pool: "Pool", wanted: int, do: Callable[[int], tuple[int, Error | None]], share: int, place: str
    ) -> None:
        self.pool = pool
        self._number = pool.number  # which a closed pool does not tell any more
        # Only huge pages have a pool in the kernel; all other memory is the system's.
        self.where = place if pool.backing == "hugetlb" else "system"
        self.node = pool.numa_node if isinstance(pool.numa_node, int) else None
        self.wanted = wanted
        self.frame_size = pool.frame_size
        self.done = 0
        self.error: Error | None = None
        self.threads = 1
        self._do = do
        self._share = share
        self._left = wanted
        self._least = max(1, _LEAST_BYTES // pool.frame_size)
        self._changed = threading.Lock()  # guards all of these
        self._began = time.perf_counter()

    def run(self, threads: int, progress: Progress | None) -> Ballooned:
        """Do it, and say what was done."""
        self.threads = threads
        total = self.wanted * self.frame_size
        told = None if progress is None else lambda _: progress(self.done * self.frame_size, total)
        labour(self._shares(), threads, progress=told)
        outcome = self.outcome()
        event(
            self.kind, pool=self._number, name=self.pool.name, wanted=self.wanted, frames=self.done,
            size=outcome.nbytes, place=self.where, threads=threads, seconds=outcome.seconds,
            error=None if outcome.error is None else str(outcome.error),
        )  # fmt: skip
        return outcome

    def outcome(self) -> Ballooned:
        """What was done so far."""
        seconds = time.perf_counter() - self._began
        nbytes = self.done * self.frame_size
        return Ballooned(self.wanted, self.done, nbytes, seconds, self.threads, self.where, self.explained())

    def explained(self) -> Error | None:
        """Why it was less, in words that help: of all frames, where the core speaks of its share."""
        missing = (self.wanted - self.done) * self.frame_size
        counts = f"of {self.wanted} frames that were to {self.words}, {self.done} did"
        if self.error is None:
            return Error(f"{counts}: it was ended before", nbytes=missing) if missing else None
        if not self.done and not _COUNTS.match(str(self.error)):
            return self.error
        return type(self.error)(
            f"{counts}: {self.cause(self.error)}",
            call=self.error.call,
            error=self.error.errno,
            address=self.error.address,
            nbytes=missing,
        )

    def cause(self, error: Error) -> str:
        """What an error says besides counts."""
        return _COUNTS.sub("", str(error), count=1)

    def stop(self) -> None:
        """Let no share begin any more."""
        with self._changed:
            self._left = 0

    def _shares(self) -> Iterator[Task]:
        while True:
            with self._changed:
                share = min(self._left, self._share)
                if self.threads > 1:
                    share = min(share, max(self._least, self._left // (2 * self.threads)))
                self._left -= share
            if not share:
                return
            yield functools.partial(self._one, share)

    def _one(self, n: int) -> int:
        """Do one share; frames that could not be are nobody's to do any more."""
        try:
            done, error = self._do(n)
        except Error as raised:  # another thread closed the pool
            done, error = 0, raised
        with self._changed:
            self.done += done
            if error is not None:
                self.error = self.error or error
                self._left = 0
        return done * self.frame_size


class _Giving(_Job):
    """Frames that are to lose their memory."""

    kind = "inflate"
    words = "give their memory back"

    def __init__(self, pool: "Pool", wanted: int, to: str, retire: bool = True) -> None:
        on = to == "system" and pool.backing == "hugetlb"
        do = self._to_system if on else self._to_pool
        super().__init__(pool, wanted, do, max(1, _INFLATED_BYTES // pool.frame_size), to)
        self._retire = retire

    def _to_pool(self, n: int) -> tuple[int, Error | None]:
        return self.pool._inflate(n, self._retire)

    def _to_system(self, n: int) -> tuple[int, Error | None]:
        """Give huge pages to the kernel's pool, and take as many out of that.

        Surplus pages leave it by themselves. In this order nobody else finds too few pages in
        between; who finds these makes others surplus, which go when they are let go of.
        """
        keeper = self.pool._keeper()
        before = self.pool._missing_by_node()
        surplus = {node: pages(node).surplus for node in before or [self.node]}
        if sum(surplus.values()) < n:
            for node in surplus:
                keeper.check(-n, node)
        done, error = self.pool._inflate(n, self._retire)
        for node, went in self._went(before, done).items():
            # Of no node in particular where others are at it, too: then all surplus pages count.
            more = max(0, went - surplus.get(node, sum(surplus.values())))
            try:
                taken = -keeper.change(-more, node)
            except Error as refused:
                return done, error or refused
            if taken < more and error is None:
                error = FundingError(
                    f"their memory is in the kernel's pool of huge pages, of which {taken} pages went on to the "
                    "system, as no more could be taken out of it",
                    nbytes=(more - taken) * self.frame_size,
                )
        return done, error

    def _went(self, before: dict[int, int], done: int) -> dict[int | None, int]:
        """How many frames went in on each node; of the machine's, where others are at it at the same time."""
        now = self.pool._missing_by_node()
        went: dict[int | None, int] = {node: now[node] - n for node, n in before.items()}
        if not before or sum(went.values()) != done or min(went.values()) < 0:
            return {self.node: done}
        return went


class _Fetching(_Job):
    """Frames that are to get memory."""

    kind = "deflate"
    words = "get memory"

    def __init__(self, pool: "Pool", wanted: int, source: str) -> None:
        on = source == "system" and pool.backing == "hugetlb"
        do = self._from_system if on else pool._deflate
        super().__init__(pool, wanted, do, max(1, _FETCHED_BYTES // pool.frame_size), source)
        self._backing = NUMBERS[pool.backing]
        nbytes = wanted * self.frame_size
        said = shortage_beforehand(nbytes, self._backing, self.node)
        if said:
            # Asked beforehand, since the kernel would promise it, and kill somebody to keep its word.
            self.error = FundingError(
                f"{format_size(nbytes)} cannot be fetched into the pool. {said}", nbytes=nbytes
            )
            self.stop()

    def _from_system(self, n: int) -> tuple[int, Error | None]:
        """Have the kernel's pool get huge pages from the system, and fetch those."""
        keeper = self.pool._keeper()
        missing = self.pool._missing_by_node()
        got: dict[int | None, int] = {}
        refused = None
        shares: Mapping[int, int] | Mapping[int | None, int] = (
            levelling(missing, n) if missing else {self.node: n}
        )
        for node, share in shares.items():
            try:
                got[node] = keeper.change(share, node)
            except Error as why:
                if not got:
                    raise
                refused = why  # what others gave is fetched all the same
                break
        added = sum(got.values())
        done, error = self.pool._deflate(added) if added else (0, None)
        error = error or refused
        try:
            for node, left in self._unused(got, missing, added - done).items():
                keeper.change(-left, node)
        except Error as why:
            return done, error or why
        if error is None and added < n:
            error = FundingError(
                f"the system has no more of it in blocks of {format_size(self.frame_size)}; end what uses memory, "
                "drop the file cache (`sysctl vm.drop_caches=3`), or set huge pages aside at boot",
                nbytes=(n - done) * self.frame_size,
            )
        return done, error

    def _unused(self, got: dict[int | None, int], missing: dict[int, int], n: int) -> dict[int | None, int]:
        """By node, ``n`` huge pages that were had from the system and not fetched."""
        now = self.pool._missing_by_node() if n and missing else {}
        unused = {}
        for node, pages_had in got.items():
            came = missing[node] - now[node] if node is not None and now else 0
            unused[node] = min(n, max(0, pages_had - max(0, came)))
            n -= unused[node]
        return {node: left for node, left in unused.items() if left}

    def cause(self, error: Error) -> str:
        """The same, with what this machine has, where it was that."""
        if not isinstance(error, FundingError) or error.call != "fallocate" or self._backing != HUGETLB:
            return super().cause(error)
        missing = (self.wanted - self.done) * self.frame_size
        said = missing_on(levelling(self.pool._missing_by_node(), missing // self.frame_size))
        said = said or explain_shortage(missing, error.errno, self.node, call=error.call)
        return f"{error.call} says {error.strerror}. {said}"


class Deflation:
    """Memory that is being fetched in the background; ``pool.deflate(..., background=True)``.

    Frames may be taken as they arrive. The pool may be closed meanwhile, which ends it. In a with
    block it ends with that; after fork the child has none.
    """

    def __init__(
        self, pool: "Pool", wanted: int, source: str, threads: int, progress: Progress | None = None
    ) -> None:
        self._owner = os.getpid()
        self._job = _Fetching(pool, wanted, source)
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._outcome: Ballooned | None = None
        # A daemon: a process that ends does not wait for memory.
        self._thread = threading.Thread(
            target=self._run, args=(threads, progress), name="mrm-deflate", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            raise FundingError(f"no thread could be started to fetch memory: {error}") from error

    def _run(self, threads: int, progress: Progress | None) -> None:
        try:
            self._outcome = self._job.run(threads, progress)
        except BaseException as failure:  # noqa: BLE001 - progress raised it, and wait() raises it again
            self._failure = failure
            self._outcome = self._job.outcome()
        finally:
            self._ended.set()

    @property
    def nbytes(self) -> int:
        """Bytes fetched so far."""
        return self._job.done * self._job.frame_size

    @property
    def total(self) -> int:
        """Bytes that were asked for."""
        return self._job.wanted * self._job.frame_size

    @property
    def done(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self._ended.is_set()

    def wait(self, timeout: float | None = None) -> Ballooned | None:
        """Wait for its end.

        Parameters
        ----------
        timeout : float, optional
            Seconds; for ever when not given.

        Returns
        -------
        Ballooned or None
            Exactly what was done; None if it has not ended yet.

        Raises
        ------
        BaseException
            What ``progress`` raised.
        ForkedError
            In a child, which has not got what the parent fetches.
        """
        self._check()
        if not self._ended.wait(timeout):
            return None
        if self._failure is not None:
            raise self._failure
        return self._outcome

    def cancel(self) -> Ballooned:
        """End it after the shares that are in hand; what was fetched stays, and is returned.

        From ``progress``, which its own thread calls: what was fetched so far.
        """
        self._check()
        self._job.stop()
        if threading.current_thread() is self._thread:
            return self._job.outcome()
        self._ended.wait()
        assert self._outcome is not None
        return self._outcome

    def _check(self) -> None:
        if os.getpid() != self._owner:
            raise ForkedError(
                "this memory is fetched by the parent process, for a pool that a child has not got"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._owner:
            return
        self.cancel()
        if self._failure is not None and value is None:
            raise self._failure

    def __repr__(self) -> str:
        state = "ended" if self.done else "running"
        return f"<mrm.Deflation {state}: {format_size(self.nbytes)} of {format_size(self.total)}>"
