"""Private heaps where addresses or promised memory are limited."""

import pathlib

import pytest
from helpers import in_child
from machine import THROWAWAY

OVERCOMMIT = pathlib.Path("/proc/sys/vm/overcommit_memory")

_USE = """
heap = mrm.Heap()
blocks = [heap.malloc(n) for n in (100, 5000, 3 * MIB, 9 * MIB)]
for address in blocks:
    poke(address)
blocks[2] = heap.realloc(blocks[2], 11 * MIB)
assert [peek(address) for address in blocks] == [1] * 4
for address in blocks:
    heap.free(address)
heap.trim()
say("well")
"""


@pytest.mark.parametrize("gib", [200, 40, 10, 5])
def test_a_heap_takes_fewer_addresses_where_the_process_may_have_few(gib):
    ending = in_child(
        f"import resource\nresource.setrlimit(resource.RLIMIT_AS, ({gib} << 30, {gib} << 30))\n{_USE}"
    )
    assert (ending.code, ending.out) == (0, "well\n"), ending


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_too_few_addresses_are_told_with_the_limit(limit):
    ending = in_child(
        f"""
        import resource
        resource.setrlimit(resource.{limit}, (600 << 20, 600 << 20))
        try:
            mrm.Heap()
        except mrm.AddressSpaceError as error:
            assert error.call == "mmap", error.call
            say(error)
        """
    )
    assert ending.code == 0, ending
    assert f"{limit} allows 600 MiB" in ending.out, ending


def test_memory_that_is_promised_is_not_promised_twice():
    """vm.overcommit_memory 2, on a machine that is thrown away."""
    if not THROWAWAY:
        pytest.skip("changes the whole machine: run `make matrix`")
    before = OVERCOMMIT.read_text()
    OVERCOMMIT.write_text("2")
    try:
        ending = in_child(_USE)
    finally:
        OVERCOMMIT.write_text(before)
    assert (ending.code, ending.out) == (0, "well\n"), ending
