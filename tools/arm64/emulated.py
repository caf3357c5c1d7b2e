"""What cannot be tried under user-mode emulation, and why: the one table.

A pytest plugin (`-p emulated`), which `make arm64` uses.
"""

import pytest

COMPILER = "compiles a client: there is no compiler in the emulated root"

#: Beginnings of test names, and the reason why they are skipped.
CANNOT = {
    "tests/test_clients.py": COMPILER,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is in the table."""
    for item in items:
        for beginning, reason in CANNOT.items():
            if item.nodeid.startswith(beginning):
                item.add_marker(pytest.mark.skip(reason=f"emulated: {reason}"))
                break
