"""Interpreters that this machine lacks, from Debian's packages, in the cache; nothing is installed.

Three kinds:

- A newer release's Python (3.14), unpacked from its packages. It wants a newer C library
  than this machine's, so it is run by its own loader: ``bin/python3`` is a script that
  names loader, libraries and program. Python takes the script for itself, so that
  environments, children and compilers of this machine work as usual.
- A free-threaded one (3.13t). Debian has no package of it, but the source of Python, and it
  is built from that with ``--disable-gil``: in a folder that holds an older release
  (debootstrap), so that it also runs on that release's C library.
- The same interpreter on the older C library: the same script, with the older loader.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tools.machines.cache import cache
from tools.machines.needs import MachineError

_OLD = "bullseye"  # glibc 2.31, the oldest that has a mirror
_BUILD_NEEDS = (
    "gcc,libc6-dev,make,libffi-dev,libssl-dev,zlib1g-dev,"
    "libbz2-dev,liblzma-dev,libsqlite3-dev,xz-utils,pkg-config"
)
_LOADER = "lib64/ld-linux-x86-64.so.2"
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")

#: What can be fetched, and what it is.
KINDS = {
    "3.14": "Debian sid's, on its own C library",
    "3.13t": "built from Debian's source without the GIL",
    "3.13t-old": f"the same on the C library of Debian {_OLD}",
}


def fetch(name: str) -> Path:
    """Get one of ``KINDS``; the interpreter's path.

    Raises
    ------
    MachineError
        If it cannot be had.
    """
    if name not in KINDS:
        raise MachineError(f"no way to get a Python {name}: there are {', '.join(KINDS)}")
    try:
        if name == "3.13t":
            return _build("3.13", "forky")
        if name == "3.13t-old":
            fetch("3.13t")
            return _script(_folder(name), _folder("3.13t"), _old_root(), "python3.13")
        root = _unpacked("sid", ["python3.14-dev", "python3.14-venv"])
        return _script(_folder(name), root / "usr", root, "python3.14")
    except subprocess.CalledProcessError as error:
        raise MachineError(f"Python {name} cannot be had: {error}\n{error.stderr or ''}".strip()) from error


def _folder(name: str) -> Path:
    return cache() / "pythons" / name


def _run(*command: object, **options: object) -> str:
    return subprocess.run(
        [str(word) for word in command], check=True, text=True, capture_output=True,
        **options,  # type: ignore[call-overload]
    ).stdout  # fmt: skip


# ---- packages ----------------------------------------------------------------------------


def _apt(suite: str) -> list[str]:
    """Options for apt-get that look at one release only, and take nothing to be installed."""
    place = cache() / "apt-wheels" / suite
    for folder in ("lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian").split()
    mirror = next((uri for uri in sorted(set(targets)) if "security" not in uri), None)
    if mirror is None:
        raise MachineError("this machine has no mirror of Debian's among its sources")
    (place / "sources").write_text(f"deb {mirror} {suite} main\ndeb-src {mirror} {suite} main\n")
    options = {
        "Dir::Etc::SourceList": place / "sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State": place,
        "Dir::State::status": place / "status",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place / "cache",
        "APT::Sandbox::User": "root",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    if not list((place / "lists").glob("*Packages*")):
        _run("apt-get", *words, "update")
    return words


def _unpacked(suite: str, packages: list[str]) -> Path:
    """A folder with packages of a release and all that they need, unpacked."""
    root = cache() / "roots" / suite
    if (root / "complete").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    options = _apt(suite)
    _run("apt-get", *options, "install", "-y", "--no-install-recommends", "--download-only", *packages)
    # As dpkg has it now: /bin and /lib are names of folders in /usr.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for archive in sorted((cache() / "apt-wheels" / suite / "cache/archives").glob("*.deb")):
        data = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
        _run("tar", "-x", "--keep-directory-symlink", "-C", root, stdin=data.stdout)
        if data.wait():
            raise MachineError(f"{archive} cannot be unpacked")
    (root / "complete").touch()
    return root


def _script(folder: Path, prefix: Path, root: Path, program: str) -> Path:
    """Make ``folder`` look like an interpreter's, run by the loader and the libraries of ``root``."""
    libraries = ":".join(str(root / name) for name in _LIBRARIES)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin" / program
    # What the interpreter was linked with lies beside it, if it was built here.
    python.write_text(
        f'#!/bin/sh\nexec {root / _LOADER} --argv0 "$0" --library-path {libraries}:{prefix / "lib"} '
        f'{prefix / "bin" / program} "$@"\n'
    )
    python.chmod(0o755)
    (folder / "bin" / "python3").symlink_to(program)
    # Not the other headers: what is compiled is for this machine's C library, the older one.
    for found in [
        *prefix.glob("lib/python3*"),
        *prefix.glob("include/python3*"),
        *prefix.glob("include/*/python3*"),
    ]:
        link = folder / found.relative_to(prefix)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(found)
    return python


# ---- from source -------------------------------------------------------------------------


def _old_root() -> Path:
    """A folder that holds the older release, with a compiler."""
    root = cache() / "roots" / _OLD
    if not (root / "complete").exists():
        if os.geteuid() or not shutil.which("debootstrap"):
            raise MachineError("building a Python takes root and Debian's package debootstrap")
        shutil.rmtree(root, ignore_errors=True)
        targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian").split()
        mirror = next(uri for uri in sorted(set(targets)) if "security" not in uri)
        _run("debootstrap", "--variant=minbase", f"--include={_BUILD_NEEDS}", _OLD, root, mirror)
        (root / "complete").touch()
    return root


_RECIPE = r"""
set -e
mount -t proc proc "$ROOT/proc"
mkdir -p "$ROOT$PREFIX" "$PREFIX"
mount --bind "$PREFIX" "$ROOT$PREFIX"
exec chroot "$ROOT" sh -e -c '
rm -rf /build/made; mkdir /build/made; cd /build/made
../source/configure --prefix="$PREFIX" --disable-gil --disable-test-modules --with-ensurepip=install \
    LDFLAGS="-Wl,-rpath,$PREFIX/lib"
make -j"$(nproc)"
make install
ldd "$PREFIX"/bin/python3.*[0-9t] "$PREFIX"/lib/python3*/lib-dynload/*.so | awk "\$3 ~ /^\\// {print \$3}" | sort -u |
    grep -vE "/(ld|libc|libm|libpthread|libdl|librt|libutil|libresolv|libnsl|libcrypt)[-.]" |
    xargs -I{} cp -L {} "$PREFIX/lib/"
rm -rf /build
'
"""


def _build(version: str, suite: str) -> Path:
    """Build a free-threaded Python of the source that a release has."""
    prefix = _folder(f"{version}t")
    python = prefix / "bin" / f"python{version}t"
    if python.exists():
        return python
    root = _old_root()
    source = root / "build" / "source"
    shutil.rmtree(source.parent, ignore_errors=True)
    source.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        _run("apt-get", *_apt(suite), "source", "--download-only", f"python{version}", cwd=folder)
        (archive,) = [p for p in Path(folder).glob("*.orig.tar.*") if re.search(r"\.(xz|gz|bz2)$", p.name)]
        _run("tar", "xf", archive, "--strip-components=1", "-C", source)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "ROOT": str(root), "PREFIX": str(prefix)}
    # Only this process sees the mounts, so there is nothing to unmount.
    _run("unshare", "-m", "--propagation", "private", "sh", "-c", _RECIPE, env=environment)
    return python
