"""Runs the probes in a process of their own, and survives whatever they do.

All run one after the other in one child, which says each answer as it has it. When the
child dies or falls silent, the probe that it was at is to blame: that one is unknown,
and another child goes on with those after it.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mrm.tools.doctor.probes import Answer

# Probes take milliseconds. Most of this is for machines where Python starts slowly.
SECONDS = 20.0


def try_all(
    names: Sequence[str], module: str = "mrm.tools.doctor.probes", seconds: float = SECONDS
) -> dict[str, Answer]:
    """Try probes.

    Parameters
    ----------
    names : sequence of str
        Which ones.
    module : str, optional
        Where they are; what ``python -m`` can run.
    seconds : float, optional
        How long to wait for each.

    Returns
    -------
    dict
        For every name True, False or None for unknown, and a sentence.
    """
    answers: dict[str, Answer] = {}
    left = list(names)
    while left:
        reason = _try(left, module, seconds, answers)
        left = [name for name in left if name not in answers]
        if left:
            answers[left.pop(0)] = (None, reason)
    return answers


def _try(names: list[str], module: str, seconds: float, answers: dict[str, Answer]) -> str:
    """One child: collects its answers, and says why there are no more."""
    # The package is found where this one was, installed or not.
    path = os.pathsep.join([str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            close_fds=True,
        )
    except OSError as error:
        return f"{sys.executable} cannot be started: {error.strerror}"
    try:
        reason = _collect(child, seconds, answers)
    finally:
        _end(child)
    return reason or _fate(child.returncode)


def _collect(child: subprocess.Popen[bytes], seconds: float, answers: dict[str, Answer]) -> str | None:
    """Read answers until the child ends, or is silent for too long: then say so."""
    assert child.stdout is not None
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not selector.select(left):
                break
            got = os.read(child.stdout.fileno(), 65536)
            if not got:
                return None
            *lines, rest = (rest + got).split(b"\n")
            for line in lines:
                name, value, said = json.loads(line)
                answers[name] = (value, said)
                until = time.monotonic() + seconds
    return f"the attempt did not come back within {seconds:g} seconds"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child, but do not wait for one that the kernel does not let go."""
    assert child.stdout is not None
    child.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        try:
            child.wait(0.5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(2)


def _fate(status: int | None) -> str:
    if status is not None and status < 0:
        return f"the attempt died of {signal.Signals(-status).name}"
    return f"the attempt failed (exit status {status})"
