"""Threads that do a job while their caller waits, where no Ctrl-C can strike them.

Python raises KeyboardInterrupt between two instructions of the main thread, and so
possibly between a system call that makes something and the assignment that remembers
it. What must not be lost is therefore done by other threads, with all signals blocked:
no call of theirs is ever interrupted, and no exception comes from outside. The caller
only waits, reports progress, and is the one that gets the KeyboardInterrupt: it then
stops the others, waits for the calls that they are in, and lets it go on.

Each job gets threads of its own, which end with it, so that what a thread sets for
itself, such as its memory policy, ends with it too.
"""

import _thread
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterable

from mrm.errors import FundingError

Task = Callable[[], int]

# Progress is told this often: a terminal shows no more, and callbacks may be slow.
_SECONDS_BETWEEN_REPORTS = 0.1


def labour(
    tasks: Iterable[Task],
    threads: int = 1,
    *,
    prepare: Callable[[], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Have threads do all tasks; return when the last one is done.

    Parameters
    ----------
    tasks : iterable of callables
        Each returns how many bytes it did. Taken one after the other, by whichever
        thread is free.
    threads : int, optional
        How many work.
    prepare : callable, optional
        What every thread does first.
    progress : callable, optional
        Called in the calling thread, now and then and at the end, with the bytes done.
        What it raises ends the job.

    Raises
    ------
    BaseException
        The first one that a task, ``prepare`` or ``progress`` raised, or that a signal
        handler raised in the caller. No thread is at work any more by then.
    """
    _Job(tasks, prepare).run(threads, progress)


class _Job:
    """What the threads of one job share."""

    def __init__(self, tasks: Iterable[Task], prepare: Callable[[], object] | None) -> None:
        self._tasks = iter(tasks)
        self._prepare = prepare
        self._changed = threading.Condition()  # guards all below
        self._stop = False
        self._active = 0  # threads at work
        self._ended = 0  # threads that came to their end
        self._done = 0  # bytes
        self._failure: BaseException | None = None

    def run(self, threads: int, progress: Callable[[int], object] | None) -> None:
        """The caller's side."""
        try:
            started = self._start(threads)
            while not self._wait(started):
                if progress:
                    progress(self._done)
            if progress and not self._failure:
                progress(self._done)
        finally:
            interrupted = self._halt()
        if failure := self._failure or interrupted:
            raise failure

    def _start(self, threads: int) -> int:
        """Start the threads; how many there are."""
        started = 0
        for _ in range(threads):
            try:
                _thread.start_new_thread(self._work, ())
            except RuntimeError as error:
                if not started:
                    raise FundingError(_no_thread()) from error
                break
            started += 1
        return started

    def _wait(self, started: int) -> bool:
        """Wait for the end or the next report; whether it is the end."""
        until = time.monotonic() + _SECONDS_BETWEEN_REPORTS
        with self._changed:
            while self._ended < started and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._ended == started

    def _halt(self) -> BaseException | None:
        """Wait until no thread is at work and none can begin any more; what interrupted that.

        A thread that was started a moment ago and has not begun finds ``_stop`` set. A
        Ctrl-C here hastens nothing: the memory that a call is about cannot be let go of
        before the call is over. If it is the second, the first one goes on, and it is
        dropped; if it is the first, it is raised when all is over.
        """
        interrupted: BaseException | None = None
        while True:
            try:
                with self._changed:
                    self._stop = True
                    while self._active:
                        self._changed.wait()
                return interrupted
            except BaseException as interruption:  # noqa: BLE001 - a signal handler may raise anything
                interrupted = interrupted or interruption

    def _work(self) -> None:
        """A thread's side."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with self._changed:
            if self._stop:
                self._ended += 1
                self._changed.notify_all()
                return
            self._active += 1
        try:
            if self._prepare:
                self._prepare()
            while task := self._next():
                done = task()
                with self._changed:
                    self._done += done
        except BaseException as failure:  # noqa: BLE001 - it is raised in the caller
            with self._changed:
                self._stop = True
                self._failure = self._failure or failure
        finally:
            with self._changed:
                self._active -= 1
                self._ended += 1
                self._changed.notify_all()

    def _next(self) -> Task | None:
        with self._changed:
            return None if self._stop else next(self._tasks, None)


def _no_thread() -> str:
    """Which limits a thread can meet, with their figures; the kernel names none of them."""
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
    found = [f"RLIMIT_NPROC (`ulimit -u`) is {_limit(processes)}", "the control group has a pids.max"]
    if addresses != resource.RLIM_INFINITY:
        found.append(
            f"a thread's stack takes up to {_limit(stack)} bytes of the {addresses} that RLIMIT_AS (`ulimit -v`) allows"
        )
    if (locked := resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]) != resource.RLIM_INFINITY:
        found.append(
            f"where all that is mapped is locked, RLIMIT_MEMLOCK (`ulimit -l`) allows {locked} bytes"
        )
    found.append("with vm.overcommit_memory=2 its stack counts against CommitLimit")
    return f"no thread could be started to fund the pool: {'; '.join(found)}"


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)
