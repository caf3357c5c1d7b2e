"""A thread that grows a pool ahead of demand, and shrinks it when others need memory.

What to do, ``scaling`` decides; how things stand, ``readings`` tells it; here is what is done. The thread
(``watch``) lies in poll until one of the kernel's events comes (see ``pressure``), and costs nothing
meanwhile. Three things are told by no event: that the machine's free huge pages have become few, that its
memory has (before anybody stalls for want of it), and that the pool's free frames have. Only where those count
is there a timer, of a quarter of a second, and of 50 ms after something was given back: that is what stands between
a neighbour's need and its pages. A look
takes 15 system calls on huge pages (five small files), nine more for ``leave_memory``, six for each limit
of a control group, and more where that is near or the kernel may make surplus pages; ``stats()`` has how
often it woke, by what, and what processor time it took in all.

Every decision is an ``Entry`` in a log of bounded length, with the figures that led to it and what
came of it.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mrm.errors import ArgumentError, ClosedError, Error, ForkedError, FundingError
from mrm.physical.cgroups import ROOT
from mrm.physical.kernelpool import setting, writable
from mrm.physical.pressure import Event, events
from mrm.physical.readings import Readings, Scalable
from mrm.physical.scaling import Decision, Marks, Policy
from mrm.physical.watch import Watch
from mrm.sizes import format_size, parse_size_or_zero

#: Seconds between two looks at what no event tells of.
INTERVAL = 0.25
#: Seconds until the next one, after something was given back.
SOON = 0.05

_ENTRIES = 1000


@dataclass(frozen=True)
class Entry:
    """A decision.

    Attributes
    ----------
    time : float
        When, in seconds since 1970.
    action : str
        ``"shrink"``, ``"grow"`` or ``"stay"``; ``"watch"`` and ``"end"`` for the thread's own.
    frames : int
        Frames that were wanted.
    done : int
        Frames that it came to.
    where : str
        ``"pool"`` or ``"system"``: where pages went, or came from.
    reason : str
        Why, with figures.
    result : str
        What came of it.
    """

    time: float
    action: str
    frames: int
    done: int
    where: str
    reason: str
    result: str

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.time))
        said = f"{day}.{int(self.time % 1 * 1000):03d} {self.action}"
        if self.frames:
            said += f" {_counted(self.frames)} {'to' if self.action == 'shrink' else 'from'} the {self.where}"
        return f"{said}: {self.reason}{f' -> {self.result}' if self.result else ''}"


@dataclass(frozen=True)
class ScalingStats:
    """Figures of an autoscaler since it began."""

    wakeups: int  #: of the thread
    by_timer: int  #: of them, because ``interval`` had passed
    by_event: int  #: ... and because the kernel told of something
    grown: int  #: frames
    shrunk: int  #: frames
    decisions: int  #: entries of the log, those that were dropped as well
    refused: int  #: decisions that came to nothing, or to less
    cpu_seconds: float  #: processor time of the thread

    def as_dict(self) -> dict[str, int | float]:
        """The fields by name."""
        return asdict(self)


class Autoscaler:
    """Grows and shrinks a pool by itself; made by ``pool.autoscale``.

    Parameters
    ----------
    pool : Pool
        What it is about.
    minimum, maximum : int or str
        What the pool keeps, and what it grows to, in bytes of memory. At most what it has frames for.
    headroom : int or str, optional
        Free frames that it grows to as soon as fewer than half as many are free; an eighth of
        ``maximum`` when not given, 0 for never.
    leave_free : int or str, optional
        Huge pages of the kernel's to be left to others; as much as it takes at once of somebody who does
        not ask again is the right measure. 64 MiB when not given, 0 to leave none.
    leave_memory : int or str, optional
        Memory that is to stay available to the rest of the machine (MemAvailable of /proc/meminfo): less,
        and as much as is missing is sent on to the system. In a virtual machine it falls when the
        host's balloon asks for memory. On huge pages it takes ``to="system"``. None when not given.
    step : int or str, optional
        How much at a time; a sixteenth of ``maximum`` when not given.
    calm : float, optional
        Seconds without pressure before it grows again.
    to : {"pool", "system"}, optional
        Whether memory is sent on to the system when there is pressure on it; by default pages only
        ever go to the kernel's pool of huge pages, for others that use it. A pool that is not on
        huge pages has only the system.
    tell : callable, optional
        Called with each Entry, in the thread.
    interval : float, optional
        Seconds between two looks at what no event tells of.
    root : Path, optional
        Where /proc and /sys are.
    clock : callable, optional
        What tells the time that ``calm`` is measured in.
    start : bool, optional
        Whether to start the thread; without it, somebody has to call ``turn``.
    """

    def __init__(
        self,
        pool: Scalable,
        minimum: int | str,
        maximum: int | str,
        *,
        headroom: int | str | None = None,
        leave_free: int | str | None = None,
        leave_memory: int | str = 0,
        step: int | str | None = None,
        calm: float = 10.0,
        to: str = "pool",
        tell: Callable[[Entry], object] | None = None,
        interval: float = INTERVAL,
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
        start: bool = True,
    ) -> None:
        if to not in ("pool", "system"):
            raise ArgumentError(f'to is "pool" or "system", not {to!r}')
        if not calm >= 0 or not interval > 0:
            raise ArgumentError("calm is 0 or more seconds, and interval is more than 0")
        self._marks = _marks(pool, minimum, maximum, headroom, leave_free, leave_memory, step, calm, to)
        self._pool = pool
        self._root = root
        self._clock = clock
        self._tell = tell
        self._readings = Readings(pool, self._marks, root, clock)
        self._policy = Policy(self._marks)
        self._turning = threading.Lock()
        self._entries: deque[Entry] = deque(maxlen=_ENTRIES)
        self._wakeups = self._by_timer = self._by_event = 0
        self._grown = self._shrunk = self._decisions = self._refused = 0
        self._cpu_seconds = 0.0
        self._interval = interval
        self._needs_timer = bool(self._marks.headroom or self._marks.leave_free or self._marks.leave_memory)
        self._outside = False  # whether it has less than its minimum, or more than its maximum
        self._closed = False
        self._watch: Watch | None = None
        if start:
            self._start()

    # ---- what can be seen --------------------------------------------------------------

    @property
    def entries(self) -> list[Entry]:
        """The last thousand decisions, oldest first."""
        return list(self._entries)

    @property
    def log(self) -> list[str]:
        """The same as lines that a person can read."""
        return [str(entry) for entry in self.entries]

    @property
    def running(self) -> bool:
        """Whether the thread is at work."""
        return self._watch is not None and self._watch.running

    def stats(self) -> ScalingStats:
        """Figures since it began."""
        return ScalingStats(
            self._wakeups,
            self._by_timer,
            self._by_event,
            self._grown,
            self._shrunk,
            self._decisions,
            self._refused,
            self._cpu_seconds,
        )

    # ---- its end -----------------------------------------------------------------------

    def close(self) -> None:
        """End the thread, after what it is at; the pool stays as it is. Idempotent."""
        self._closed = True
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_watch", None) is not None:
            self.close()

    # ---- turns -------------------------------------------------------------------------

    def turn(self, happened: tuple[tuple[str, str], ...] = ()) -> bool:
        """Look at how things stand, and do what is to be done; whether there is more of it.

        Parameters
        ----------
        happened : tuple of (str, str), optional
            Events: what is short (``"memory"`` or ``"huge pages"``), and in words.
        """
        with self._turning:
            reading = self._readings.take(happened)
            self._outside = not self._marks.minimum <= reading.funded <= self._marks.maximum
            decision = self._policy.decide(reading)
            if decision is None:
                return False
            done, result = self._carry_out(decision)
            self._policy.done(decision, done, self._clock())
            self._enter(decision.action, decision.frames, done, decision.where, decision.reason, result)
            return decision.partly and done == decision.frames

    def _carry_out(self, decision: Decision) -> tuple[int, str]:
        if decision.action == "stay":
            return 0, ""
        size = decision.frames * self._marks.frame_size
        try:
            if decision.action == "shrink":
                # What old addresses show, the runtime retires when it likes, and not we.
                did = self._pool.inflate(size, retire=False, to=decision.where)
                self._shrunk += did.frames
            else:
                did = self._pool.deflate(size, source=decision.where)
                self._grown += did.frames
        except (ClosedError, ForkedError):
            raise
        except Error as error:
            self._refused += 1
            return 0, f"{type(error).__name__}: {error}"
        self._refused += did.frames < decision.frames
        said = f"{_counted(did.frames)} ({format_size(did.nbytes)}) in {did.seconds * 1000:.3g} ms"
        if did.error is not None:
            if isinstance(did.error, ClosedError | ForkedError):
                raise did.error
            said += f", as {did.error}"
        return did.frames, said

    def _enter(self, action: str, frames: int, done: int, where: str, reason: str, result: str = "") -> None:
        entry = Entry(time.time(), action, frames, done, where, reason, result)
        self._entries.append(entry)
        self._decisions += 1
        if self._tell is not None:
            try:
                self._tell(entry)
            except Exception as error:  # noqa: BLE001 - whatever it is, the pool needs its scaler
                self._tell = None
                self._enter("watch", 0, 0, "", f"tell raised {error!r}, and is not called any more")

    # ---- the thread --------------------------------------------------------------------

    def _start(self) -> None:
        there, refused = events(self._root)
        # Memory that no limit counts does not ease a group that is near its limit.
        kept = [
            each for each in there if self._readings.counted or not each.of_group or each.kind == "huge pages"
        ]
        for each in there:
            if each not in kept:
                each.close()
        watched = [each.name for each in kept]
        if self._needs_timer:
            watched.append(
                f"free pages{', memory' if self._marks.leave_memory else ''} and frames every {self._interval:g} s"
            )
        if self._marks.leave_free and self._readings.kernels_pool() is None:
            refused.append("the machine's free huge pages are hidden here, and none are left to others")
        if self._marks.leave_memory and self._readings.memory() is None:
            refused.append("the machine's memory is hidden here, and none is left to others")
        reason = f"watching {', '.join(watched) or 'nothing'}"
        if refused:
            reason += f"; not watching: {'; '.join(refused)}"
        if self._marks.huge and self._marks.to == "system" and (why := self._prepare()):
            reason += f"; {why}"
        self._enter("watch", 0, 0, "", reason)
        self._watch = Watch(self, kept)
        if self._closed:
            self.close()  # another thread has called it meanwhile

    def _prepare(self) -> str:
        """Have what changes nr_hugepages be there before memory is short; why it is not, if so.

        It is a process of its own, and starting one takes memory, and files that the kernel has to
        read again when it is short of that: beside a host's balloon it took 11 s (emulated).
        """
        if not writable(root=self._root):
            return (
                f"{setting(root=self._root)} may not be written, and only surplus pages go on to the system"
            )
        try:
            self._pool._keeper().start()
        except FundingError as error:
            return str(error)
        return ""

    def _woken(
        self, seen: list[tuple[Event, int]], slept: bool, gone: Callable[[Event], None]
    ) -> float | None:
        """What the thread does each time; the seconds until it is to look again without an event.

        A look that follows another at once, as there was more to be done, is no waking.
        """
        began = time.thread_time()
        self._wakeups += slept or bool(seen)
        happened = []
        for event, mask in seen:
            try:
                words = event.happened(mask)
            except OSError as error:
                gone(event)
                self._enter("watch", 0, 0, "", f"no longer watching {event.name}: {error.strerror}")
                continue
            if words is not None:
                happened.append((event.kind, words))
        if happened:
            self._by_event += 1
        elif slept and not seen:
            self._by_timer += 1
        shrunk = self._shrunk
        try:
            if self.turn(tuple(happened)):
                return 0.0
            # Who wanted these mostly wants more: beside a neighbour that took two thirds of a GiB, looks
            # at the usual interval made it wait for 1.4 s.
            if self._shrunk != shrunk:
                return min(self._interval, SOON)
            # Growing to the minimum may have failed, and no event says when it would succeed.
            return self._interval if self._needs_timer or self._outside else None
        finally:
            self._cpu_seconds += time.thread_time() - began


def _marks(
    pool: Scalable,
    minimum: int | str,
    maximum: int | str,
    headroom: int | str | None,
    leave_free: int | str | None,
    leave_memory: int | str,
    step: int | str | None,
    calm: float,
    to: str,
) -> Marks:
    """What was asked for, in frames, checked."""
    frame, huge = pool.frame_size, pool.backing == "hugetlb"

    def frames(size: int | str, up: bool = True) -> int:
        nbytes = parse_size_or_zero(size)
        return -(-nbytes // frame) if up else nbytes // frame

    least, most = frames(minimum), frames(maximum, up=False)
    there = pool.stats().frames
    if not least <= most:
        raise ArgumentError(f"minimum ({minimum!r}) is not above maximum ({maximum!r}), in whole frames")
    if not 0 < most <= there:
        raise ArgumentError(
            f"maximum is at least a frame and at most what the pool has frames for, {format_size(there * frame)}, "
            f"not {maximum!r}"
        )
    left = frames(leave_memory)
    if left and huge and to != "system":
        raise ArgumentError(
            'leave_memory= takes to="system" on huge pages: what goes to the kernel\'s pool of them is no memory '
            "for the rest of the machine"
        )
    room = frames(headroom) if headroom is not None else max(1, most // 8)
    return Marks(
        frame,
        least,
        most,
        room,
        -(-room // 2),
        frames(step) if step is not None else max(1, most // 16),
        frames(leave_free if leave_free is not None else "64MiB") if huge else 0,
        calm,
        huge,
        to if huge else "system",
        left,
    )


def _counted(frames: int) -> str:
    return f"{frames} frame{'' if frames == 1 else 's'}"
