"""Private heaps where addresses or promised memory are limited."""

import pathlib

import pytest
from helpers import in_child
from machine import THROWAWAY

OVERCOMMIT = pathlib.Path("/proc/sys/vm/overcommit_memory")

_OPEN = """
import resource
def opened(**options):
    "A heap, and what its opening said of addresses."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        heap = mrm.Heap(**options)
    return heap, [each for each in caught if "addresses" in str(each.message)]
"""

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
        f"""{_OPEN}
resource.setrlimit(resource.RLIMIT_AS, ({gib} << 30, {gib} << 30))
heap, told = opened()
stats = heap.stats()
assert 0 < stats.addresses < {gib} << 30
assert len(told) == bool(stats.addresses_lacking)
heap.close()
warnings.simplefilter("ignore")
{_USE}"""
    )
    assert (ending.code, ending.out) == (0, "well\n"), ending


@pytest.mark.parametrize(("limit", "way"), [("RLIMIT_AS", "ulimit -v"), ("RLIMIT_DATA", "ulimit -d")])
def test_few_addresses_are_told_once_with_the_limit(limit, way):
    ending = in_child(
        f"""{_OPEN}
memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.{limit}, (5 << 30, 5 << 30))
heap, told = opened(name="young")
stats = heap.stats()
assert stats.addresses_lacking, stats
assert stats.addresses + stats.addresses_lacking >= 2 * memory, stats
warning, = told
assert warning.category is mrm.BackingWarning
text = str(warning.message)
assert f"heap {{heap.number}} 'young' has" in text, text
assert mrm.sizes.format_size(stats.addresses_lacking) in text, text
assert "{limit} allows 5120 MiB of" in text and "raise it ({way})" in text, text
heap.close()
say("told")
"""
    )
    assert (ending.code, ending.out) == (0, "told\n"), ending


def test_a_heap_that_may_have_little_needs_few_addresses():
    ending = in_child(
        f"""{_OPEN}
resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
heap, told = opened(limit="64MiB")
assert not told, told[0].message
assert heap.stats().addresses_lacking == 0
block = heap.malloc(50 * MIB)
poke(block)
heap.close()
say("well")
"""
    )
    assert (ending.code, ending.out) == (0, "well\n"), ending


def test_few_addresses_are_told_to_c():
    pytest.importorskip("cffi")
    ending = in_child(
        """
        import resource
        from mrm.cffi import api, ffi
        resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
        options = ffi.new("mrm_heap_options *", {"size": ffi.sizeof("mrm_heap_options")})
        stats = ffi.new("mrm_heap_stats *", {"size": ffi.sizeof("mrm_heap_stats")})
        made = ffi.new("mrm_heap **")
        for limit, lacks in ((0, True), (64 * MIB, False)):
            options.limit = limit
            assert api.heap_open(ffi.NULL, options, made) == 0
            assert api.heap_stats(made[0], stats) == 0
            assert 0 < stats.addresses < 5 << 30
            assert (stats.addresses_lacking > 0) == lacks
            assert api.heap_close(made[0]) == 0
        say("told")
        """
    )
    assert (ending.code, ending.out) == (0, "told\n"), ending


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
