"""What a cycle did and what it cost, as Python sees it: field for field the C struct ``cycle_t``."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Cycle:
    """Figures of one cycle."""

    objects: int  #: that live
    live_bytes: int  #: of them, without what lies on the heap
    blocks_freed: int  #: of the heap, with the objects that had them
    pages: int  #: in use before
    emptied: int  #: of them
    filled: int  #: fresh ones, with what lived in the emptied ones
    bytes_copied: int
    passes: int  #: over all objects, because the mark stack was full
    system_calls: int  #: of the batch and of the retire
    shootdowns: int  #: predicted, each sent to every processor that the process ran on
    mark_seconds: float
    move_seconds: float
    pause_seconds: float  #: from beginning to end

    def __str__(self) -> str:
        return (
            f"{self.pages} pages, {self.emptied} emptied into {self.filled}: "
            f"{self.bytes_copied >> 10} KiB copied, {self.system_calls} system calls, {self.shootdowns} shootdowns; "
            f"pause {self.pause_seconds * 1e3:.2f} ms, of it {self.mark_seconds * 1e3:.2f} marking "
            f"{self.objects} objects"
        )
