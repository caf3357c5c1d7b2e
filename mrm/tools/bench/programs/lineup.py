"""Programs, and the setups that each runs in.

What a setup changes is the environment, the command, or a setting of the machine while the program runs. CPython has an
allocator of its own for small objects, whose arenas are no business of malloc's: setups that
replace malloc reach only what is larger than 512 bytes. Where a name ends in ``, all objects`` that allocator is
switched off (PYTHONMALLOC=malloc), and all objects are malloc's, slower as they may be.
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from mrm.tools.bench.programs.always import always, why_not
from mrm.tools.commands import COMMANDS

PLAIN, OURS = "plain", "mrm"

SCRIPT = Path(__file__).with_name("programs.py")

_GLIBC = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}
_MIMALLOC = {
    "LD_PRELOAD": "libmimalloc.so.2",
    # Named so until 2.0, and since 2.1.
    "MIMALLOC_LARGE_OS_PAGES": "1",
    "MIMALLOC_ALLOW_LARGE_OS_PAGES": "1",
}
_OBJECTS = {"PYTHONMALLOC": "malloc"}


@dataclass(frozen=True)
class Program:
    """What is run.

    Attributes
    ----------
    name, what : str
        In a word, and in a sentence with the place of its size.
    each, beside : int
        Bytes for each of its size, and beside that.
    needs : str
        A package that it imports; nothing for none.
    """

    name: str
    what: str
    each: float
    beside: int = 64 << 20
    needs: str = ""

    def memory(self, size: int) -> int:
        """Bytes that it has at the most, roughly."""
        return int(size * self.each) + self.beside


PROGRAMS = (
    Program("gather", "16 million elements of a NumPy array of {}, at random", 1.0, 384 << 20, "numpy"),
    Program("lookups", "every key of a dict of {}, in no order", 240.0),
    Program("collect", "gc.collect() over {} lists, each of which refers to another one far away", 150.0),
)


@dataclass(frozen=True)
class Setup:
    """How it is run.

    Attributes
    ----------
    name, what : str
        In a word, and in a sentence.
    environment : dict of str to str
        What is set beside what there is.
    command : tuple of str
        What comes between the interpreter and the program.
    lends : bool
        Whether it takes huge pages that the kernel has set aside, which are lent while it runs.
    around : callable
        A context that the program runs in.
    missing : callable
        Why it cannot be had with an interpreter, in words with the way out; None where it can.
    """

    name: str
    what: str
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    lends: bool = False
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    missing: Callable[[str], str | None] = lambda python: None


def _no_run(python: str) -> str | None:
    if "run" not in COMMANDS:
        return "this mrm has no `mrm run`"
    ended = ask(python, "import mrm")
    return None if ended.returncode == 0 else f"{python} has no mrm: pip install managed-runtime-memory there"


def _no_mimalloc(python: str) -> str | None:
    # A library that the loader does not find is left out with a word on the standard error, and nothing else.
    ended = ask(python, "", _MIMALLOC)
    if ended.returncode == 0 and "libmimalloc" not in ended.stderr:
        return None
    return "libmimalloc.so.2 cannot be preloaded; Debian has it in libmimalloc2.0: apt-get install libmimalloc2.0"


def _no_huge_arenas(python: str) -> str | None:
    asked = "import sysconfig; print(sysconfig.get_config_var('PYMALLOC_USE_HUGEPAGES'))"
    if ask(python, asked).stdout.strip() == "1":
        return None
    return "the interpreter was not built with huge pages for its arenas (--with-pymalloc-hugepages, from 3.15 on)"


def ask(
    python: str, code: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a line in an interpreter."""
    return subprocess.run(
        [python, "-c", code], env=started_with(environment or {}), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


def started_with(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a program: this one's, without what setups are about, and with its setup's."""
    ours = {*_GLIBC, *_MIMALLOC, *_OBJECTS, "PYTHON_PYMALLOC_HUGEPAGES", "MRM_RUN"}
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **environment}


SETUPS = (
    Setup(PLAIN, "the interpreter as it is"),
    Setup(OURS, "mrm run: objects and arrays on huge pages", command=("-m", "mrm", "run"), missing=_no_run),
    Setup(
        "thp", "transparent huge pages for every process (enabled=always)",
        around=always, missing=lambda python: why_not(),
    ),
    Setup(
        "glibc+hugetlb", "glibc.malloc.hugetlb=2, with huge pages set aside for it",
        environment=_GLIBC, lends=True,
    ),
    Setup(
        "glibc+hugetlb, all objects", "the same, and PYTHONMALLOC=malloc",
        environment={**_GLIBC, **_OBJECTS}, lends=True,
    ),
    Setup(
        "mimalloc+huge", "mimalloc preloaded, MIMALLOC_ALLOW_LARGE_OS_PAGES=1, with huge pages set aside for it",
        environment=_MIMALLOC, lends=True, missing=_no_mimalloc,
    ),
    Setup(
        "mimalloc+huge, all objects", "the same, and PYTHONMALLOC=malloc",
        environment={**_MIMALLOC, **_OBJECTS}, lends=True, missing=_no_mimalloc,
    ),
    Setup(
        "cpython+hugetlb", "CPython's own arenas on huge pages (PYTHON_PYMALLOC_HUGEPAGES=1), set aside for it",
        environment={"PYTHON_PYMALLOC_HUGEPAGES": "1"}, lends=True, missing=_no_huge_arenas,
    ),
)  # fmt: skip
