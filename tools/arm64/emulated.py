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

ADDRESSES = "wants more addresses than the 36 bits that QEMU is given"
MAPS = "compares with /proc/self/maps or smaps, and QEMU's own says less than the kernel's"

#: Beginnings of test names, and the reason why they are skipped.
CANNOT = {
    "tests/test_clients.py": COMPILER,
    "tests/test_example_lua.py": "needs Lua's library, which the emulated root does not have",
    "tests/test_example_runtime.py": COMPILER,
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
    "tests/test_features.py::test_the_way_without_mremap": "asks for a node: QEMU has no set_mempolicy",
    "tests/test_features.py::test_a_description_names_the_node": "asks for a node: QEMU has no set_mempolicy",
    "tests/test_machines.py": "is about machines that this one boots",
    "tests/test_wheels.py": "is about wheels for this machine",
    "tests/test_sanitize.py": "is about builds for this machine",
    "tests/test_package.py": "is about archives, which are the same on every machine",
    **dict.fromkeys(
        (
            "tests/test_classify.py::test_many_ranges",
            "tests/test_lifetimes.py::test_an_address_may_be_asked_for_while_its_range_is_closed",
            "tests/test_plan.py::test_a_reservation_among_the_kernels_mappings_uses_no_mremap",
            "tests/test_pool.py::test_as_many_views_as_asked_for_can_be_open[small-7-True]",
            "tests/test_reservation.py::test_a_large_reservation_costs_no_memory",
            "tests/test_threads.py::test_a_thread_that_commits_reads_its_own_failure",
            "tests/test_threads.py::test_batches_on_one_reservation_take_turns",
            "tests/test_threads.py::test_classify_while_addresses_come_and_go",
            "tests/test_threads.py::test_conflicting_batches_are_done_whole_or_not_at_all",
            "tests/test_threads.py::test_frames_taken_at_once_are_different",
            "tests/test_threads.py::test_looking_while_others_change",
            "tests/test_threads.py::test_reservations_and_views_of_their_own",
        ),
        ADDRESSES,
    ),
    "tests/test_fork.py::test_every_use_in_the_child_is_refused": MAPS,
    "tests/test_pool.py::test_core_dumps_hold_each_frame_once_at_the_most": MAPS,
    "tests/test_reservation.py::test_a_closed_reservation_is_used_no_more": MAPS,
    "tests/test_reservation.py::test_check_finds_what_the_table_does_not_say": MAPS,
    "tests/test_view.py::test_the_window_takes_no_faults": "counts faults, which are QEMU's, too",
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
