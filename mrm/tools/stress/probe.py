"""Reads and writes at addresses that may trap, without dying of it.

The kernel does the access, in ``write`` or ``read`` on a pipe: it goes through this
process's own page tables and TLB, protections included, and says EFAULT where a load
or a store would end in SIGSEGV.
"""

import ctypes
import errno
import os


class Probe:
    """A pipe of eight bytes at a time; for one thread."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()

    def close(self) -> None:
        """Free the pipe."""
        os.close(self._out)
        os.close(self._in)

    def load(self, address: int) -> int | None:
        """The 64-bit word at ``address``; None where reading traps."""
        try:
            os.write(self._in, (ctypes.c_char * 8).from_address(address))
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            return None
        return int.from_bytes(os.read(self._out, 8), "little")

    def store(self, address: int, word: int) -> bool:
        """Write a 64-bit word; False where writing traps."""
        os.write(self._in, word.to_bytes(8, "little"))
        try:
            os.readv(self._out, [(ctypes.c_char * 8).from_address(address)])
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            os.read(self._out, 8)
            return False
        return True
