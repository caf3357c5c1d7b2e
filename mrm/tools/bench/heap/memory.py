"""How much memory an allocator has, at its peak: measured alike for all, and not by what they say themselves.

The kernel counts a process's resident pages, and keeps their highest number (VmHWM), to the page and for
nothing; that is set back when the clock begins. Huge pages that the kernel has set aside it counts
elsewhere (HugetlbPages), without a highest number: these are looked at every few milliseconds, together
with the others. What the process had before the clock began is taken off: the interpreter, its modules, and the
arrays that a workload keeps its blocks in.

A pool's frames are funded before the clock begins, and are all resident from then on, be they in use or not. So of a
heap on a pool the frames that it has taken are counted: nobody else can have these.
"""

import os
from typing import Self

_KIB = 1 << 10


class Memory:
    """What this process has come to have since it was made; a context manager."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._reset = _highest_set_back()
        before = self._figures()
        self._resident, self._huge = before["VmRSS"], before["HugetlbPages"]
        self._most_together = self._most_resident = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._status)

    def look(self, frames: int | None = None) -> None:
        """Note what it has now.

        Parameters
        ----------
        frames : int, optional
            Bytes of a pool's frames that an allocator has taken: counted instead of the kernel's huge pages, which
            all of the pool's are.
        """
        now = self._figures()
        elsewhere = now["HugetlbPages"] - self._huge if frames is None else frames
        self._most_together = max(self._most_together, now["VmRSS"] - self._resident + elsewhere)
        if self._reset:
            self._most_resident = max(self._most_resident, now["VmHWM"] - self._resident)

    @property
    def peak(self) -> int:
        """The most bytes that it had at one time, as far as was looked."""
        return max(0, self._most_together, self._most_resident)

    def _figures(self) -> dict[str, int]:
        """Bytes by name."""
        found = dict.fromkeys(("VmRSS", "VmHWM", "HugetlbPages"), 0)
        for line in os.pread(self._status, 1 << 14, 0).decode().splitlines():
            name, _, figure = line.partition(":")
            if name in found:
                found[name] = int(figure.split()[0]) * _KIB
        return found


def _highest_set_back() -> bool:
    """Have the highest number of resident pages begin anew; False where the kernel was built without that."""
    try:
        with open("/proc/self/clear_refs", "w") as setting:
            setting.write("5")
    except OSError:
        return False
    return True
