"""What a program used, in one line when it has ended.

It is written by the first of all handlers of the interpreter's end, which runs last: threads have ended, and
what is global to the program is still there. A child after fork that ends the same way writes none.
"""

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mrm.sizes import format_size
from mrm.system import rollup
from mrm.system.pages import frame_size
from mrm.tools.run.memory import Memory


def at_the_end(memory: Memory) -> Callable[[], None]:
    """Have the line written when this process ends; what is returned takes that back."""
    pid = os.getpid()
    rollup.watch()

    def tell() -> None:
        if os.getpid() == pid:
            try:
                print(f"mrm: {line(memory)}", file=sys.__stderr__, flush=True)
            except (OSError, ValueError, AttributeError):
                pass  # the program has closed it

    atexit.register(tell)
    return lambda: atexit.unregister(tell)


def line(memory: Memory) -> str:
    """The account of this process so far."""
    resident, huge = rollup.largest()
    parts = [f"peak {format_size(max(highest(), resident))}"]
    if memory.objects is not None:
        parts.append(f"objects {format_size(memory.objects.stats().peak)} at most")
    if memory.arrays is not None:
        parts.append(f"arrays {format_size(memory.arrays.stats().memory_peak)} at most")
    if resident:
        size = format_size(frame_size())
        parts.append(
            f"of {format_size(resident)} when it had most {huge / resident:.1%} lay on pages of {size}"
        )
    else:
        parts.append("the kernel does not tell what lay on huge pages (/proc/self/smaps_rollup)")
    return "; ".join([", ".join(parts), *memory.reasons])


def highest() -> int:
    """Bytes that this process had at the most; 0 where it is not told.

    Not ru_maxrss: that goes on from what was there before exec, and after a vfork that was the parent's.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)
