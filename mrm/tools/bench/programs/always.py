"""Transparent huge pages for every process, for as long as a program runs.

A process can have the kernel give it fewer of them (prctl), but not more: ``always`` is a setting of the whole
machine, which root may write. So that it is put back however this process ends, another one does it, which
waits for this one's end of a pipe to close.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mrm.errors import SystemCallError
from mrm.physical.keeping import keepers_python
from mrm.physical.limits import chosen_word

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")

# What the other process runs: it writes the word, says so, and writes the old one back when its input ends.
_KEEPER = """
import sys
setting, word = sys.argv[1:]
with open(setting) as file:
    before = next(w.strip("[]") for w in file.read().split() if w.startswith("["))
def write(word):
    with open(setting, "w") as file:
        file.write(word)
write(word)
try:
    print("set", flush=True)
    sys.stdin.read()
finally:
    with open(setting) as file:
        ours = f"[{word}]" in file.read()
    if ours:
        write(before)
"""


def why_not(setting: Path = SETTING) -> str | None:
    """Why it cannot be set here, with the way out; None where it can, or is set already."""
    word = chosen_word(setting)
    if word is None:
        return f"this kernel has no transparent huge pages ({setting} is missing)"
    if word == "always":
        return None
    try:
        with setting.open("r+"):
            return None
    except OSError as error:
        return f"{setting} is {word!r}, and may not be written ({error.strerror}): run it as root, or set it before"


@contextmanager
def always(setting: Path = SETTING) -> Iterator[None]:
    """A context in which transparent huge pages are for every process; the setting comes back at its end.

    Raises
    ------
    SystemCallError
        If it cannot be written.
    """
    if chosen_word(setting) == "always":
        yield
        return
    keeper = subprocess.Popen(
        [keepers_python(), "-I", "-S", "-c", _KEEPER, str(setting), "always"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    try:
        if keeper.stdout.readline() != "set\n":
            words = keeper.stderr.read().strip().splitlines()
            raise SystemCallError(
                f"{setting} cannot be set: {words[-1] if words else 'nobody says why'}", call="write"
            )
        yield
    finally:
        keeper.stdin.close()
        keeper.wait()
        keeper.stdout.close()
        keeper.stderr.close()
