"""tools.machines.kernels: a kernel is fetched whole or not at all, from a mirror that is made up here."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "tools.machines", reason="a checkout's tools are not here: it is an installed mrm that is tested"
)
from tools.machines.kernels import at_hand, fetch, kernel
from tools.machines.needs import MachineError

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's dpkg-deb is not here")

OLD, NEW = "5.10.0-1-cloud-amd64", "5.10.0-2-cloud-amd64"
#: Stand for Debian's, over the packages in $MIRROR; what is downloaded is noted in $MIRROR/asked.
APT_CACHE = """#!/bin/sh
case "$*" in
*depends*) ;;
*) for package in "$MIRROR"/*.deb; do basename "$package" .deb; done | sed 's/$/ - Linux/' ;;
esac
"""
APT_GET = """#!/bin/sh
for word; do last=$word; done
case "$*" in
*download*) echo "$last" >> "$MIRROR/asked"; cp "$MIRROR/$last.deb" . ;;
esac
"""


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder for packages, and an empty cache."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"apt-cache": APT_CACHE, "apt-get": APT_GET}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    packages = tmp_path / "mirror"
    packages.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("MIRROR", str(packages))
    monkeypatch.setenv("MRM_CACHE", str(tmp_path / "cache"))
    return packages


def add(mirror, version):
    """Put the package of a kernel on the mirror."""
    top = mirror.parent / version
    for name, text in {
        f"boot/vmlinuz-{version}": "a kernel",
        f"lib/modules/{version}/modules.dep": "",
        "DEBIAN/control": "Package: linux\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n",
    }.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    package = mirror / f"linux-image-{version}.deb"
    subprocess.run(["dpkg-deb", "--build", top, package], check=True, capture_output=True)


def test_the_newest_of_a_name_is_fetched_into_an_empty_cache(mirror):
    add(mirror, OLD)
    add(mirror, NEW)
    assert at_hand() == []
    found = kernel("5.10")
    assert (found.version, found.image.read_text()) == (NEW, "a kernel")
    assert found.modules.is_dir()
    assert at_hand() == [found]


def test_a_kernel_that_is_there_is_fetched_anew(mirror):
    add(mirror, NEW)
    assert (fetch("5.10"), fetch("5.10")) == (NEW, NEW)
    assert [found.version for found in at_hand()] == [NEW]


def test_machines_that_want_the_same_kernel_fetch_it_once(mirror):
    add(mirror, NEW)
    with ThreadPoolExecutor(4) as machines:
        found = set(machines.map(kernel, ["5.10"] * 2 + ["newest"] * 2))
    assert {one.version for one in found} == {NEW}
    assert (mirror / "asked").read_text().split() == [f"linux-image-{NEW}"]


def test_a_package_that_is_cut_off_leaves_nothing_and_an_older_one_is_taken(mirror):
    add(mirror, OLD)
    add(mirror, NEW)
    broken = mirror / f"linux-image-{NEW}.deb"
    broken.write_bytes(broken.read_bytes()[:-100])
    assert fetch("5.10") == OLD
    assert [found.version for found in at_hand()] == [OLD]
    assert list((mirror.parent / "cache" / "packages").iterdir()) == []


def test_what_the_tools_say_is_in_the_error(mirror):
    (mirror / f"linux-image-{OLD}.deb").write_text("is no package, and says so at some length")
    with pytest.raises(MachineError, match=rf"{OLD}: .*dpkg-deb: error: .*not a Debian format archive"):
        kernel("5.10")


def test_a_name_that_no_mirror_has_is_said(mirror):
    add(mirror, NEW)
    with pytest.raises(MachineError, match=r"no kernel 6\.1 .*is the network there"):
        kernel("6.1")
