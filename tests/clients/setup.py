"""Builds the Cython client, as a project does that depends on managed-runtime-memory."""

import mrm
from Cython.Build import cythonize
from setuptools import Extension, setup

if __name__ == "__main__":
    setup(
        name="cyworker",
        ext_modules=cythonize(Extension("cyworker", ["cyworker.pyx", "meet.c"], include_dirs=[mrm.get_include(), "."])),
    )
