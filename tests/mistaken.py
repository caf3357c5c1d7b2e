"""What tests of heaps with debug need: writes where nobody may write, and reports taken apart."""

import ctypes
import re

import pytest

import mrm


def write(address, data):
    """Put bytes at an address."""
    ctypes.memmove(address, data, len(data))


def read(address, n):
    """The bytes at an address."""
    return ctypes.string_at(address, n)


def release(heap, address):
    """Free a block, in a function that stacks show."""
    heap.free(address)


def told(call, *arguments):
    """The report of the BlockError that a call raises."""
    with pytest.raises(mrm.BlockError) as caught:
        call(*arguments)
    return str(caught.value)


def stack(report, title):
    """The functions of Python's part of one stack of a report, the innermost first."""
    part = re.search(rf"^  {title},? in thread \d+:\n((?:    .*\n?)*)", report, re.MULTILINE)
    assert part, (title, report)
    return re.findall(r'^    File ".*", line \d+, in (\S+)$', part[1], re.MULTILINE)
