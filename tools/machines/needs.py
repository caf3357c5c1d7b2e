"""What booting a machine takes, what of it is missing here, and getting it.

Root, since the guest is shown this machine's root file system, which takes mounts of
our own and a virtiofsd that may read all of it. QEMU and virtiofsd run the guest; a
static busybox is its first program; apt-get and dpkg-deb get Debian's kernels.
"""

import os
import shutil
import subprocess
from pathlib import Path

from mrm.errors import Error

_PACKAGES = {
    "qemu-system-x86_64": "qemu-system-x86",
    "virtiofsd": "virtiofsd",  # Debian 12 has it in qemu-system-x86
    "busybox": "busybox-static",
}
_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")


class MachineError(Error):
    """A machine could not be booted, or ended before its command did."""


def program(name: str) -> str | None:
    """Where a program is; None if it is not here."""
    if name == "virtiofsd":
        return shutil.which(name) or next(filter(os.path.exists, _VIRTIOFSD), None)
    path = shutil.which(name)
    return path if path is None or name != "busybox" or _is_static(path) else None


def missing() -> list[str]:
    """Sentences about what is missing; empty if a machine can be booted."""
    found = []
    if os.uname().machine != "x86_64":
        found.append(f"the machines are x86-64 ones with Debian's kernels, and this is {os.uname().machine}.")
    if os.geteuid():
        found.append("showing this machine's files to a guest takes root: run it as root.")
    found += [
        f"{name} is not here: install Debian's tools (apt-get)."
        for name in ("apt-get", "apt-cache", "dpkg-deb")
        if shutil.which(name) is None
    ]
    programs = [name for name in _PACKAGES if program(name) is None]
    if programs:
        packages = " ".join(_PACKAGES[name] for name in programs)
        found.append(f"{', '.join(programs)}: not here (apt-get install --no-install-recommends {packages}).")
    return found


def install() -> None:
    """Install the packages that are missing, where that can be done by root with apt-get.

    Raises
    ------
    MachineError
        If something is missing even then; it says what.
    """
    programs = [name for name in _PACKAGES if program(name) is None]
    if programs and not os.geteuid() and shutil.which("apt-get"):
        command = ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "--quiet=2"], stdout=subprocess.DEVNULL, check=False)
        for name in programs:
            # One after the other: which package holds virtiofsd differs between releases.
            if program(name) is None:
                subprocess.run([*command, _PACKAGES[name]], env=environment, capture_output=True, check=False)
    left = missing()
    if left:
        raise MachineError("no machine can be booted here: " + " ".join(left))


def _is_static(path: str) -> bool:
    with Path(path).open("rb") as file:
        head = file.read(4096)
    return head.startswith(b"\x7fELF") and b"/ld-linux" not in head and b"/ld-musl" not in head
