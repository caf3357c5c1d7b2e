"""The sizes that the machine sets; and layouts, plans, names and messages on machines that are pretended.

Pools of these other machines are opened on the fake, which maps nothing.
"""

import errno
import os
import re

import pytest
from facts import MREMAP, has
from helpers import ROOT, steps_of

import mrm
from mrm.physical import cgroups, filling, funding, limits
from mrm.physical.order import Order
from mrm.system import pages
from mrm.system.calls import Script

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

#: Base page, bits of addresses; frame, what is shared, where arenas lie at first.
MACHINES = {
    "x86-64": (4 * KIB, 47, 2 * MIB, GIB, 16 * TIB),
    "arm64, 4K": (4 * KIB, 48, 2 * MIB, GIB, 16 * TIB),
    "arm64, 4K, 39 bits": (4 * KIB, 39, 2 * MIB, GIB, 64 * GIB),
    "arm64, 16K": (16 * KIB, 47, 32 * MIB, 64 * GIB, 16 * TIB),
    "arm64, 16K, 36 bits": (16 * KIB, 36, 32 * MIB, 0, 8 * GIB),
    "arm64, 64K": (64 * KIB, 48, 512 * MIB, 0, 16 * TIB),
    "arm64, 64K, 42 bits": (64 * KIB, 42, 512 * MIB, 0, 512 * GIB),
}


class Machine:
    """What a test is told of the machine that it is on."""

    def __init__(self, base, bits, frame, shared, low):
        self.base, self.bits, self.frame, self.shared, self.low = base, bits, frame, shared, low


@pytest.fixture(params=MACHINES.values(), ids=MACHINES)
def machine(request):
    base, bits, *_ = request.param
    with pages.pretend(base, bits), Script(fake=True, address_bits=bits):
        yield Machine(*request.param)


def mappings_of(script):
    """Sizes of the mappings of a file that a script has seen."""
    return [a[1] for name, a, _ in script.calls() if name == "mmap" and a[4] >= 0]


# ---- this machine ---------------------------------------------------------------------


def test_the_sizes_are_this_machines():
    base = os.sysconf("SC_PAGE_SIZE")
    assert pages.base_page_size() == base
    assert mrm.FRAME_SIZE == pages.frame_size() == base // 8 * base
    assert pages.page_table_span() == base // 8 * mrm.FRAME_SIZE
    assert 36 <= pages.bits_of_addresses() <= 48
    start, end = pages.low_addresses()
    assert 0 < start < end < 1 << pages.bits_of_addresses()


def test_a_pool_has_frames_of_that_size():
    with mrm.Pool(3 * mrm.FRAME_SIZE, huge="off") as pool:
        assert (pool.frame_size, len(pool), pool.size) == (mrm.FRAME_SIZE, 3, 3 * mrm.FRAME_SIZE)


def test_what_is_pretended_ends():
    before = pages.frame_size(), pages.bits_of_addresses()
    with pages.pretend(65536, 42):
        assert (pages.frame_size(), pages.bits_of_addresses()) == (512 * MIB, 42)
    assert (pages.frame_size(), pages.bits_of_addresses()) == before


@pytest.mark.parametrize("wrong", [{"base_page_size": 8192}, {"address_bits": 32}, {"address_bits": 64}])
def test_no_such_machine_can_be_pretended(wrong):
    with pytest.raises(mrm.ArgumentError):
        pages.pretend(**wrong)


def test_sizes_of_pages_stand_in_one_place():
    """No code but pages.pyx has a size of its own; comments and docstrings may give examples."""
    numbers = re.compile(
        r"\b2 ?<< ?20\b|\b2097152\b|[>]> ?21\b|<< ?21\b|\b21 ?<< ?26\b|hugepages-2048kB|pagesize=2M|hugetlb\.2MB"
        r"|[*/%] ?4096\b|\b4096 ?[*/%]|== ?4096\b"
    )
    found = []
    for path in [*ROOT.glob("mrm/**/*.p[yx]*"), *ROOT.glob("include/**/*.h")]:
        if path.name == "pages.pyx" or path.suffix not in (".py", ".pyx", ".pxd", ".h"):
            continue
        text = re.sub(r'"""(?s:.*?)"""', lambda m: "\n" * m[0].count("\n"), path.read_text())
        for number, line in enumerate(text.splitlines(), 1):
            if numbers.search(line.partition("#")[0]):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


# ---- other machines -------------------------------------------------------------------


def test_names_follow_the_size(machine):
    assert (pages.frame_size(), pages.shared_table_span()) == (machine.frame, machine.shared)
    kilobytes, megabytes = machine.frame // KIB, machine.frame // MIB
    assert pages.huge_pages_folder() == f"hugepages-{kilobytes}kB"
    assert pages.mount_option() == f"pagesize={megabytes}M"
    assert 1 << (pages.memfd_flag() >> 26) == machine.frame


def test_memfds_are_asked_for_by_that_size():
    for base, _, frame, *_ in MACHINES.values():
        with pages.pretend(base), Script(fake=True) as script, mrm.Pool(1, huge="require") as pool:
            assert pool.size == frame
            made = [a for name, a, _ in script.calls() if name == "memfd_create"]
            assert [1 << (a[1] >> 26) for a in made] == [frame]


