"""Processes to watch, and the command that watches."""

import contextlib
import textwrap

import pytest
from helpers import other_process


@contextlib.contextmanager
def owner(code, name="owner"):
    """Another process that runs this, and says "ready" when there is something to see; it obeys lines."""
    source = textwrap.dedent(f"""
        import os, sys
        import mrm
        F = mrm.FRAME_SIZE
        def ready():
            print("ready", flush=True)
            return sys.stdin.readline().strip()
        name = {name!r}
    """) + textwrap.dedent(code)
    with other_process(source) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


def go_on(process):
    """Let it run to its next point."""
    process.stdin.write("on\n")
    process.stdin.flush()
    return process.stdout.readline()


def mrm_command(*arguments):
    """The command, in this process; what it printed."""
    testing = pytest.importorskip("click.testing")
    pytest.importorskip("rich")
    from mrm.tools.commands import group

    return testing.CliRunner().invoke(group, arguments)
