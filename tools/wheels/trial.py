"""A wheel as its users have it: installed in a fresh environment, and tested far from the sources.

The tests are copied to a folder that holds nothing else. Packages that they use are
installed one by one, and only as wheels: one that has none for this Python is left out,
and said. Then once more without a compiler: none on the PATH and CC=/bin/false.
"""

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from tools.machines.needs import MachineError
from tools.machines.record import read
from tools.wheels.make import clean, environment, run
from tools.wheels.pythons import Python

_COMPILER = re.compile(r"^(.*-)?(gcc|g\+\+|cc|c\+\+|cpp|clang|clang\+\+|tcc|c89|c99)(-[\d.]+)?$")
#: What is run without a compiler: pools, views, a signal handler and clients that would be compiled.
WITHOUT_COMPILER = ("test_view.py", "test_classify.py", "test_clients.py")


@dataclass
class Trial:
    """What came of the tests of an installed wheel.

    Attributes
    ----------
    passed, failed, skipped : int
    failures : dict
        What failed, and the end of what it said.
    reasons : dict
        Why tests were skipped, with how many for each reason.
    missing : list of str
        Packages that there is no wheel of for this Python.
    without_compiler : str
        What came of the tests there: ``61 passed, 5 skipped``.
    """

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    without_compiler: str = ""

    @property
    def good(self) -> bool:
        """Whether something was tested and nothing failed."""
        return self.passed > 0 and not self.failed


def try_wheel(
    wheel: Path, python: Python, checkout: Path, folder: Path, arguments: list[str], seconds: float
) -> Trial:
    """Install a wheel and run the tests on it."""
    trial = Trial()
    folder.mkdir(parents=True)
    tests = shutil.copytree(
        checkout / "tests",
        folder / "beside" / "tests",
        ignore=shutil.ignore_patterns("__pycache__", "*.so", "build"),
    )
    # The recorder is all that comes along from the tools.
    recorder = folder / "beside" / "wheel_record.py"
    shutil.copy2(checkout / "tools" / "machines" / "record.py", recorder)
    made = environment(python.path, folder / "environment")
    run(made, "-m", "pip", "--quiet", "install", "--no-compile", wheel, env=clean())
    trial.missing = _install_extras(made, checkout)
    command = [made, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_options(checkout)]
    _count(trial, command, arguments, tests, folder, seconds, python)
    trial.without_compiler = _without_compiler(wheel, python, checkout, folder, seconds)
    return trial


def _install_extras(python: Path, checkout: Path) -> list[str]:
    """Install what the tests use; what cannot be had."""
    extras = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    missing = []
    for wanted in dict.fromkeys([*extras["test"], *extras["cli"], *extras["bench"]]):
        try:
            options = ("--quiet", "install", "--no-compile", "--only-binary", ":all:")
            run(python, "-m", "pip", *options, wanted, env=clean())
        except MachineError:
            missing.append(re.split(r"[<>=~!]", wanted)[0])
    return missing


def _options(checkout: Path) -> list[str]:
    """What pyproject.toml says to pytest, which is not there to be read."""
    options = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    words = ["-o", f"timeout={options['timeout']}"]
    return words + [word for said in options["filterwarnings"] for word in ("-W", said)]


def _count(
    trial: Trial, command: list[object], arguments: list[str], tests: Path, folder: Path, seconds: float,
    python: Python,
) -> None:  # fmt: skip
    """Run the tests, and add up what they noted; tests that end their process are known."""
    record = folder / "record"
    surroundings = {**clean(), "MRM_RECORD": str(record), "PYTHONPATH": str(folder / "beside")}
    # Debian's Python.h looks for another header beside its own folder, for clients, too.
    surroundings["CPATH"] = str(Path(python.headers).parent)
    words = [str(word) for word in command] + ["-p", "wheel_record", *(arguments or ["tests"])]
    with (folder / "output").open("w") as output:
        while True:
            try:
                done = subprocess.run(
                    words, cwd=tests.parent, env=surroundings, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, timeout=seconds, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                trial.failures["the tests"] = f"did not end within {seconds:.0f} seconds"
                break
            if done.returncode >= 0:
                break
    begun: dict[str, None] = {}
    for entry in read(record):
        name = entry.get("test")
        if name is None:
            continue
        if "outcome" not in entry:
            begun[name] = None
            continue
        begun.pop(name, None)
        outcome = entry["outcome"]
        setattr(trial, outcome, getattr(trial, outcome) + 1)
        if outcome == "failed":
            trial.failures[name] = entry["why"][-2000:]
        elif outcome == "skipped":
            why = entry["why"].split("\n")[0][:200]
            trial.reasons[why] = trial.reasons.get(why, 0) + 1
    for name in begun:
        trial.failures[name] = "it began, and took its process with it or did not end"
    trial.failed = len(trial.failures)
    if not trial.passed and not trial.failures:
        trial.failures["the tests"] = (folder / "output").read_text()[-2000:]
        trial.failed = 1


def _without_compiler(wheel: Path, python: Python, checkout: Path, folder: Path, seconds: float) -> str:
    """Install and test where no compiler can be found; the last line of pytest's."""
    bare = folder / "bare"
    bare.mkdir()
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            if not _COMPILER.match(program.name) and not (bare / program.name).exists():
                (bare / program.name).symlink_to(program)
    made = folder / "no-compiler" / "bin" / "python"
    surroundings = {**clean(), "PATH": os.pathsep.join([str(made.parent), str(bare)]), "CC": "/bin/false"}
    if any(shutil.which(name, path=surroundings["PATH"]) for name in ("gcc", "cc", "clang")):
        raise MachineError("a compiler is left on the PATH")
    environment(python.path, folder / "no-compiler", surroundings=surroundings)
    install = (made, "-m", "pip", "--quiet", "install", "--no-compile")
    run(*install, wheel, env=surroundings)
    run(*install, "pytest>=8", "pytest-timeout>=2.3", env=surroundings)
    files = [f"tests/{name}" for name in WITHOUT_COMPILER]
    done = subprocess.run(
        [made, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_options(checkout), "-k", "not huge", *files],
        cwd=folder / "beside", env=surroundings, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip
    last = done.stdout.strip().split("\n")[-1]
    if done.returncode:
        raise MachineError(f"without a compiler: {done.stdout[-2000:]}")
    return re.sub(r" in .*", "", last)
