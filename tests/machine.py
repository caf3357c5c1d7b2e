"""What a test asks of the machine that it runs on: one place for the reasons to skip.

A machine that is thrown away afterwards says so by ``MRM_THROWAWAY=1`` in the
environment: there tests may set sysctls, mount, make control groups, take processors
offline and use up all huge pages. `make matrix` boots such machines; on any other, these
tests are skipped, with the reason.
"""

import os

import pytest

from mrm.physical.limits import nodes

THROWAWAY = os.environ.get("MRM_THROWAWAY") == "1"

#: For tests that change settings of the whole machine.
throwaway = pytest.mark.skipif(
    not THROWAWAY,
    reason="changes settings of the whole machine: `make matrix` runs it in one that is thrown away",
)


def needs_processors(count):
    """For tests that need so many processors to run on."""
    there = len(os.sched_getaffinity(0))
    return pytest.mark.skipif(there < count, reason=f"needs {count} processors, and this machine has {there}")


def needs_nodes(count):
    """For tests that need so many NUMA nodes."""
    there = len(nodes())
    return pytest.mark.skipif(there < count, reason=f"needs {count} NUMA nodes, and this machine has {there}")
