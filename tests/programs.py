"""Programs with their objects on mrm's memory: each in a process of its own, since what is put in place stays."""

import sysconfig
import textwrap

import pytest
from helpers import in_child

from mrm.physical.transparent import why_not

needs_arenas = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="a free-threaded CPython has no arenas"
)
needs_thp = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")

_PREAMBLE = """
import errno, gc, os, pathlib, random, signal, threading, time
import mrm.cpython
from mrm.system.calls import Script
warnings.simplefilter("ignore", mrm.BackingWarning)

def make(n=200_000):
    "Objects in arenas, and a list and a dict above them, that tell when a byte of theirs is wrong."
    return {i: (i, str(i), [float(i)]) for i in range(n)}

def good(made, n=200_000):
    return len(made) == n and all(a == i and b == str(i) and c == [float(i)] for i, (a, b, c) in made.items())

def wait(child):
    status = os.waitpid(child, 0)[1]
    assert status == 0, os.waitstatus_to_exitcode(status)

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child
"""


def run(code, **options):
    """Run it in a process of its own, which must say "done" in the end, and end well."""
    ending = in_child(_PREAMBLE + "\n" + textwrap.dedent(code) + "\nsay('done')", **options)
    assert (ending.code, ending.out.splitlines()[-1:], ending.err) == (0, ["done"], ""), ending
    return ending
