"""mrm under the compiler's sanitizers: `make sanitize`, or `run.py [--only address|thread] [pytest's arguments]`.

Two builds, each in a folder of its own below build/sanitize, so that the modules of the
normal build stay what they are:

- *address*: AddressSanitizer and UndefinedBehaviorSanitizer, under the suite and under the
  threads of races.c; at the end of those LeakSanitizer looks for what nothing points to.
  The interpreter is not built with them: what it does wrong is not seen, and its
  allocations are watched because malloc is theirs (PYTHONMALLOC=malloc). Not for leaks
  under the suite: compilers that tests start leak, and the search itself was seen to
  crash there.
- *thread*: ThreadSanitizer, under the threads of races.c, which call the C table and hold
  no GIL; and under the tests of threads, for the Python classes. In the rest of the suite
  nothing races.

The runtimes are preloaded, as the interpreter comes without them. Before a build is
tested, canary.c does on purpose what its sanitizer is there to find: one that is not
reported means that nothing would be. Exit status 0: nothing was found.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILDS = ROOT / "build" / "sanitize"
COMPILER = os.environ.get("CC", "gcc")

#: Tests that do not run under AddressSanitizer unless they are named, and why.
LEFT_OUT = {
    "test_api.py": "compares docstrings with docs/api.md: no C",
    "test_bench.py": "measures, which says nothing here",
    "test_bench_heap.py": "loads other allocators beside the sanitizer's, which it does not allow",
    "test_bench_programs.py": "measures, which says nothing here",
    "test_bench_rounds.py": "stops commands that measure, which says nothing here",
    "test_clients.py": "builds clients against the installed wheel, which is compiled without sanitizers",
    "test_demo.py": "minutes of a client's work and of matplotlib's; races.c does the same to the core",
    "test_features.py::test_trials_leave_nothing_and_are_made_once": "sees the sanitizer's mappings as mrm's",
    "test_heap_limits.py": "limits the process's addresses, of which AddressSanitizer takes most for its shadow",
    "test_limits_process.py::test_locking_all_that_is_mapped_is_told_to_be_the_reason": "needs mlockall, which "
    "AddressSanitizer makes do nothing, as it would lock its shadow",
    "test_example_lua.py": "runs Lua programs in processes of their own, and measures them",
    "test_example_runtime.py": "builds a project against the installed wheel, which is compiled without sanitizers",
    "test_examples.py": "runs the installed wheel, which is compiled without sanitizers",
    "test_machines.py": "is about tools/machines: no C",
    "test_machines_refused.py": "calls compilers: nothing of mrm's runs",
    "test_package.py": "looks into the sdist and the wheel, which are compiled without sanitizers",
    "test_readme.py": "compares README.md with the examples: no C",
    "test_sanitize.py": "is about this",
    "test_typing.py": "runs mypy: no C of mrm's",
    "test_wheels.py": "is about tools/wheels: no C",
}

#: Packages of Debian's that the runtimes come in, for what is missing.
PACKAGES = "apt-get install gcc libasan8 libubsan1 libtsan2 (the numbers follow gcc's version)"

OPTIONS = {
    # Traps are mrm's business: tests mean to die of SIGSEGV and SIGBUS, and look at how.
    "ASAN_OPTIONS": "handle_segv=0:handle_sigbus=0:use_sigaltstack=0:allocator_may_return_null=1:detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": f"handle_segv=0:handle_sigbus=0:history_size=4:suppressions={HERE / 'tsan.supp'}",
}

#: What is compiled in, the runtimes that are preloaded, and what canary.c is to be reported as.
SANITIZERS = {
    "address": (
        "address,undefined",
        ("libasan.so", "libubsan.so"),
        {"address": "heap-buffer-overflow", "undefined": "signed integer overflow", "leak": "memory leaks"},
    ),
    "thread": ("thread", ("libtsan.so",), {"thread": "data race"}),
}


class Missing(Exception):
    """Something that has to be installed first."""


def runtime(name: str) -> str:
    """Where the compiler has a runtime."""
    try:
        path = subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()
    except OSError as error:
        raise Missing(f"{COMPILER} cannot be run ({error.strerror}): {PACKAGES}") from error
    if not os.path.isabs(path):
        raise Missing(f"{COMPILER} has no {name}: {PACKAGES}")
    return os.path.realpath(path)


def compile_library(source: Path, target: Path, flags: str) -> Path:
    """A shared library of one file."""
    command = [COMPILER, "-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", f"-fsanitize={flags}"]
    command += ["-fno-sanitize-recover=all", "-O1", "-g", "-fno-omit-frame-pointer", "-shared", "-fPIC"]
    subprocess.run([*command, f"-I{ROOT / 'include'}", source, "-o", target], check=True)
    return target


def build(name: str) -> Path:
    """Compile mrm for a sanitizer; the folder to import it from."""
    folder = BUILDS / name
    log = BUILDS / f"{name}.log"
    BUILDS.mkdir(parents=True, exist_ok=True)
    # The library's folder would else be named after the interpreter.
    command = [sys.executable, "setup.py", "--quiet", "build"]
    command += [f"--build-base={folder}", f"--build-lib={folder / 'lib'}"]
    environment = {**os.environ, "MRM_SANITIZE": SANITIZERS[name][0], "CC": COMPILER}
    with open(log, "w") as told:
        status = subprocess.run(command, cwd=ROOT, env=environment, stdout=told, stderr=subprocess.STDOUT)
    if status.returncode:
        sys.stderr.write(log.read_text()[-4000:])
        raise Missing(f"mrm does not compile with -fsanitize={SANITIZERS[name][0]}; all of it is in {log}")
    return folder / "lib"


def environment(name: str, lib: Path) -> dict[str, str]:
    """What a Python needs in order to import the sanitized mrm, and nothing else of that name."""
    return {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": " ".join(map(runtime, SANITIZERS[name][1])),
        "PYTHONPATH": str(lib),
        "PYTHONSAFEPATH": "1",  # not the checkout's, which is the current folder
        "PYTHONMALLOC": "malloc",
    }


def with_leaks(env: dict[str, str]) -> dict[str, str]:
    """The same, and what was leaked is reported at the end."""
    return {**env, "ASAN_OPTIONS": env["ASAN_OPTIONS"].replace("detect_leaks=0", "detect_leaks=1")}


def prove(name: str, env: dict[str, str], lib: Path) -> None:
    """See that the build is what is imported, and that its sanitizer reports what is wrong."""
    code = "import mrm._core; print(mrm._core.__file__)"
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    if not found.stdout.startswith(str(lib)):
        raise Missing(f"not {lib} is imported, but {found.stdout}{found.stderr}")
    flags, _, canaries = SANITIZERS[name]
    library = compile_library(HERE / "canary.c", BUILDS / f"canary-{name}.so", flags)
    for canary, report in canaries.items():
        code = f"import ctypes; ctypes.CDLL({str(library)!r}).canary_{canary}()"
        told = subprocess.run(
            [sys.executable, "-c", code], env=with_leaks(env), capture_output=True, text=True
        )
        if not told.returncode or report not in told.stderr:
            raise Missing(f"canary_{canary} was not reported as {report} ({told.returncode}): {told.stderr}")


def address(env: dict[str, str], arguments: list[str]) -> int:
    """Run the suite, less what is left out, or what the arguments choose."""
    flags = SANITIZERS["address"][0]
    status = race(compile_races("address", flags), with_leaks(env), 9, 100)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=900"]
    if not any(re.match(r"[^-].*\.py", argument) for argument in arguments):
        for test, reason in LEFT_OUT.items():
            print(f"left out: {test}, which {reason}", flush=True)
            command.append(f"--{'deselect' if '::' in test else 'ignore'}=tests/{test}")
    return subprocess.run([*command, *arguments], cwd=ROOT, env=env).returncode or status


def compile_races(name: str, flags: str) -> list[Path]:
    """The libraries of threads that race: on a pool, and on a heap."""
    return [
        compile_library(HERE / f"{races}.c", BUILDS / f"{races}-{name}.so", flags)
        for races in ("races", "heapraces")
    ]


def race(libraries: list[Path], env: dict[str, str], threads: int, steps: int) -> int:
    """Race so many threads; not 0 if something is wrong, or was reported."""
    command = [sys.executable, HERE / "races.py", *libraries, str(threads), str(steps)]
    return subprocess.run(command, cwd=ROOT, env=env).returncode


def thread(env: dict[str, str], rounds: list[tuple[int, int]]) -> int:
    """Race, with so many threads and steps; then run the tests of threads, on small pages.

    Their pools' arenas are of a size that fits above the sanitizer's shadow.
    """
    libraries = compile_races("thread", "thread")
    status = 0
    for threads, steps in rounds:
        status = race(libraries, env, threads, steps) or status
    # Not captured: what the sanitizer says goes to where nobody looks, else.
    command = [sys.executable, "-m", "pytest", "-s", "-q", "-p", "no:cacheprovider", "-o", "timeout=900"]
    command += ["-k", "not huge", "tests/test_threads.py"]
    return subprocess.run(command, cwd=ROOT, env=env).returncode or status


def main() -> int:
    """Build, prove and run; 1 when something was found, 2 when something is missing."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=SANITIZERS, help="one of the two; both, if not given")
    parser.add_argument("--steps", type=int, default=300, help="of each thread that races (default 300)")
    options, arguments = parser.parse_known_args()
    found = []
    for name in [options.only] if options.only else ["thread", "address"]:
        try:
            print(f"building for -fsanitize={SANITIZERS[name][0]}: 1 to 3 minutes the first time", flush=True)
            lib = build(name)
            env = environment(name, lib)
            prove(name, env, lib)
        except Missing as missing:
            print(f"cannot: {missing}", file=sys.stderr)
            return 2
        rounds = [(9, options.steps), (27, options.steps // 3)]
        if thread(env, rounds) if name == "thread" else address(env, arguments):
            found.append(SANITIZERS[name][0])
    print(f"found something: {' and '.join(found)}" if found else "nothing was found")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
