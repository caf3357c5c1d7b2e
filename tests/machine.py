"""What a test asks of the machine that it runs on: one place for the reasons to skip.

A machine that is thrown away afterwards says so by ``MRM_THROWAWAY=1`` in the
environment: there tests may set sysctls, mount, make control groups, take processors
offline and use up all huge pages. `make matrix` boots such machines; on any other, these
tests are skipped, with the reason. Anywhere else one setting is changed, where it may be:
nr_hugepages, by a few pages, which are put back.

The tests may lie beside an installed mrm, without its sources: `make wheels` copies them to
such a place. What is about the sources is skipped there, and where there is no compiler,
what compiles.
"""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from mrm.physical.limits import nodes

CHECKOUT = (Path(__file__).resolve().parent.parent / "setup.py").exists()
COMPILER = shutil.which((os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0])

THROWAWAY = os.environ.get("MRM_THROWAWAY") == "1"

#: For tests that change settings of the whole machine, but for nr_hugepages by a few pages, put back by a keeper.
throwaway = pytest.mark.skipif(
    not THROWAWAY,
    reason="changes settings of the whole machine: `make matrix` runs it in one that is thrown away",
)


#: For tests of what lies beside the sources: documentation, archives, tools.
needs_checkout = pytest.mark.skipif(
    not CHECKOUT, reason="is about the sources, and it is an installed mrm that is tested"
)

#: For tests that compile what uses mrm.
needs_compiler = pytest.mark.skipif(
    COMPILER is None or "false" in COMPILER,
    reason="compiles a client of mrm's, and there is no C compiler here",
)


#: Where the machine's host can be asked to drive its balloon (tools/machines/host.py).
BALLOON = os.environ.get("MRM_BALLOON")

#: For tests that need a host to ask this machine for memory.
needs_balloon = pytest.mark.skipif(
    not BALLOON,
    reason="needs a virtio balloon and a host that drives it: `make matrix` boots a machine that has both",
)


#: What could not be tried at all for want of a program or a library, and the reason: said at the end of a run.
NOT_TRIED = {}


def not_tried(what, reason):
    """Have the end of the run say, so that nobody overlooks it, what was not tried, and why."""
    NOT_TRIED[what] = reason


def needs_processors(count):
    """For tests that need so many processors to run on."""
    there = len(os.sched_getaffinity(0))
    return pytest.mark.skipif(there < count, reason=f"needs {count} processors, and this machine has {there}")


def needs_first_processors(count):
    """For tests that bind themselves to processors 0, 1 and so on by number, as made-up machines have these."""
    wanted, there = set(range(count)), os.sched_getaffinity(0)
    return pytest.mark.skipif(
        not wanted <= there,
        reason=f"needs processors 0 to {count - 1}, and may run on {sorted(there)}: "
        "run it without taskset, or in a cpuset that has them",
    )


def needs_nodes(count):
    """For tests that need so many NUMA nodes."""
    there = len(nodes())
    return pytest.mark.skipif(there < count, reason=f"needs {count} NUMA nodes, and this machine has {there}")
