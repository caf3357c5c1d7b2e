"""Builds mrm's extension modules: every .pyx under mrm/, one module each.

All that is not about compiling is in pyproject.toml. The public C header lives in
include/mrm and is copied into the package (mrm/include/mrm), so that
``mrm.get_include()`` works from a wheel as from a checkout.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
HEADERS = ROOT / "include"
PACKAGE = ROOT / "mrm"

if not sys.platform.startswith("linux"):
    raise SystemExit("mrm needs Linux: it is made of mmap, hugetlbfs and memfd_create.")
# This is the machine that builds. The one that is built for is looked at by include/mrm/mrm.h.
if sys.byteorder != "little" or sys.maxsize < 2**32:
    raise SystemExit("mrm needs a 64-bit little-endian machine: addresses are split into bit fields.")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "embedsignature.format": "python",
    # Each class has critical sections (_core.pyx), but little was tried without a GIL yet. Until
    # all is, importing mrm turns the GIL on, unless a build for such a trial says otherwise.
    "freethreading_compatible": bool(os.environ.get("MRM_FREE_THREADED")),
}

# MRM_SANITIZE=address,undefined or =thread compiles for those sanitizers, and only into a
# build folder of its own (`make sanitize` does): never over the modules of a normal build.
SANITIZE = os.environ.get("MRM_SANITIZE", "")


class BuildModules(build_ext):
    """Writes the C on all processors, then compiles it on all of them.

    Only here, and not when setup() is called: an sdist, or a question for the version,
    needs neither Cython nor the time.
    """

    def finalize_options(self) -> None:
        if SANITIZE and (self.inplace or self.editable_mode):
            raise SystemExit("MRM_SANITIZE is for a build folder of its own: python tools/sanitize/run.py")
        # `pip install -e .` would compile in a folder that it throws away, and the next
        # `build_ext --inplace` would compile all of it again.
        if self.editable_mode:
            usual = build(self.distribution)
            usual.ensure_finalized()
            self.build_lib, self.build_temp = usual.build_lib, usual.build_temp
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        from Cython.Build import cythonize

        written = cythonize(
            self.extensions,
            nthreads=workers(),
            force=self.force,
            quiet=self.verbose < 1,
            compiler_directives=DIRECTIVES,
        )
        for extension, c in zip(self.extensions, written, strict=True):
            extension.sources = c.sources
        super().build_extensions()


class BuildWithHeaders(build_py):
    """Puts the public headers beside the modules that implement them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(HEADERS, Path(self.build_lib) / "mrm" / "include", dirs_exist_ok=True)


def workers() -> int:
    """How many processes write C; none where Python was built without semaphores, as in a bare root."""
    try:
        import multiprocessing.synchronize  # noqa: F401
    except ImportError:
        return 0
    return os.cpu_count() or 1


def inside(path: Path) -> str:
    return str(path.relative_to(ROOT))


def compiler_flags() -> list[str]:
    """Fast, or for sanitizers: with lines and frames for their reports, and to end at the first."""
    if not SANITIZE:
        return ["-O2", "-g0"]
    return [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-O1", "-g", "-fno-omit-frame-pointer"]


def extensions() -> list[Extension]:
    """One extension per .pyx, named by its path."""
    headers = [inside(header) for folder in (HEADERS, PACKAGE) for header in sorted(folder.rglob("*.h"))]
    return [
        Extension(
            inside(source.with_suffix("")).replace("/", "."),
            [inside(source)],
            include_dirs=["include", "mrm"],
            depends=headers,
            extra_compile_args=[*compiler_flags(), "-std=gnu11", "-Wall", "-Wno-unused-function"],
            extra_link_args=[f"-fsanitize={SANITIZE}"] if SANITIZE else [],
            define_macros=[("_GNU_SOURCE", None)],
        )
        for source in sorted(PACKAGE.rglob("*.pyx"))
    ]


# Cython's workers import this file again where processes are not forked.
if __name__ == "__main__":
    setup(
        packages=sorted(inside(init.parent).replace("/", ".") for init in PACKAGE.rglob("__init__.py")),
        include_package_data=False,  # MANIFEST.in is for the sdist
        package_data={"mrm": ["py.typed", "**/*.pxd", "**/*.pyi", "**/*.h", "**/*.html"]},
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildModules, "build_py": BuildWithHeaders},
    )
