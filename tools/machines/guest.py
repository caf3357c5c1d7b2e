"""What runs inside: the guest's root is put together, then a command runs in it.

The root is this machine's, read-only, below a layer in memory that is thrown away: a
command finds the same interpreter, packages and built modules at the same paths, and
may break whatever it likes. Only ``/run-of-machine``, the folder of this run, is kept.
Output goes out by two virtual ports, and a third says when the command starts and how it
ends, so that what it prints is not mixed with what the kernel does.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

#: Where the guest sees the folder of this run, which it may write.
SHARED = "/run-of-machine"

_STAGE = r"""
port() { for p in /sys/class/virtio-ports/*; do [ "$(cat $p/name)" = $1 ] && echo /dev/${p##*/}; done; }
OUT=$(port out); ERR=$(port err); CONTROL=$(port control)
mount -t tmpfs -o mode=755 tmpfs /t
mkdir /t/u /t/w
mount -t overlay -o lowerdir=/host,upperdir=/t/u,workdir=/t/w overlay /n
mkdir -p /n/proc /n/sys /n/dev /n/run /n/tmp /n@SHARED@
mount --move /proc /n/proc; mount --move /sys /n/sys; mount --move /dev /n/dev
mkdir -p /n/dev/pts /n/dev/shm /n/dev/hugepages
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /n/dev/pts
mount -t tmpfs -o mode=1777 tmpfs /n/dev/shm
mount -t tmpfs tmpfs /n/run
mount -t hugetlbfs none /n/dev/hugepages
mount -t cgroup2 cgroup2 /n/sys/fs/cgroup
mount -t debugfs debugfs /n/sys/kernel/debug 2>/dev/null
[ -e /n/dev/fd ] || {
  ln -s /proc/self/fd /n/dev/fd
  ln -s fd/0 /n/dev/stdin; ln -s fd/1 /n/dev/stdout; ln -s fd/2 /n/dev/stderr
}
mount --bind /run /n@SHARED@
ifconfig lo 127.0.0.1 up
hostname machine
mkfifo /t/out /t/err
cat /t/out > /n$OUT & A=$!
cat /t/err > /n$ERR & B=$!
exec 9> /n$CONTROL
echo start >&9
chroot /n /bin/sh @SHARED@/job < /n/dev/null > /t/out 2> /t/err 9>&-
RC=$?
# What it left running may hold its output open.
( sleep 5; kill $A $B ) & wait $A $B
echo exit $RC >&9
sync
sleep 0.1
poweroff -f
"""


def write_scripts(
    folder: Path,
    command: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    setup: Sequence[str] = (),
) -> None:
    """Write what the guest runs into the folder of this run.

    Parameters
    ----------
    folder : Path
        The folder, which it sees as ``SHARED``.
    command : sequence of str
        What to run.
    directory : Path
        Where to run it.
    environment : mapping
        Its environment.
    setup : sequence of str, optional
        Shell lines that come first; one that fails ends it all.
    """
    (folder / "stage").write_text(_STAGE.replace("@SHARED@", SHARED))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    lines += [f"( {line} ) || {{ echo 'setup failed: {_quoted(line)}' >&2; exit 125; }}" for line in setup]
    lines += [f"cd {shlex.quote(str(directory))} || exit 125", "exec " + shlex.join(command)]
    (folder / "job").write_text("\n".join(lines) + "\n")


def _quoted(line: str) -> str:
    """A line inside single quotes."""
    return line.replace("'", "'\\''")
