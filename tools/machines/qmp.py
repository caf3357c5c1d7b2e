"""Talks to a running machine from outside, by QEMU's machine protocol: its balloon.

A socket's path holds 107 bytes at the most, and folders may lie deep: so the socket is
connected to by way of an open descriptor of its folder.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Self

from tools.machines.needs import MachineError


class Qmp:
    """A connection; a context manager.

    Parameters
    ----------
    path : Path
        The machine's socket.
    """

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        folder = os.open(path.parent, os.O_PATH)
        try:
            self._socket.connect(f"/proc/self/fd/{folder}/{path.name}")
        except OSError as error:
            self._socket.close()
            raise MachineError(
                f"{path} does not answer: {error.strerror}; is the machine running?"
            ) from error
        finally:
            os.close(folder)
        self._lines = self._socket.makefile("rw")
        self._lines.readline()  # a greeting
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, command: str, **arguments: object) -> Any:
        """Run one command; what it returned."""
        self._lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._lines.flush()
        for line in self._lines:  # events come in between
            answer = json.loads(line)
            if "error" in answer:
                raise MachineError(f"QEMU refused {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]
        raise MachineError(f"the machine ended before it answered {command}")

    def memory(self) -> int:
        """Bytes that the guest has now, with a balloon."""
        return int(self.ask("query-balloon")["actual"])

    def leave(self, nbytes: int, seconds: float = 60.0) -> int:
        """Have the balloon leave the guest so much, and wait for it; what it has at the end."""
        self.ask("balloon", value=nbytes)
        until = time.monotonic() + seconds
        while (there := self.memory()) != nbytes and time.monotonic() < until:
            time.sleep(0.1)
        return there
