"""What cannot be tried under user-mode emulation, and why: the one table.

A pytest plugin (`-p emulated`), which `make arm64` uses.
"""

import pytest
from hypothesis import settings

import mrm.verify

# An example takes many times as long: few of them, and no deadline.
settings.register_profile("emulated", max_examples=5, deadline=None)
settings.load_profile("emulated")

COMPILER = "compiles a client: there is no compiler in the emulated root"

#: Beginnings of test names, and the reason why they are skipped.
CANNOT = {
    "tests/test_clients.py": COMPILER,
    "tests/test_examples.py": COMPILER,
    "tests/test_machines_refused.py": "is about compilers of this machine, and `make test` runs it",
    "tests/test_typing.py": "runs mypy, which says the same on every machine",
    "tests/test_api.py": "compares a page with docstrings, which are the same on every machine",
    "tests/test_bench.py": "measures: emulated, every figure is QEMU's",
    "tests/test_classify.py::test_a_handler": "compiles trap.c: there is no compiler in the emulated root",
    "tests/test_limits": "is about this machine's limits, which count QEMU's own memory and mappings, too",
    "tests/test_features.py::test_what_every_kernel_from_5_10_on_has_is_there": "QEMU is the kernel, and lacks "
    "MAP_FIXED_NOREPLACE, userfaultfd and protection keys",
    "tests/test_features.py::test_without_descriptors": "QEMU needs descriptors of its own",
    "tests/test_machines.py": "is about machines that this one boots",
    "tests/test_wheels.py": "is about wheels for this machine",
    "tests/test_sanitize.py": "is about builds for this machine",
    "tests/test_package.py": "is about archives, which are the same on every machine",
    "tests/test_shootdowns.py": "counts this machine's interrupts, not an arm64 machine's",
}


def pytest_configure() -> None:
    """Have nothing compared with /proc/self/maps: QEMU's own has holes where addresses are reserved."""
    mrm.verify.check_reservation = lambda *reservation: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in the table."""
    for item in items:
        for beginning, reason in CANNOT.items():
            if item.nodeid.startswith(beginning):
                item.add_marker(pytest.mark.skip(reason=f"emulated: {reason}"))
                break
