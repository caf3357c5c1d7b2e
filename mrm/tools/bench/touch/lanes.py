"""Where a page has been before it is touched first, and how that is measured.

Every lane begins and ends with a file whose pages are all there and written to. In between they go away,
some further than others, and come again one by one: fallocate of a page, timed. That is what a pool does
when it deflates, and what it takes is the kernel's: it finds the page and clears it, which is the first touch
since it came. Where the host has taken the page's memory back, the clearing waits for the host.

That the host was asked for a page cannot be seen from inside. What can be is counted: which pages came
back, by their numbers in physical memory (/proc/self/pagemap, as root), and, on kernels that count it, how much
the host was told of meanwhile.
"""

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from mrm.errors import Error
from mrm.physical.cgroups import ROOT
from mrm.physical.files import read_int
from mrm.physical.keeping import Keeper
from mrm.system.pages import FRAME_SIZE, base_page_size
from mrm.tools.bench.balloon.byhand import KernelFile
from mrm.tools.bench.touch.figures import Round

# A counter that some kernels have, and Linux's own do not.
_REPORTED = "sys/module/page_reporting/parameters/reported_kib"

_PRESENT, _NUMBER = 1 << 63, (1 << 55) - 1


@dataclass(frozen=True)
class Kind:
    """A lane before it is measured.

    Attributes
    ----------
    name, what : str
        In a word, and in a sentence.
    away, on, waits : bool
        Whether pages go to the kernel's pool, on to the system, and whether it is waited before they come again.
    """

    name: str
    what: str
    away: bool = True
    on: bool = False
    waits: bool = False


KINDS = (
    Kind("kept", "never given away, and written to once more: no page is fetched", away=False),
    Kind("pool", "given to the kernel's pool of huge pages, and fetched at once"),
    Kind("pool, waited", "given to the kernel's pool, and fetched after a while", waits=True),
    Kind("system", "given on to the system (nr_hugepages lowered), and fetched at once", on=True),
    Kind("system, waited", "given on to the system, and fetched after a while", on=True, waits=True),
)

#: What others are compared with.
BASE = "pool"


class Ground:
    """A file of huge pages that all are there.

    Parameters
    ----------
    nbytes : int
        Its size, a multiple of a frame's.
    wait : float
        Seconds to wait in lanes that do.
    keeper : Keeper or None
        What lowers nr_hugepages and raises it; None where that may not be done.
    """

    def __init__(self, nbytes: int, wait: float, keeper: Keeper | None) -> None:
        self._wait = wait
        self._keeper = keeper
        self._file = KernelFile(nbytes, FRAME_SIZE.bit_length() - 1)
        self.pages = nbytes // FRAME_SIZE
        try:
            self._fetch()
            self._write()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def measure(self, kind: Kind, root: Path = ROOT) -> Round:
        """A round of a lane."""
        if not kind.away:
            return Round(self._write(), same=self.pages)
        before, told = self.numbers(), read_int(root / _REPORTED)
        setting = 0.0
        self._file.punch(self._file.nbytes)
        if kind.on:
            setting = self._timed(lambda: self._shift(-self.pages))
        if kind.waits:
            time.sleep(self._wait)
        now = read_int(root / _REPORTED)
        if kind.on:
            setting += self._timed(lambda: self._shift(self.pages))
        seconds = self._fetch()
        self._write()
        after = self.numbers()
        return Round(
            seconds,
            setting if kind.on else None,
            None if before is None or after is None else len(before & after),
            None if told is None or now is None else (now - told) << 10,
        )

    def numbers(self) -> set[int] | None:
        """The pages' numbers in physical memory; None where the kernel does not tell (CAP_SYS_ADMIN)."""
        found = set()
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as entries:
                for page in range(self.pages):
                    at = self._file.address + page * FRAME_SIZE
                    entry = int.from_bytes(
                        os.pread(entries.fileno(), 8, at // base_page_size() * 8), "little"
                    )
                    if entry & _PRESENT:
                        found.add(entry & _NUMBER)
        except OSError:
            return None
        return None if found <= {0} else found

    def _fetch(self) -> list[float]:
        """Fetch every page, one by one: seconds of each."""
        took = []
        for page in range(self.pages):
            begin = time.perf_counter()
            try:
                os.posix_fallocate(self._file.fd, page * FRAME_SIZE, FRAME_SIZE)
            except OSError as error:
                raise Error(
                    f"of {self.pages} huge pages {page} were to be had: {error.strerror}; somebody else took the others"
                ) from error
            took.append(time.perf_counter() - begin)
        return took

    def _write(self) -> list[float]:
        """Write to all of every page, which is there: seconds of each."""
        took = []
        for page in range(self.pages):
            at = self._file.address + page * FRAME_SIZE
            ctypes.c_uint8.from_address(at).value = 1  # its page table is not what is measured
            begin = time.perf_counter()
            ctypes.memset(at, 1, FRAME_SIZE)
            took.append(time.perf_counter() - begin)
        return took

    def _shift(self, change: int) -> None:
        """Change nr_hugepages by all of it."""
        assert self._keeper is not None
        left = change
        for _ in range(10):
            left -= self._keeper.change(left)
            if not left:
                return
        raise Error(f"nr_hugepages was to change by {change}, and {left} of that could not be had")

    @staticmethod
    def _timed(do: Callable[[], None]) -> float:
        begin = time.perf_counter()
        do()
        return time.perf_counter() - begin
