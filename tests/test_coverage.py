"""The share of memory on huge pages: figures made up, those of this process, and those of others."""

import json
import os
import subprocess
import sys

import pytest
from helpers import FRAME, MIB, other_process, python
from programs import needs_thp

import mrm
from mrm._coverage import coverage_of_ranges, tell
from mrm.system.calls import system_call
from mrm.system.pages import low_addresses
from mrm.tools import cli

LOW = low_addresses()[0]


def entry(start, nbytes, *, flags="rw-p", offset=0, inode=0, name="", page=4, **figures):
    """An entry of smaps; figures in MiB."""
    lines = [f"{start:x}-{start + nbytes:x} {flags} {offset:08x} 00:01 {inode}    {name}"]
    lines += [f"Size:  {nbytes >> 10} kB", f"KernelPageSize:  {page} kB", "Rss:  0 kB"]
    lines += [f"{figure}:  {int(mib * 1024)} kB" for figure, mib in figures.items()]
    return [*lines, "THPeligible:    0", "VmFlags: rd wr mr mw me ac "]


def told(*entries):
    """Kinds as {kind: (resident, huge)}, in MiB."""
    lines = [f"{line}\n" for entry in entries for line in entry]
    return {portion.kind: (portion.resident / MIB, portion.huge / MIB) for portion in tell(lines)}


# ---- made up ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags", "kind"),
    [
        ("", "rw-p", "anonymous"),
        ("[anon:libc_malloc]", "rw-p", "anonymous"),
        ("[heap]", "rw-p", "heap"),
        ("[stack]", "rw-p", "stack"),
        ("[vdso]", "r-xp", "files"),
        ("/usr/lib/libc.so.6", "r-xp", "files"),
        ("/usr/lib/a name with blanks.so (deleted)", "r--p", "files"),
        ("/memfd:video (deleted)", "rw-s", "shared memory"),
        ("/dev/shm/queue", "rw-s", "shared memory"),
        ("/memfd:mrm (deleted)", "rw-s", "mrm frames"),
        ("[anon:mrm objects]", "rw-p", "mrm private"),
    ],
)
def test_kinds(name, flags, kind):
    assert told(entry(0x7F0000000000, 8 * MIB, flags=flags, name=name, inode=7, Rss=6)) == {kind: (6, 0)}


def test_mrm_is_known_by_where_it_lies():
    assert told(entry(LOW, 8 * MIB, Rss=4, AnonHugePages=2)) == {"mrm private": (4, 2)}
    assert told(entry(LOW, 8 * MIB, flags="rw-s", name="/mnt/huge/heap", inode=3, Rss=1)) == {
        "mrm frames": (1, 0)
    }


def test_all_that_is_huge_counts():
    assert told(
        entry(0x7F0000000000, 8 * MIB, Rss=8, AnonHugePages=6),
        entry(0x7F1000000000, 8 * MIB, Rss=2),
    ) == {"anonymous": (10, 6)}
    assert told(
        entry(0x7F0000000000, 8 * MIB, flags="rw-s", inode=1, name="/memfd:x", Rss=8, ShmemPmdMapped=4)
    ) == {"shared memory": (8, 4)}
    assert told(
        entry(0x7F0000000000, 8 * MIB, flags="r-xp", inode=1, name="/bin/x", Rss=8, FilePmdMapped=2)
    ) == {"files": (8, 2)}


def test_hugetlb_is_resident_too():
    size = FRAME >> 10
    for figure in ("Private_Hugetlb", "Shared_Hugetlb"):
        assert told(entry(0x7F0000000000, 8 * MIB, page=size, **{figure: 4})) == {"huge pages": (4, 4)}
        assert told(entry(0x7F0000000000, 8 * MIB, page=64, **{figure: 4})) == {"huge pages": (4, 0)}
    frames = {"flags": "rw-s", "inode": 9, "name": "/memfd:mrm (deleted)", "page": size}
    assert told(entry(LOW, 8 * MIB, Shared_Hugetlb=8, **frames)) == {"mrm frames": (8, 8)}


