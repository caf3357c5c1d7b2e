"""Runs CPython's own tests with its objects on huge pages, by ``mrm run``.

    python tools/python_tests.py                # all that stress objects, and processes
    python tools/python_tests.py test_gc -v     # these, with options of CPython's runner

Two processes run them, started with ``--children``, so that each is on huge pages itself. Tests that
this Python comes without are named and left out.
"""

import os
import sys
import sysconfig
from pathlib import Path

NAMES = (
    "test_array", "test_asyncio", "test_bytes", "test_call", "test_class", "test_concurrent_futures",
    "test_copy", "test_ctypes", "test_decimal", "test_deque", "test_descr", "test_dict", "test_dictviews",
    "test_exceptions", "test_fork1", "test_gc", "test_generators", "test_heapq", "test_io", "test_json",
    "test_list", "test_long", "test_memoryview", "test_mmap", "test_multiprocessing_fork",
    "test_multiprocessing_forkserver", "test_multiprocessing_spawn", "test_os", "test_pickle", "test_posix",
    "test_queue", "test_re", "test_set", "test_sort", "test_sqlite3", "test_str", "test_struct",
    "test_subprocess", "test_threading", "test_threading_local", "test_tracemalloc", "test_tuple",
    "test_unicode", "test_wait3", "test_wait4", "test_weakref", "test_zlib",
)  # fmt: skip
RENAMED = {"test_str", "test_unicode"}  # one or the other


def main() -> None:
    """Become the run."""
    folder = Path(sysconfig.get_path("stdlib"), "test")
    there = [name for name in NAMES if (folder / name).is_dir() or (folder / f"{name}.py").exists()]
    arguments = sys.argv[1:] or there
    if not there:
        sys.exit(f"this Python comes without its tests: there is no {folder}")
    missing = sorted(set(NAMES) - set(there) - RENAMED)
    if missing:
        print("this Python comes without", *missing, flush=True)
    options = ["-j2", "--timeout", "900"]
    command = [sys.executable, "-m", "mrm", "run", "--objects", "--children", "-m", "test", *options]
    os.execv(sys.executable, [*command, *arguments])


if __name__ == "__main__":
    main()
