"""NumPy's own tests, with the data of every array on a private heap: ``make test-numpy``.

The handler is installed before the tests begin, and arrays of a single byte go to the heap, too (--threshold). Tests that
want more memory than there is to spare are left out by NumPy itself (--memory). The whole suite takes ten minutes and more;
``--part`` has those that are about memory in one, and is what ``make test`` runs.

NumPy's tests of handlers compile a module: without meson and ninja they are left out, and that is said.
"""

import argparse
import importlib
import os
import shutil
import sys

#: What is about how arrays get, change and lose their memory.
PART = (
    *("test_mem_policy", "test_multiarray", "test_indexing", "test_item_selection", "test_nditer", "test_shape_base"),
    *("test_memmap", "test_multithreading", "test_multiprocessing", "test_stringdtype", "test_dlpack"),
    *("test_casting_unittests", "test_array_coercion", "test_regression"),
)
#: Fuzzers, whose arrays are small and whose time is long.
LONG = ("fuzz", "test_count_nonzero_all", "test_huge")


def main() -> int:
    """Run them; the exit status is pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="store_true", help="those about memory, in a minute")
    parser.add_argument("--threshold", default="1", help="bytes of the smallest array on the heap (1)")
    parser.add_argument("--memory", default="1 GB", help="what a test may need (1 GB)")
    parser.add_argument("--without", action="store_true", help="without a handler, to compare with")
    options, rest = parser.parse_known_args()
    os.environ["NPY_AVAILABLE_MEM"] = options.memory
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])

    import numpy
    import pytest

    heap = None
    if not options.without:
        import mrm.numpy

        heap = mrm.numpy.install(threshold=int(options.threshold))
    core = "numpy._core" if hasattr(numpy, "_core") and numpy.lib.NumpyVersion(numpy.__version__) >= "2.0.0" else "numpy.core"
    missing = [tool for tool in ("meson", "ninja") if not shutil.which(tool)]
    arguments = ["-q", "-p", "no:cacheprovider", "-W", "ignore", "--timeout=1200", *rest]
    if missing:
        print(f"without {' and '.join(missing)} tests that compile are left out: pip install meson ninja")
        arguments += ["--deselect", f"{core}.tests.test_mem_policy".replace(".", "/") + ".py"]
    if options.part:
        names = [f"{core}.tests.{name}" for name in PART if not (missing and name == "test_mem_policy")]
        names = [name for name in names if importlib.util.find_spec(name)]
        arguments += ["-m", "not slow", "-k", " and ".join(f"not {name}" for name in LONG)]
    else:
        names = ["numpy"]
    status = int(pytest.main([*arguments, "--pyargs", *names]))
    if heap is not None:
        stats = heap.stats()
        print(f"arrays had {stats.memory_peak >> 20} MiB of the heap at most; {len(list(heap.blocks()))} are left")
        if mrm.numpy.installed() is not heap or not stats.memory_peak:
            print("the handler did not stay, or nothing went through it")
            return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
