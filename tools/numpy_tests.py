"""NumPy's own tests, with the data of every array on a private heap: ``make test-numpy``.

The handler is installed before the tests begin, and arrays of a single byte go to the heap, too (--threshold).
Tests that want more memory than there is to spare are left out by NumPy itself (--memory). The whole suite takes
ten minutes and more; ``--part`` has those that are about memory, in one, and is what ``make test`` runs.

NumPy's tests of handlers compile a module: without meson and ninja they are left out, and that is said.
"""

import argparse
import importlib.util
import os
import shutil
import sys

import numpy as np
import pytest

import mrm.numpy

#: What is about how arrays get, change and lose their memory.
PART = (
    *("test_mem_policy", "test_multiarray", "test_indexing", "test_item_selection", "test_nditer"),
    *("test_shape_base", "test_memmap", "test_multithreading", "test_stringdtype", "test_dlpack"),
    *("test_array_coercion", "test_regression"),
)
#: Of these, what takes long with small arrays.
LONG = ("fuzz", "test_count_nonzero_all", "test_huge")
#: What fails without a heap, too: NumPy's distutils with a setuptools that is newer than it.
BROKEN = ("fcompiler",)


def main() -> int:
    """Run them; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", action="store_true", help="those about memory, in a minute")
    parser.add_argument("--threshold", default="1", help="bytes of the smallest array on the heap (1)")
    parser.add_argument("--memory", default="1 GB", help="what a test may need (1 GB)")
    parser.add_argument("--without", action="store_true", help="without a heap, to compare with")
    options, rest = parser.parse_known_args()
    os.environ["NPY_AVAILABLE_MEM"] = options.memory
    here, path = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([here, path])
    missing = [tool for tool in ("meson", "ninja") if not shutil.which(tool)]
    if missing:
        print(f"tests that compile are left out: pip install {' '.join(missing)}")
    heap = None if options.without else mrm.numpy.install(threshold=options.threshold)
    # Warnings are NumPy's business here: what it warns of depends on the version of what tests it.
    common = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--timeout=1200", *rest]
    status = int(pytest.main([*common, *chosen(options.part, bool(missing))]))
    if heap is None:
        return status
    print(f"arrays had {heap.stats().memory_peak >> 20} MiB of the heap at most")
    if mrm.numpy.installed() is not heap or not heap.stats().memory_peak:
        print("the handler did not stay, or nothing went through it")
        return 1
    return status


def chosen(part: bool, without_compiled: bool) -> list[str]:
    """What pytest is to run."""
    core = "numpy._core" if np.__version__ >= "2" else "numpy.core"
    names = [f"{core}.tests.{name}" for name in PART] if part else ["numpy"]
    names = [name for name in names if importlib.util.find_spec(name)]
    left_out = [*(LONG if part else BROKEN)]
    if without_compiled:
        left_out.append("test_mem_policy")
    how = ["-m", "not slow"] if part else []
    how += ["-k", " and ".join(f"not {name}" for name in left_out)]
    return [*how, "--pyargs", *names]


if __name__ == "__main__":
    sys.exit(main())