def test_layouts_are_bit_fields_within_the_addresses(machine):
    with mrm.Pool(16 * machine.frame, huge="require") as pool:
        layout = pool.layout
        assert (pool.frame_size, len(pool)) == (machine.frame, 16)
        assert 1 << layout["frame_shift"] == machine.frame
        assert 1 << layout["stride_shift"] >= max(16 * machine.frame, machine.shared)
        arena = layout["view_count"] << layout["stride_shift"]
        assert layout["view_count"] >= 4 and layout["base"] % arena == 0
        assert layout["base"] >= machine.low and layout["base"] + arena <= 1 << machine.bits
        assert arena <= 1 << machine.bits - 2
        # From 39 bits on there is room for 63 views and more.
        assert machine.bits < 39 or layout["view_count"] >= 64
        view = pool.open_view()
        for frame in (0, 15):
            address = view.address(frame)
            place = mrm.classify(address + machine.frame - 1)
            assert (place.kind, place.frame, place.offset) == ("view", frame, machine.frame - 1)
        view.close()


@pytest.mark.parametrize("name", MACHINES)
def test_mappings_end_with_a_page_table_where_tables_are_shared(name):
    base, bits, frame, shared, _ = MACHINES[name]
    for count in (1, 16, 33):
        with pages.pretend(base, bits), Script(fake=True, address_bits=bits) as script:
            mrm.Pool(count * frame, huge="require").close()
            windows = mappings_of(script)
        length = -(-count * frame // shared) * shared if shared else count * frame
        # Funding maps the frames alone; then comes the window.
        assert windows == [count * frame, length]


def test_moves_never_cover_a_page_table(machine):
    """There mremap would hang the kernel for ever: a run that long is mapped anew, one that is shorter is moved."""
    span = pages.page_table_span() // machine.frame
    if 2 * span * machine.frame * 4 > 1 << machine.bits:
        pytest.skip("no address range here holds two page tables of frames")
    with mrm.Pool(2 * span * machine.frame, huge="require", views=1) as pool, pool.reserve(4 * span) as r:
        first = pool.take_run(2 * span)[0]
        with r.batch() as batch:
            batch.map(range(2 * span), range(first, first + 2 * span))
        with r.batch() as batch:
            batch.move(range(2 * span), range(2 * span, 4 * span))
            assert "mremap" not in steps_of(batch.explain())
        with r.batch() as batch:
            batch.move(range(2 * span, 2 * span + 8), range(8))
            assert ("mremap" in steps_of(batch.explain())) == (has(MREMAP) and r.base >= machine.low)
        r.close()
        pool.give(range(first, first + 2 * span))


def test_too_many_views_are_refused_with_what_there_is(machine):
    most = (1 << machine.bits - 2) // max(machine.shared, GIB, machine.frame)
    with pytest.raises(mrm.AddressSpaceError, match="views of a stride"):
        mrm.Pool(machine.frame, huge="require", views=min(2 * most, 2**20 - 1))


def test_a_pool_for_which_there_are_too_few_addresses_says_how_many_there_are():
    with (
        pages.pretend(4096, 39),
        Script(fake=True, address_bits=39),
        mrm.Pool("64MiB", huge="require") as pool,
        pytest.raises(mrm.AddressSpaceError, match=r"512 GiB of them on this machine \(39 bits\)"),
    ):
        pool.reserve(300 * 512)


def test_messages_say_the_size(machine, tmp_path):
    size = mrm.sizes.format_size(machine.frame)
    (tmp_path / "sys/kernel/mm").mkdir(parents=True)
    said = limits.explain_shortage(machine.frame, errno.ENOMEM, root=tmp_path)
    assert f"no huge pages of {size}" in said and f"hugepages-{machine.frame // KIB}kB" in said
    with pytest.raises(mrm.ArgumentError, match=f"multiple of {size}"):
        funding.fund(machine.frame + 1)
    order = Order(machine.frame, "off", None, None, False, None, None, None)
    assert funding._what(order, funding.HUGETLB) == f"{size} of huge pages of {size}"
    assert funding._what(order, funding.SMALL) == f"{size} of pages of {machine.base // KIB} KiB"


def test_parts_are_whole_frames(machine):
    order = Order(3000 * machine.frame, "off", None, None, False, None, None, None)
    parts = [part.nbytes for part in filling._parts(order, -1, 0)]
    assert sum(parts) == 3000 * machine.frame and not any(nbytes % machine.frame for nbytes in parts)
    assert order.threads_for(funding.HUGETLB) >= 1


def test_limits_are_found_by_the_kernels_names(machine, tmp_path):
    pool = tmp_path / "sys/kernel/mm/hugepages" / f"hugepages-{machine.frame // KIB}kB"
    pool.mkdir(parents=True)
    (pool / "nr_hugepages").write_text("5")
    (pool / "free_hugepages").write_text("3")
    found = limits.huge_pages(root=tmp_path)
    assert (found.page_size, found.total, found.free) == (machine.frame, 5, 3)
    group = tmp_path / "cg"
    group.mkdir()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("1 0 0:1 / /cg rw - cgroup2 cgroup2 rw\n")
    (group / f"hugetlb.{machine.frame // MIB}MB.max").write_text(str(7 * machine.frame))
    assert [limit.limit for limit in cgroups.hugetlb_limits(root=tmp_path)] == [7 * machine.frame]
