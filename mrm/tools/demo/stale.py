"""Proof that a stale access traps: a process that makes one, and how it ends.

A child process, since the trap is a SIGSEGV, and a new one, not a fork, since a fork has
no pool. It opens a pool and a view, writes through the view, retires it, says what mrm
knows about the address, and reads there.
"""

import ctypes
import resource
import signal
import subprocess
import sys
import warnings

from mrm.tools.demo.results import Stale

_VALUE = 0x5A


def prove(huge: str = "prefer") -> Stale:
    """Let a child touch a retired view; whether it died of it, and in what words."""
    child = subprocess.run(
        [sys.executable, "-m", "mrm.tools.demo.stale", huge],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = child.stdout.strip()
    if child.returncode == -signal.SIGSEGV and said:
        return Stale(True, f"{said}; reading there ended the process with SIGSEGV, as it must")
    error = child.stderr.strip().splitlines()[-1:] or [said or "it said nothing"]
    return Stale(False, f"the child that read a retired view ended with {child.returncode}: {error[0]}")


def _touch(huge: str) -> None:
    """The child's part: does not return if the trap works."""
    import mrm

    warnings.simplefilter("ignore", mrm.BackingWarning)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pool = mrm.Pool("8MiB", huge=huge)
    frame = pool.take()
    view = pool.open_view()
    byte = ctypes.c_ubyte.from_address(view.address(frame))
    byte.value = _VALUE
    if byte.value != _VALUE:
        sys.exit("the view did not hold what was written through it")
    view.retire()
    place = mrm.classify(view.address(frame))
    if ctypes.c_ubyte.from_address(pool.address(frame)).value != _VALUE:
        sys.exit("retiring the view changed the frame")
    print(f"view {place.number}, frame {place.slot}, is {place.state}", flush=True)
    sys.exit(f"a retired view could still be read: {byte.value:#x}")


if __name__ == "__main__":
    _touch(sys.argv[1])
