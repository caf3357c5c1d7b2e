"""The guest's first file system: a busybox, the modules that it needs, and a script.

A newc cpio archive, written here, since it is a dozen lines. Modules are found in the
kernel's folder and put in the order in which they depend on each other; those that are
built into the kernel are not there, and need not be. The script mounts this machine's
files (by virtiofs), and the folder of this run, where the rest of what is to be done
lies (``guest.py``).
"""

import lzma
import re
from pathlib import Path

_MODULES = ("virtio_pci", "virtio_console", "virtio_balloon", "virtiofs", "overlay")

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /host /run /t /n
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r m; do insmod /modules/$m || echo "insmod $m failed"; done < /modules/order
mount -t virtiofs -o ro host /host
mount -t virtiofs run /run
[ -f /run/stage ] && . /run/stage
echo "the folder of this run is not there"
poweroff -f
"""


def initrd(busybox: Path, modules: Path, more: tuple[str, ...] = ()) -> bytes:
    """The archive.

    Parameters
    ----------
    busybox : Path
        A static one.
    modules : Path
        The kernel's folder of modules.
    more : tuple of str, optional
        Modules to load besides what every guest needs.
    """
    loaded = _in_order(modules, (*_MODULES, *more))
    entries = [(name, 0o040755, b"") for name in ("bin", "modules", "dev")]
    entries.append(("bin/busybox", 0o100755, busybox.read_bytes()))
    entries += [(f"modules/{name}", 0o100644, data) for name, data in loaded]
    entries.append(("modules/order", 0o100644, "".join(f"{name}\n" for name, _ in loaded).encode()))
    entries.append(("init", 0o100755, _INIT.encode()))
    return _cpio(entries)


def _in_order(folder: Path, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """``(file name, bytes)`` of the modules that are there, each after those that it depends on."""
    files = {}
    for file in (folder / "kernel").rglob("*.ko*"):
        if file.suffix in (".ko", ".xz"):
            files[file.name.partition(".")[0].replace("-", "_")] = file
    order: list[tuple[str, bytes]] = []
    seen = set()

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in seen or name not in files:
            return
        seen.add(name)
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        depends = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in depends[1].decode().split(",") if depends else []:
            add(other)
        order.append((f"{name}.ko", data))

    for name in wanted:
        add(name)
    return order


def _cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of ``(name, mode, bytes)``."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        text = name.encode() + b"\0"
        # Inode, mode, owner, group, links, time, size, four device numbers, length of the name, no sum.
        head = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(text), 0)
        out += b"070701" + b"".join(b"%08X" % value for value in head) + text
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
