"""Shows folders of this machine to a guest: one virtiofsd each.

The guest's root is this machine's root file system and the mounts that it has to see,
and none of the others: bound together below a folder of the run's, read-only, in a
mount namespace of the one virtiofsd that shows it. Nobody else sees it, so there is
nothing to unmount, whatever happens.
"""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path


def daemon(virtiofsd: str, socket: str, folder: Path, *, cached: bool) -> list[str]:
    """The command line that shows a folder by a socket.

    Parameters
    ----------
    virtiofsd : str
        Where the program is. Debian 12's is part of QEMU, later ones are written anew and
        understand these options, too.
    socket : str
        The socket's name.
    folder : Path
        What is shown.
    cached : bool
        Whether the guest may keep what it has read: right where nobody changes it.
    """
    cache = "always" if cached else "none"
    words = (f"source={folder}", f"cache={cache}", "sandbox=chroot")
    return [virtiofsd, f"--socket-path={socket}", *(part for word in words for part in ("-o", word))]


def root_of(top: Path, seen: Iterable[Path], command: list[str]) -> list[str]:
    """The command line that runs ``command`` where this machine's files, read-only, lie at ``top``.

    Parameters
    ----------
    top : Path
        An empty folder.
    seen : iterable of Path
        Folders that the guest has to see: their mounts are bound, too.
    command : list of str
        A virtiofsd that shows ``top``.
    """
    script = ["set -e"]
    for point in sorted({"/", *(_mount_of(path) for path in seen)}):
        there = shlex.quote(point)
        script += [f'mount --bind {there} "$0"{there}', f'mount -o remount,bind,ro "$0"{there}']
    script.append('exec "$@"')
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
        "\n".join(script),
        str(top),
        *command,
    ]


def _mount_of(path: Path) -> str:
    """The mount point that a path lies below."""
    points = [_unescaped(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    real = str(path.resolve())
    return max((p for p in points if f"{real}/".startswith(f"{p.rstrip('/')}/")), key=len)


def _unescaped(field: str) -> str:
    """The kernel writes blanks in paths as \\040."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), field)
