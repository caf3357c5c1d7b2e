"""Cross-compiles mrm to arm64 and runs its tests under QEMU's user-mode emulation.

    python tools/arm64/run.py [--page-size 16384] [--build-only] [pytest arguments ...]

``tools/arm64/root`` makes the arm64 Debian that it needs, in the cache. Here the package is
copied beside it, the C that `make build` wrote is compiled by the cross compiler with the
flags of setup.py, and pytest is run by the emulated Python. System calls go to this
machine's kernel: what it proves is the compiled code, the layouts and the calls, not an
arm64 kernel. What cannot be tried so is skipped, and stands with its reason in ``emulated.py``.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
COMPILER = "aarch64-linux-gnu-gcc"
FLAGS = ["-O2", "-g0", "-std=gnu11", "-Wall", "-Wno-unused-function", "-D_GNU_SOURCE", "-fPIC", "-shared"]
SUFFIX = ".cpython-311-aarch64-linux-gnu.so"
COPIED = (
    "mrm",
    "tests",
    "include",
    "examples",
    "docs",
    "tools",
    "README.md",
    "pyproject.toml",
    "setup.py",
    "Makefile",
)


def compile_one(source: Path, target: Path, root: Path, tree: Path) -> str:
    """Compile one module, unless it is younger than its source; what the compiler said."""
    headers = [*tree.glob("mrm/**/*.h"), *tree.glob("include/**/*.h")]
    if target.exists() and target.stat().st_mtime > max(f.stat().st_mtime for f in [source, *headers]):
        return ""
    include = root / "usr/include"
    command = [
        COMPILER, f"--sysroot={root}", *FLAGS, f"-I{tree}/include", f"-I{tree}/mrm", f"-I{include}/python3.11",
        f"-I{include}", f"-I{include}/aarch64-linux-gnu", f"-L{root}/usr/lib/aarch64-linux-gnu",
        f"-B{root}/usr/lib/aarch64-linux-gnu", str(source), "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mrm: {source} does not compile for arm64:\n{done.stderr}")
    return done.stderr


def build(root: Path, tree: Path) -> None:
    """Copy the working tree's files, and compile every module."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *COPIED],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, tree / name
        if source.is_file() and not (target.exists() and target.stat().st_mtime == source.stat().st_mtime):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    modules = sorted(ROOT.glob("mrm/**/*.pyx"))
    missing = [m for m in modules if not m.with_suffix(".c").exists()]
    if missing:
        raise SystemExit(f"mrm: {missing[0].with_suffix('.c')} is not there: run `make build` first")
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        said = workers.map(
            lambda m: compile_one(
                m.with_suffix(".c"), (tree / m.relative_to(ROOT)).with_suffix(SUFFIX), root, tree
            ),
            modules,
        )
        warnings = sum(text.count("warning:") for text in said)
    print(f"{len(modules)} modules for arm64 in {tree}, {warnings} warnings")


def interpreter(root: Path, tree: Path, page_size: int | None) -> Path:
    """A script that is the emulated Python: the kernel cannot run arm64 programs by itself."""
    pages = f" -p {page_size}" if page_size else ""
    # QEMU 7.2 has books of every page, mapped or not: an arena of a TiB takes it minutes, one
    # of 16 GiB a moment. With 36 bits of addresses mrm makes its arenas that small.
    script = tree / "python"
    script.write_text(
        f"#!/bin/sh\nexport MRM_EMULATED=arm64\n"
        f'exec qemu-aarch64-static{pages} -R 0x1000000000 -L {root} {root}/usr/bin/python3.11 "$@"\n'
    )
    script.chmod(0o755)
    # Found by every Python that has the tree on its path: tests start more of them.
    (tree / "sitecustomize.py").write_text(
        f"import sys\nsys.executable = {str(script)!r}\nsys.path.append({str(root / 'wheels')!r})\n"
    )
    return script


def main() -> int:
    """Build, and test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page-size", type=int, help="base pages of the emulated machine")
    parser.add_argument("--build-only", action="store_true")
    options, arguments = parser.parse_known_args()
    made = subprocess.run([HERE / "root"], stdout=subprocess.PIPE, text=True, check=False)
    if made.returncode:
        return made.returncode
    root = Path(made.stdout.splitlines()[-1])
    tree = root.parent / "tree"
    build(root, tree)
    if options.build_only:
        return 0
    script = interpreter(root, tree, options.page_size)
    environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree}/tools/arm64", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [script, "-m", "pytest", "-p", "emulated", "-p", "no:cacheprovider", "-rs", *arguments]
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
