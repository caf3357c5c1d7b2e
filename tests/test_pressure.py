"""pressure: events of the kernel, made up as files; in machines that are thrown away, the kernel's own."""

import errno
import os
import select
import subprocess
import sys

import pytest
from limited import group, needs_root
from machine import throwaway

from mrm.physical import pressure
from mrm.physical.cgroups import page_size_name
from mrm.physical.pressure import changes, events, stall
from mrm.system.pages import frame_size

PAGES = f"hugetlb.{page_size_name(frame_size())}.events"


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_2 = {
    "proc/self/cgroup": "0::/a/b\n",
    "proc/self/mountinfo": "29 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
    "proc/pressure/memory": "",
    "cg/memory.pressure": "",
    **{
        f"cg/{name}": text
        for group_ in ("a", "a/b")
        for name, text in {
            f"{group_}/cgroup.type": "domain\n",
            f"{group_}/memory.pressure": "",
            f"{group_}/memory.events": "low 0\nhigh 3\nmax 1\noom 0\n",
        }.items()
    },
    f"cg/a/{PAGES}": "max 0\n",
}

VERSION_1 = {
    "proc/self/cgroup": "4:memory:/a/b\n",
    "proc/self/mountinfo": "29 23 0:26 / /cg/memory rw - cgroup cgroup rw,memory\n",
    "proc/pressure/memory": "",
    "cg/memory/a/b/memory.pressure_level": "",
    "cg/memory/a/b/cgroup.event_control": "",
}


@pytest.fixture
def closed():
    """Events to be closed at the end."""
    made = []
    yield made
    for event in made:
        event.close()


def test_version_2_has_the_own_groups_stalls_and_every_groups_limits(tmp_path, closed):
    made, refused = events(tree(tmp_path, VERSION_2))
    closed += made
    names = [(each.kind, each.name.removeprefix(f"{tmp_path}/").split()[0], each.of_group) for each in made]
    assert names == [
        ("memory", "proc/pressure/memory", False),
        ("memory", "cg/a/b/memory.pressure", True),
        ("memory", "cg/a/b/memory.events", True),
        ("memory", "cg/a/memory.events", True),
        ("huge pages", f"cg/a/{PAGES}", True),
    ]
    assert refused == []
    assert (tmp_path / "cg/a/b/memory.pressure").read_text() == "some 150000 1000000\0"
    assert (tmp_path / "cg/a/memory.pressure").read_text() == ""


def test_version_1_has_an_eventfd(tmp_path, closed):
    made, refused = events(tree(tmp_path, VERSION_1))
    closed += made
    assert refused == []
    (event,) = [each for each in made if each.of_group]
    said = (tmp_path / "cg/memory/a/b/cgroup.event_control").read_text().split()
    assert said[0] == str(event.fd)
    assert said[2:] == ["medium"]
    waiting = select.poll()
    waiting.register(event.fd, event.mask)
    assert waiting.poll(0) == []
    os.eventfd_write(event.fd, 1)  # as the kernel does
    ((_, seen),) = waiting.poll(0)
    assert event.happened(seen) == event.name
    assert waiting.poll(0) == []


def test_figures_that_rise_are_what_counts(tmp_path, closed):
    file = tmp_path / "memory.events"
    file.write_text("low 0\nhigh 3\nmax 1\n")
    event = changes(file, "memory", ("high", "max"))
    closed.append(event)
    assert event.happened(select.POLLPRI | select.POLLERR) is None
    file.write_text("low 7\nhigh 3\nmax 1\n")
    assert event.happened(select.POLLPRI | select.POLLERR) is None
    file.write_text("low 7\nhigh 3\nmax 2\n")
    assert event.happened(select.POLLPRI | select.POLLERR) == f"{file}: max 2"
    assert event.happened(select.POLLPRI | select.POLLERR) is None


def test_a_group_that_is_gone_is_an_error(tmp_path, closed):
    event = stall(tree(tmp_path, {"memory.pressure": ""}) / "memory.pressure")
    closed.append(event)
    assert event.happened(select.POLLPRI) == event.name
    with pytest.raises(OSError, match="gone"):
        event.happened(select.POLLPRI | select.POLLERR)


def test_without_the_right_to_any_window_it_is_two_seconds(tmp_path, monkeypatch, closed):
    written = []

    def write(fd, text):
        written.append(text)
        if b"2000000" not in text:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(pressure.os, "write", write)
    event = stall(tree(tmp_path, {"memory.pressure": ""}) / "memory.pressure")
    closed.append(event)
    assert written == [b"some 150000 1000000\0", b"some 300000 2000000\0"]
    assert "300 ms in 2 s" in event.name


@pytest.mark.parametrize(
    ("error", "said"),
    [(errno.EOPNOTSUPP, "psi=1"), (errno.EPERM, "CAP_SYS_RESOURCE"), (errno.EINVAL, "no trigger")],
)
def test_what_cannot_be_waited_for_is_said(tmp_path, monkeypatch, error, said):
    def write(fd, text):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(pressure.os, "write", write)
    made, refused = events(tree(tmp_path, {"proc/pressure/memory": ""}))
    assert made == []
    assert said in refused[0]


def test_a_machine_without_any_of_it(tmp_path):
    made, refused = events(tmp_path)
    assert made == []
    assert "no pressure stall information" in refused[0]


def test_this_machine(closed):
    """Whatever there is here, poll takes it, and nothing is left open (the fixture of all tests looks)."""
    made, refused = events()
    closed += made
    waiting = select.poll()
    for event in made:
        waiting.register(event.fd, event.mask)
    for fd, seen in waiting.poll(0):
        next(each for each in made if each.fd == fd).happened(seen)
    assert made or refused


# ---- the kernel's own ------------------------------------------------------------------

GREEDY = """
import os
open("{path}/cgroup.procs", "w").write(str(os.getpid()))
kept = bytearray(1)
while len(kept) < 256 << 20:
    kept += b"x" * (1 << 20)
"""


@throwaway
@needs_root
@pytest.mark.parametrize("what", ["limit", "stall"])
def test_a_group_beyond_its_limit_is_heard_of(closed, what):
    """Beyond memory.high nobody is killed: the kernel makes it sleep, which is a stall."""
    with group(memory_high=16 << 20) as path:
        if what == "limit":
            event = changes(path / "memory.events", "memory", ("high", "max"))
        else:
            if not (path / "memory.pressure").exists():
                pytest.skip("this kernel has no pressure stall information of groups")
            event = stall(path / "memory.pressure")
        closed.append(event)
        waiting = select.poll()
        waiting.register(event.fd, event.mask)
        assert waiting.poll(0) == []
        child = subprocess.Popen([sys.executable, "-c", GREEDY.format(path=path)])
        try:
            ((_, seen),) = waiting.poll(90_000)
            said = event.happened(seen)
            assert said.startswith(str(path))
            assert ("high" in said) == (what == "limit")
        finally:
            child.kill()
            child.wait()
        if what == "limit":
            event.happened(0)
            assert waiting.poll(0) == []  # once read, it is quiet


@throwaway
@needs_root
def test_a_group_that_is_removed_is_heard_of(closed):
    with group() as path:
        if not (path / "memory.pressure").exists():
            pytest.skip("this kernel has no pressure stall information of groups")
        closed += [stall(path / "memory.pressure"), changes(path / "memory.events", "memory", ("high",))]
    for event in closed:
        waiting = select.poll()
        waiting.register(event.fd, event.mask)
        ((_, seen),) = waiting.poll(10_000)
        with pytest.raises(OSError, match="gone|No such device"):
            event.happened(seen)
