"""What workers do that attach: functions that spawn and forkserver can import."""

import ctypes
import os
import signal

from helpers import stamp, stamp_at

import mrm


def read_all(ticket, answers):
    """Say what every frame holds."""
    with mrm.attach(ticket) as frames:
        answers.put((os.getpid(), [stamp_at(frames.address(f)) for f in range(len(frames))]))


def write_all(ticket, answers):
    """Stamp every frame anew."""
    with mrm.attach(ticket) as frames:
        for f in range(len(frames)):
            stamp(frames.address(f), 0xBEEF << 32 | f)
        answers.put(os.getpid())


def trespass(ticket, answers):
    """Write to a frame that is for reading only; ends in a signal."""
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    frames = mrm.attach(ticket)
    answers.put(stamp_at(frames.address(0)))
    answers.close()
    answers.join_thread()
    ctypes.c_uint64.from_address(frames.address(0)).value = 1


def read_next(tickets, answers):
    """The same, with a ticket that comes later."""
    with tickets.get(timeout=60) as ticket:
        read_all(ticket, answers)
