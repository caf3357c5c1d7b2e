"""The thread of an autoscaler: it lies in poll until an event comes or time has passed, and has it look.

It does not keep the autoscaler alive: whoever drops that ends the thread.
"""

import os
import select
import signal
import threading
import weakref
from typing import TYPE_CHECKING

from mrm.errors import ClosedError, ForkedError
from mrm.physical.pressure import Event
from mrm.system.atend import AtEnd

if TYPE_CHECKING:
    from mrm.physical.autoscale import Autoscaler


class Watch:
    """The thread.

    Parameters
    ----------
    scaler : Autoscaler
        Who is to look.
    watched : list of Event
        What to wait for; they are closed with it.
    """

    def __init__(self, scaler: "Autoscaler", watched: list[Event]) -> None:
        self._scaler = weakref.ref(scaler)
        self._events = {event.fd: event for event in watched}
        self._lock = threading.Lock()  # guards the descriptor that ends it
        self._end = -1
        self._owner = os.getpid()
        self._thread = threading.Thread(target=self._run, name="mrm autoscale", daemon=True)
        try:
            self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            # Signals are for other threads: their handlers may be slow, and calls are interrupted.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._thread.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            self.forget()
            raise
        _watches.add(self)

    @property
    def running(self) -> bool:
        """Whether it is at work."""
        return os.getpid() == self._owner and self._thread.is_alive()

    def end(self) -> None:
        """Have it end, and wait for that, unless it is the thread itself that calls."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            if self._end >= 0:
                os.eventfd_write(self._end, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def forget_thread(self) -> None:
        """In a child after fork, which has no thread: its copies would have the kernel watch on."""
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Close what there is."""
        for event in self._events.values():
            event.close()
        self._events.clear()
        with self._lock:
            fd, self._end = self._end, -1
        if fd >= 0:
            os.close(fd)

    def _run(self) -> None:
        try:
            self._watch()
        finally:
            self.forget()

    def _watch(self) -> None:
        waiting = select.poll()
        waiting.register(self._end, select.POLLIN)
        for fd, event in self._events.items():
            waiting.register(fd, event.mask)

        def gone(event: Event) -> None:
            waiting.unregister(event.fd)
            del self._events[event.fd]
            event.close()

        timeout: float | None = 0.0  # the first look is at once
        while True:
            ready = dict(waiting.poll(None if timeout is None else timeout * 1000))
            scaler = self._scaler()
            if scaler is None or self._end in ready:
                return
            seen = [(self._events[fd], mask) for fd, mask in ready.items()]
            try:
                timeout = scaler._woken(seen, timeout != 0.0, gone)
            except (ClosedError, ForkedError) as error:
                scaler._enter("end", 0, 0, "", str(error))
                return
            except Exception as error:
                scaler._enter("end", 0, 0, "", f"{type(error).__name__}: {error}")
                raise
            del scaler, seen


# No thread is to be in the middle of a system call of the pool's when the interpreter goes, nor to change
# a setting when the keepers of settings have put them back.
_watches: AtEnd[Watch] = AtEnd(0, Watch.forget_thread, Watch.end)
