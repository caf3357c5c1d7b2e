"""Debian's kernels: which are at hand, which can be had, and getting one.

They are the cloud kernels of the release that this machine runs and of some others,
fetched as packages with apt-get, by the mirrors that this machine uses, and unpacked in
the cache. Nothing is installed. A kernel is named by the beginning of its version: 6.1
is 6.1.162-1 but not 6.12, and ``newest`` is the newest that there is.
"""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.machines.cache import cache
from tools.machines.needs import MachineError

NEWEST = "newest"

# Besides what this machine's own sources have; a release that a mirror lacks is passed over.
_SUITES = (
    *("bullseye-security", "bookworm", "bookworm-security", "bookworm-backports"),
    *("trixie", "trixie-security", "trixie-backports", "sid"),
)
# What the mirrors have is asked for once a week.
_SECONDS_KEPT = 7 * 24 * 3600
# Machines boot side by side: the second that wants a kernel finds what the first one got.
_FETCHING = threading.Lock()
# Not linux-image-6.1-cloud-amd64, which only names another.
_PACKAGE = re.compile(r"linux-image-(\d+\.\d+\.\d\S*-cloud-amd64)")


@dataclass(frozen=True)
class Kernel:
    """A kernel that is unpacked in the cache.

    Attributes
    ----------
    version : str
        As ``uname -r`` says it.
    image : Path
        What is booted.
    modules : Path
        The folder of its modules.
    """

    version: str
    image: Path
    modules: Path


def at_hand() -> list[Kernel]:
    """Kernels in the cache, oldest first."""
    found = {}
    for top in cache().glob("kernels/*"):
        for modules in [*top.glob("lib/modules/*"), *top.glob("usr/lib/modules/*")]:
            version = modules.name
            images = (top / "boot" / f"vmlinuz-{version}", modules / "vmlinuz")
            image = next(filter(Path.exists, images), None)
            if image is not None:
                found[version] = Kernel(version, image, modules)
    return [found[version] for version in in_order(found)]


def kernel(wanted: str) -> Kernel:
    """A kernel by the beginning of its version, fetched if it is not at hand.

    Raises
    ------
    MachineError
        If no kernel of that name can be had.
    """
    with _FETCHING:
        if wanted == NEWEST:
            wanted = _newest()
        for attempt in range(2):
            there = {found.version: found for found in at_hand()}
            matching = match(there, wanted)
            if matching:
                return there[matching[-1]]
            if attempt == 0:
                fetch(wanted)
    raise MachineError(f"the package of kernel {wanted} holds no kernel that can be booted")


def match(versions: Iterable[str], wanted: str) -> list[str]:
    """Those versions that ``wanted`` is the beginning of, oldest first: 6.1 is not 6.12."""
    beginning = re.compile(re.escape(wanted) + r"(?!\d)")
    return in_order(version for version in versions if beginning.match(version))


def in_order(versions: Iterable[str]) -> list[str]:
    """Versions, oldest first."""
    return sorted(versions, key=lambda version: [int(n) for n in re.findall(r"\d+", version)])


def fetch(wanted: str) -> str:
    """Fetch the newest kernel of that name into the cache; its version."""
    refused = []
    for version in reversed(match(_to_be_had(), wanted)):
        try:
            _fetch(version)
        except subprocess.CalledProcessError as error:
            refused.append(f"{version}: {error} {error.stderr.strip()}")
        else:
            return version
    raise MachineError(
        f"no kernel {wanted} can be had from Debian's packages; "
        + ("; ".join(refused) or "none is listed: is the network there?")
    )


def _newest() -> str:
    """The newest version that can be had, or if none can be asked for, the newest at hand."""
    there = [found.version for found in at_hand()]
    return in_order({*there, *_to_be_had()} or [NEWEST])[-1]


def _fetch(version: str) -> None:
    """Get and unpack the packages of one kernel: all of it, or nothing is left."""
    packages = cache() / "packages" / version
    packages.mkdir(parents=True, exist_ok=True)
    unpacked = packages / "unpacked"
    image = f"linux-image-{version}"
    try:
        # Recent kernels come in parts: the image's package only names them.
        needed = _apt("apt-cache", "depends", image)
        parts = re.findall(rf"Depends: (linux-(?:binary|modules|image)-{re.escape(version)}\S*)", needed)
        _apt("apt-get", "download", *(parts or [image]), at=packages)
        for package in packages.glob("*.deb"):
            asked = ["dpkg-deb", "-x", str(package), str(unpacked)]
            subprocess.run(asked, check=True, capture_output=True, text=True)
        place = cache() / "kernels" / version
        place.parent.mkdir(exist_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        unpacked.rename(place)
    finally:
        shutil.rmtree(packages, ignore_errors=True)


def _to_be_had() -> list[str]:
    """Versions that Debian's packages have."""
    asked = cache() / "apt" / "asked"
    if not asked.exists() or asked.stat().st_mtime < time.time() - _SECONDS_KEPT:
        _update()
        asked.touch()
    try:
        listed = _apt("apt-cache", "search", "--names-only", "^linux-image-[0-9].*-cloud-amd64$")
    except subprocess.CalledProcessError:
        return []
    return [found[1] for line in listed.splitlines() if (found := _PACKAGE.match(line))]


def _update() -> None:
    """Read what the mirrors have, into lists of our own."""
    folder = cache() / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian"]
    mirrors = sorted(set(subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()))
    lines = []
    for suite in _SUITES:
        fitting = [m for m in mirrors if ("security" in m) == suite.endswith("-security")]
        lines += [f"deb {mirror} {suite} main\n" for mirror in fitting[:1]]
    (folder / "sources.list").write_text("".join(lines))
    # A suite that is not there is an error of apt's, and no reason to do without the others.
    subprocess.run(["apt-get", *_options(), "update"], capture_output=True, check=False)


def _options() -> list[str]:
    folder = cache() / "apt"
    settings = {
        "APT::Sandbox::User": "root",
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        # Nothing but what packages there are: no sources, no translations.
        "Acquire::Languages": "none",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _apt(tool: str, *arguments: str, at: Path | None = None) -> str:
    done = subprocess.run([tool, *_options(), *arguments], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout
