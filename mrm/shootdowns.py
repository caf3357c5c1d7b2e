"""Counts TLB shootdowns: the invalidations that one processor sends to others.

Two places know them, and the counter says which one it reads:

- The row ``TLB`` of /proc/interrupts counts every invalidation that a processor
  *received*, whoever asked for it: the whole system, all processes. Anybody may
  read it.
- The tracepoint ``tlb:tlb_flush`` tells, thread by thread, when one was *sent*.
  Counted by a perf event on each thread that the process has (threads that these
  start are inherited), it is this process alone; one that goes to seven processors
  counts once. It takes a tracefs that is mounted somewhere, and CAP_PERFMON or
  kernel.perf_event_paranoid <= 1. The kernel filters: what does not match
  ``reason == TLB_REMOTE_SEND_IPI`` never reaches the counter.

Neither sees a flush that needs no interrupt: a hypervisor's paravirtual flush of a
processor that is not running, AMD's INVLPGB, arm64's broadcast TLBI.
"""

import errno
import os
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from mrm.errors import ArgumentError, Error
from mrm.system.calls import system_call

Scope = Literal["auto", "system", "process"]

_INTERRUPTS = Path("/proc/interrupts")
_REMOTE_SEND_IPI = 4  # enum tlb_flush_reason, the same since Linux 4.0

_TYPE_TRACEPOINT = 2
_ATTR_SIZE = 64  # PERF_ATTR_SIZE_VER0: every kernel knows it
_INHERIT = 1 << 1
_INHERIT_THREAD = 1 << 35  # 5.13: threads, and not the children of fork
_FD_CLOEXEC = 8
_IOC_SET_FILTER = 0x40082406


def shootdowns(scope: Scope = "auto") -> "Shootdowns":
    """Count TLB shootdowns from now on.

    Parameters
    ----------
    scope : {"auto", "system", "process"}, optional
        ``"process"`` counts what this process sends, ``"system"`` what all processors
        receive from anybody. ``"auto"``, the default, is ``"process"`` where that is
        permitted, else ``"system"``; ``.scope`` and ``.source`` say which it became.

    Raises
    ------
    ArgumentError
        If there is no such scope.
    Error
        If what was asked for cannot be counted here; the message says why.

    Examples
    --------
    >>> with mrm.shootdowns() as s:
    ...     view.retire()
    >>> s.count, s.source
    (1, 'this process: tracepoint tlb:tlb_flush, invalidations sent')
    """
    return Shootdowns(scope)


class Shootdowns:
    """A running count; made by ``mrm.shootdowns()``.

    It counts from its making, and again from zero when entered as a context manager;
    leaving the context, or ``stop()``, freezes it.

    Attributes
    ----------
    scope : {"system", "process"}
        What is counted.
    source : str
        The same as a sentence, with where the figure comes from.
    """

    scope: Literal["system", "process"]
    source: str

    def __init__(self, scope: Scope = "auto") -> None:
        if scope not in ("auto", "system", "process"):
            raise ArgumentError(f"scope is 'auto', 'system' or 'process', not {scope!r}")
        self._asked = scope
        self._events: list[int] = []
        self._frozen: int | None = None
        self._base = 0
        self._start()

    @property
    def count(self) -> int:
        """Shootdowns since the start; after the end, until it."""
        return self._read() - self._base if self._frozen is None else self._frozen

    def stop(self) -> int:
        """Freeze the count, free what counted it, and return it."""
        if self._frozen is None:
            self._frozen = self.count
            self._close()
        return self._frozen

    def __enter__(self) -> Self:
        self._close()
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __del__(self) -> None:
        self._close()

    def __repr__(self) -> str:
        return f"<mrm.Shootdowns {self.count} ({self.source})>"

    def _start(self) -> None:
        self._frozen = None
        if self._asked != "system":
            try:
                self._events = _open_events()
            except Error:
                if self._asked == "process":
                    raise
        if self._events:
            self.scope = "process"
            self.source = "this process: tracepoint tlb:tlb_flush, invalidations sent"
        else:
            self.scope = "system"
            self.source = "the whole system: row TLB of /proc/interrupts, invalidations received"
        self._base = self._read()

    def _read(self) -> int:
        if not self._events:
            return received()
        return sum(struct.unpack("Q", os.read(event, 8))[0] for event in self._events)

    def _close(self) -> None:
        for event in self.__dict__.get("_events", ()):
            os.close(event)
        self._events = []