def test_what_several_mappings_of_a_file_show_counts_once():
    frames = {"flags": "rw-s", "inode": 9, "name": "/memfd:mrm (deleted)", "page": FRAME >> 10}
    window = entry(LOW, 8 * MIB, Shared_Hugetlb=8, **frames)
    view = entry(LOW + (1 << 30), 8 * MIB, Shared_Hugetlb=8, **frames)
    assert told(window, view) == {"mrm frames": (8, 8)}
    # A window that nobody has touched, and frames of it that are shown elsewhere, one of them twice.
    slots = [
        entry(LOW + (at << 30), 2 * MIB, offset=offset * MIB, Shared_Hugetlb=2, **frames)
        for at, offset in ((2, 0), (3, 4), (4, 4))
    ]
    assert told(entry(LOW, 8 * MIB, **frames), *slots) == {"mrm frames": (4, 4)}
    assert told(window, view, *slots) == {"mrm frames": (8, 8)}
    other = entry(LOW + (9 << 30), 2 * MIB, Shared_Hugetlb=2, **{**frames, "inode": 10})
    assert told(window, other) == {"mrm frames": (10, 10)}
    # Private mappings of one file each have pages of their own.
    private = {"inode": 5, "name": "/usr/lib/x.so"}
    assert told(
        entry(0x7F0000000000, MIB, Rss=1, **private), entry(0x7F1000000000, MIB, Rss=1, **private)
    ) == {"files": (2, 0)}


def test_nothing_is_nothing():
    assert told(entry(0x7F0000000000, 8 * MIB)) == {}
    assert tell([]) == ()
    assert mrm.Portion("heap", 0, 0).share == 0


# ---- of this process --------------------------------------------------------------------


def test_of_this_process():
    found = mrm.coverage()
    assert found.pid == os.getpid()
    assert found.of("files").resident > MIB
    assert found.resident == sum(portion.resident for portion in found.portions)
    assert 0 <= found.share <= 1 and found.huge <= found.resident
    assert isinstance(found, mrm.Coverage)
    assert "on pages of" in str(found)
    assert mrm.coverage(os.getpid()).of("stack").resident > 0


def test_huge_pages_of_a_pool_are_counted_once(huge):
    with mrm.Pool(8 * FRAME, huge=huge) as pool, pool.open_view() as view:
        before = mrm.coverage().of("mrm frames")
        for frame in range(8):
            pool[frame][:1] = view[frame][:1] = b"x"
        found = mrm.coverage().of("mrm frames")
        if pool.backing == "hugetlb":
            assert found.huge == 8 * FRAME
            assert 8 * FRAME <= found.resident < 9 * FRAME
        else:
            assert found.resident - before.resident <= 8 * FRAME


@needs_thp
def test_transparent_huge_pages_until_they_are_split():
    import ctypes
    import mmap

    room = 9 * FRAME
    at = system_call(
        "mmap", 0, room, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 2**64 - 1, 0
    )
    try:
        start = (at + FRAME - 1) // FRAME * FRAME
        system_call("madvise", start, 8 * FRAME, mmap.MADV_HUGEPAGE)
        ctypes.memset(start, 1, 8 * FRAME)
        whole = coverage_of_ranges((at, room))
        if whole.huge == 0:
            pytest.skip("the kernel has no free huge page just now")
        assert whole.resident == 8 * FRAME
        system_call("madvise", start + FRAME // 2, 4096, mmap.MADV_DONTNEED)
        split = coverage_of_ranges((at, room))
        assert split.huge == whole.huge - FRAME
        assert split.resident == 8 * FRAME - 4096
        assert mrm.coverage().huge >= split.huge
    finally:
        system_call("munmap", at, room)


# ---- of others ----------------------------------------------------------------------------


def test_of_another_process(capsys):
    with other_process("import sys; print('there', flush=True); sys.stdin.read()") as other:
        other.stdout.readline()
        assert cli.run(["coverage", str(other.pid), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["pid"] == other.pid
        assert told["page_size"] == FRAME
        assert told["resident"] == sum(kind["resident"] for kind in told["kinds"].values()) > MIB
        assert (
            told["kinds"]["files"]["share"]
            == told["kinds"]["files"]["huge"] / told["kinds"]["files"]["resident"]
        )
        assert cli.run(["coverage", str(other.pid)]) == 0
        shown = capsys.readouterr().out
        for word in ("RESIDENT", "SHARE", "files", "all"):
            assert word in shown


def test_processes_that_tell_nothing(capsys):
    with pytest.raises(mrm.Error, match="there is no process 4194305"):
        mrm.coverage(4194305)
    assert cli.run(["coverage", "4194305"]) == 1
    assert "no process 4194305" in capsys.readouterr().err
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # a zombie
    with pytest.raises(mrm.Error, match="has ended"):
        mrm.coverage(ended.pid)
    ended.wait()
    for wrong in (0, -3, "1", True):
        with pytest.raises(mrm.ArgumentError):
            mrm.coverage(wrong)
    assert cli.run(["coverage", "nonsense"]) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_may_not_look():
    code = (
        "import os, sys, mrm\nmrm.coverage()\nos.setuid(65534)\n"
        "try: mrm.coverage(int(sys.argv[1]))\nexcept mrm.Error as error: print(error)"
    )
    done = python("-c", code, str(os.getpid()))
    assert "may not be looked into" in done.stdout and "root" in done.stdout, done
