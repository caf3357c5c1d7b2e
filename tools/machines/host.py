"""The host's side of a balloon, at the word of whoever runs inside.

A test inside wants its host to ask for memory, and cannot do that itself. So it writes a number into a
folder that both see, and a thread here does what it says by QEMU's machine protocol::

    wanted      the guest writes: bytes that the balloon is to leave it
    actual      the host writes: what was asked for last, and what the guest has now, in bytes

Both are renamed into place, so that nobody reads half a file. The environment variable MRM_BALLOON names
the folder inside; it is not there on machines without a balloon.
"""

import threading
from pathlib import Path

from tools.machines.needs import MachineError
from tools.machines.qmp import Qmp

#: The folder's name in the folder of a run.
FOLDER = "balloon"

_SECONDS = 0.2


def drive(qmp: Path, folder: Path, over: threading.Event) -> None:
    """Do what is wanted until the machine is over.

    Parameters
    ----------
    qmp : Path
        The machine's socket.
    folder : Path
        Where both sides write.
    over : Event
        Set when the machine has ended.
    """
    asked = 0
    said = ""
    try:
        with Qmp(qmp) as machine:
            while not over.wait(_SECONDS):
                wanted = _wanted(folder)
                if wanted and wanted != asked:
                    machine.ask("balloon", value=wanted)
                    asked = wanted
                if (now := f"{asked} {machine.memory()}") != said:
                    said = now
                    write(folder / "actual", now)
    except (MachineError, OSError, ValueError):
        # It has ended in the middle of a word; how, whoever booted it says.
        if not over.wait(5):
            raise


def write(path: Path, text: str) -> None:
    """Write a small file that somebody else reads meanwhile."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


def _wanted(folder: Path) -> int:
    """What the guest wants; 0 as long as it has not said anything."""
    try:
        return int((folder / "wanted").read_text())
    except FileNotFoundError:
        return 0
