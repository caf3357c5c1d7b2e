"""Interpreters: which are there, and what wheels they take.

They are looked for under pyenv, on the PATH, and among those in the cache that
``debian`` has fetched or built; of two of the same version and kind the first serves.
Each is asked itself what it is.
"""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.machines.cache import cache
from tools.machines.needs import MachineError

OLDEST = (3, 11)

_ASK = """
import importlib.util, json, os, platform, sys, sysconfig
print(json.dumps({
    "version": platform.python_version(),
    "numbers": sys.version_info[:2],
    "threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "libc": os.confstr("CS_GNU_LIBC_VERSION"),
    "headers": sysconfig.get_path("include"),
    "venv": importlib.util.find_spec("venv") is not None,
}))
"""


@dataclass(frozen=True)
class Python:
    """An interpreter.

    Attributes
    ----------
    path : str
        What is run.
    version : str
        ``3.13.0``.
    tag : str
        Of the wheels that are made for it: ``cp313-cp313``, or ``cp313-cp313t`` without the GIL.
    libc : str
        What it runs on: ``glibc 2.36``.
    headers : str
        The folder that should hold Python.h.
    """

    path: str
    version: str
    tag: str
    libc: str
    headers: str

    @property
    def name(self) -> str:
        """``3.13`` or ``3.13t``: what people call it."""
        short = self.version.rpartition(".")[0]
        return short + "t" * self.tag.endswith("t")

    @property
    def can_build(self) -> bool:
        """Whether its headers are there."""
        return Path(self.headers, "Python.h").exists()


def ask(path: str) -> Python | None:
    """What an interpreter says of itself; None if it does not run, or is too old for mrm."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", _ASK], capture_output=True, text=True, timeout=120, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    said = json.loads(done.stdout)
    if tuple(said["numbers"]) < OLDEST or not said["venv"]:
        return None
    short = "cp{}{}".format(*said["numbers"])
    tag = f"{short}-{short}{'t' * said['threaded']}"
    return Python(path, said["version"], tag, said["libc"], said["headers"])


def find() -> list[Python]:
    """Every interpreter that mrm is for, oldest first; one of each version, kind and C library."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    paths = sorted(pyenv.glob("versions/3.*/bin/python3"))
    paths += [Path(found) for n in range(OLDEST[1], 30) for found in [shutil.which(f"python3.{n}")] if found]
    paths += sorted(cache().glob("pythons/*/bin/python3"))
    found: dict[tuple[str, str], Python] = {}
    for path in paths:
        if "shims" in path.parts:
            continue
        python = ask(str(path))
        if python is not None:
            found.setdefault((python.tag, python.libc), python)
    return sorted(found.values(), key=lambda p: (int(p.tag[3:].partition("-")[0]), p.tag, p.libc))


def named(word: str) -> Python:
    """The interpreter of a name such as 3.14 or 3.13t, or at a path.

    Raises
    ------
    MachineError
        If there is none.
    """
    python = ask(shutil.which(word) or word) if not word[0].isdigit() else None
    for other in find() if python is None else []:
        if word in (other.name, other.version):
            return other
    if python is None:
        raise MachineError(f"there is no Python {word} that mrm is for: name its path, or `fetch` it")
    return python
