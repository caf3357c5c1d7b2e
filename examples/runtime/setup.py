"""Builds the modules of larder against the installed mrm: its header and its declarations for Cython.

Two things come from mrm, and no path is spelled out: `mrm.get_include()` is where the
compiler finds <mrm/mrm.h>, and Cython finds `cimport mrm` in the installed package.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

import mrm

MODULES = ["space", "marking", "moving", "objects", "store", "churn"]

if __name__ == "__main__":
    setup(
        packages=["larder"],
        package_data={"larder": ["*.pxd"]},
        ext_modules=cythonize(
            [
                Extension(
                    f"larder.{module}",
                    [f"larder/{module}.pyx"],
                    include_dirs=[mrm.get_include()],
                    extra_compile_args=["-O2", "-std=gnu11", "-Wall", "-Wno-unused-function"],
                )
                for module in MODULES
            ],
            compiler_directives={
                "language_level": 3,
                "boundscheck": False,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": False,
                "embedsignature": True,
            },
        ),
    )
