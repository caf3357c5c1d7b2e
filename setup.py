"""Builds mrm's extension modules: every .pyx under mrm/, one module each.

All that is not about compiling is in pyproject.toml. The public C header lives in
include/mrm and is copied into the package (mrm/include/mrm), so that
``mrm.get_include()`` works from a wheel as from a checkout.
"""

import os
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
HEADERS = ROOT / "include"

if not sys.platform.startswith("linux"):
    raise SystemExit("mrm needs Linux: it is made of mmap, hugetlbfs and memfd_create.")
if sys.byteorder != "little" or sys.maxsize < 2**32:
    raise SystemExit("mrm needs a 64-bit little-endian machine: addresses are split into bit fields.")


class BuildWithHeaders(build_py):
    """Puts the public headers beside the modules that implement them."""

    def run(self) -> None:
        super().run()
        target = Path(self.build_lib) / "mrm" / "include"
        if not self.editable_mode:
            shutil.copytree(HEADERS, target, dirs_exist_ok=True)


def extensions() -> list[Extension]:
    """One extension per .pyx, named by its path."""
    return [
        Extension(
            ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [str(source.relative_to(ROOT))],
            include_dirs=["include", "mrm"],
            depends=[str(h.relative_to(ROOT)) for h in ROOT.glob("**/*.h")],
            extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wno-unused-function"],
            define_macros=[("_GNU_SOURCE", None)],
        )
        for source in sorted(ROOT.glob("mrm/**/*.pyx"))
    ]


setup(
    packages=[
        ".".join(p.parent.relative_to(ROOT).parts)
        for p in ROOT.glob("mrm/**/__init__.py")
    ],
    package_data={"mrm": ["py.typed", "*.pxd", "*.pyi", "**/*.pxd", "**/*.pyi", "**/*.h", "**/*.html"]},
    ext_modules=cythonize(
        extensions(),
        nthreads=os.cpu_count() or 1,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
            "embedsignature.format": "python",
        },
    ),
    cmdclass={"build_py": BuildWithHeaders},
)