def received() -> int:
    """Invalidations that all processors together have received since the machine started.

    Raises
    ------
    Error
        If /proc/interrupts has no row for them, or cannot be read.
    """
    try:
        with _INTERRUPTS.open() as rows:
            for row in rows:
                name, _, figures = row.partition(":")
                if name.strip() == "TLB":
                    return sum(int(figure) for figure in figures.split() if figure.isdigit())
    except OSError as refusal:
        raise Error(
            f"shootdowns cannot be counted: {_INTERRUPTS} cannot be read ({refusal.strerror}), which a container "
            "may hide (/proc with subset=pid), and this process alone cannot be counted either",
            call="openat",
            error=refusal.errno,
        ) from refusal
    raise Error(
        "/proc/interrupts has no row TLB: this machine invalidates without interrupts "
        "(as arm64 does), so there are no shootdowns to count"
    )


def _tracepoint() -> int:
    """The number of tlb:tlb_flush, from wherever a tracefs is mounted."""
    roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
    # Hidden, there is nothing to add.
    with suppress(OSError), open("/proc/self/mounts") as mounts:
        roots += [row.split()[1] for row in mounts if row.split()[2] == "tracefs"]
    for root in roots:
        try:
            return int(Path(root, "events/tlb/tlb_flush/id").read_text())
        except FileNotFoundError:
            continue
        except OSError as refusal:
            raise Error(
                f"the tracepoint tlb:tlb_flush may not be read: {refusal}; it takes root"
            ) from refusal
    raise Error(
        "no tracefs with tlb:tlb_flush is mounted, so this process cannot be counted alone: "
        "as root, mount -t tracefs none /sys/kernel/tracing"
    )


def _open_events() -> list[int]:
    """A perf event on each thread of the process, counting what it sends."""
    config = _tracepoint()
    events: dict[int, int] = {}
    try:
        # One look only: a thread that starts meanwhile has mostly been inherited from one
        # that is counted already, and an event of its own would count it twice.
        for thread in sorted(int(name) for name in os.listdir("/proc/self/task")):
            try:
                events[thread] = _open_event(config, thread)
            except ProcessLookupError:
                continue
        for event in events.values():
            system_call("ioctl", event, _IOC_SET_FILTER, f"reason=={_REMOTE_SEND_IPI}".encode() + b"\0")
    except OSError as refusal:
        for event in events.values():
            os.close(event)
        raise Error(
            f"the kernel refused to count tlb:tlb_flush: {refusal}; it takes CAP_PERFMON, or "
            "kernel.perf_event_paranoid <= 1, no filter of system calls (seccomp) that refuses it, "
            "/proc/self/task, and a descriptor a thread (RLIMIT_NOFILE)",
            call="perf_event_open",
            error=refusal.errno,
        ) from refusal
    return list(events.values())


def _open_event(config: int, thread: int) -> int:
    """One perf event; on kernels before 5.13 it counts forked children too."""
    for flags in (_INHERIT | _INHERIT_THREAD, _INHERIT):
        attributes = struct.pack("IIQQQQQ", _TYPE_TRACEPOINT, _ATTR_SIZE, config, 0, 0, 0, flags)
        try:
            return int(
                system_call(
                    "perf_event_open", attributes.ljust(_ATTR_SIZE, b"\0"), thread, -1, -1, _FD_CLOEXEC
                )
            )
        except OSError as refusal:
            if refusal.errno != errno.EINVAL or not flags & _INHERIT_THREAD:
                raise
    raise AssertionError("not reached")
