"""Builds the Cython client, as a project does that depends on managed-runtime-memory."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import mrm

if __name__ == "__main__":
    setup(
        name="cyworker",
        ext_modules=cythonize(
            Extension("cyworker", ["cyworker.pyx", "meet.c"], include_dirs=[mrm.get_include(), "."])
        ),
    )
