"""Everything that mrm raises and warns with, one family rooted in ``mrm.Error``.

Each error says what was asked, what stood in the way, and the way out. The same
figures are attributes, for programs.
"""

import os


class Error(Exception):
    """The root of the family.

    Attributes
    ----------
    call : str or None
        The system call that refused, such as ``"mmap"``.
    errno : int or None
        What it said.
    address : int or None
        The address that it was about.
    nbytes : int or None
        How many bytes it was about.
    """

    def __init__(
        self,
        message: str,
        *,
        call: str | None = None,
        error: int | None = None,
        address: int | None = None,
        nbytes: int | None = None,
    ) -> None:
        super().__init__(message)
        self.call = call
        self.errno = error
        self.address = address
        self.nbytes = nbytes

    @property
    def strerror(self) -> str | None:
        """The system's own words for ``errno``."""
        return None if self.errno is None else os.strerror(self.errno)


class ArgumentError(Error, ValueError):
    """A size, number or option that makes no sense; nothing was changed."""


class FrameError(Error, ValueError):
    """A frame that is not this pool's, not held, given twice, or still mapped."""


class SlotError(Error, ValueError):
    """A slot used twice in a batch, already taken, empty, or out of range."""


class BlockError(Error, ValueError):
    """An address that is no block of the heap: freed before, or never its memory."""


class OutOfFrames(Error, MemoryError):
    """Fewer free frames than asked for: give some back, or fund a larger pool."""


class FundingError(Error, MemoryError):
    """The kernel would not fund the pool; the message names the limit and its figures."""


class AddressSpaceError(Error, MemoryError):
    """View numbers, mappings (vm.max_map_count) or address space are used up."""


class MetadataMemoryError(Error, MemoryError):
    """No memory for mrm's own tables."""


class SystemCallError(Error, RuntimeError):
    """The kernel refused a call; what had been done before it was undone."""


class InconsistentError(SystemCallError):
    """A call failed and its undoing failed too; the message says what is where."""


class ClosedError(Error, RuntimeError):
    """Use of a pool, view, reservation or batch after its end."""


class ForkedError(Error, RuntimeError):
    """Use of a parent's pool in a child: open a pool of the child's own instead."""


class PinnedError(Error, BufferError):
    """An exported buffer looks at what the call would take away: release it first."""


class AuditError(Error, AssertionError):
    """The books do not balance: frames were lost, or mappings are not as recorded."""


class BackingWarning(UserWarning):
    """Memory is not as was preferred: on small pages, or a private heap with few addresses; the message says why."""


class SettingWarning(UserWarning):
    """A setting of the system that mrm changed could not be put back; the message says what to do."""
