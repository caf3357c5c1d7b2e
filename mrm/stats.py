"""Figures as Python sees them: the same tables as ``mrm_stats`` and ``mrm_report`` in mrm.h."""

import dataclasses

from mrm.errors import Error


@dataclasses.dataclass(frozen=True, slots=True)
class PoolStats:
    """Figures of a pool at one moment; field for field the C struct ``mrm_stats``.

    ``ready + released + strict + held + inflated + poisoned == frames``, always.
    """

    frame_size: int  #: bytes
    frames: int  #: all, those in the balloon too
    ready: int  #: free, nothing shows them
    released: int  #: free, an old address still shows them
    strict: int  #: free after the next retire
    held: int  #: taken
    mapped: int  #: held, and shown by at least one reservation
    pending: int  #: deferred aliases that wait for a retire
    epoch: int  #: retires so far
    views_open: int  #: the window not counted
    views_retired: int  #: retired, not yet closed
    views_opened: int  #: in all
    reservations: int  #: open
    batches: int  #: committed
    system_calls: int  #: made by commits and retires
    inflated: int  #: in the balloon: without memory
    poisoned: int  #: in quarantine: memory that is broken
    zeroed: int  #: of the free ones, those that the stock has ready, cleared
    cleared: int  #: in the background, so far
    cleared_late: int  #: by takers, who had to wait for it, so far

    @property
    def free(self) -> int:
        """Frames that may be taken now: ready and released."""
        return self.ready + self.released

    @property
    def nbytes(self) -> int:
        """Bytes of memory: without what is in the balloon, or broken."""
        return (self.frames - self.inflated - self.poisoned) * self.frame_size

    def as_dict(self) -> dict[str, int]:
        """The fields by name."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The fields as a JSON object."""
        import json

        return json.dumps(self.as_dict())


@dataclasses.dataclass(frozen=True, slots=True)
class Ballooned:
    """What inflating or deflating did, exactly, be it all that was asked for or not."""

    wanted: int  #: frames that were to go in, or to come out
    frames: int  #: that did
    nbytes: int  #: the same in bytes
    seconds: float  #: from beginning to end
    threads: int  #: that worked
    where: str  #: memory went to, or came from: "pool", the kernel's pool of huge pages, or "system"
    error: Error | None  #: why it was less; None if it was not

    def __bool__(self) -> bool:
        """Whether all was done."""
        return self.error is None

    def or_raise(self) -> "Ballooned":
        """Raise the error if it was less, and return this if not; what was done stays done."""
        if self.error is not None:
            raise self.error
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class FundStats:
    """Figures of a fund at one moment, in frames; ``frames == granted + lent + available``."""

    name: str
    frames: int  #: that it stands for
    granted: int  #: balances of accounts
    lent: int  #: had by accounts beyond their balances
    available: int  #: neither


@dataclasses.dataclass(frozen=True, slots=True)
class AccountStats:
    """Figures of an account at one moment, in frames; field for field the C struct ``mrm_account_stats``.

    Low and high are since the watermarks were reset.
    """

    name: str
    balance: int  #: promised to it
    balance_low: int
    balance_high: int
    allocated: int  #: held, or waiting for a retire
    allocated_low: int
    allocated_high: int
    limit: int  #: that it may have at the most
    limit_low: int
    limit_high: int
    cached: int  #: free, in its own lists: charged to it, too
    overdrawn: int  #: of all these, lent by its overdraft fund

    def as_dict(self) -> dict[str, int | str]:
        """The fields by name."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class ClassStats:
    """Figures of one size class of a heap, of those that have pages."""

    nbytes: int  #: of a block
    blocks: int  #: in use
    room: int  #: blocks that fit into its pages
    pages: int
    memory: int  #: bytes of the pages

    @property
    def bytes(self) -> int:
        """Bytes of the blocks in use."""
        return self.blocks * self.nbytes

    @property
    def waste(self) -> int:
        """Bytes of its pages that no block in use has: free ones, and what is left behind the last."""
        return self.memory - self.bytes


@dataclasses.dataclass(frozen=True, slots=True)
class HeapStats:
    """Figures of a heap at one moment: those of the C struct ``mrm_heap_stats``, and by size class."""

    memory: int  #: bytes that it has: of segments in use and slots shown
    memory_peak: int  #: the most that it had
    blocks: int  #: small ones, up to 1 MiB each
    bytes: int  #: of these, as their classes have them
    segments: int  #: of 2 MiB, that they lie in
    large_blocks: int
    large_bytes: int  #: that these were asked for
    large_memory: int  #: of their slots
    kept: int  #: bytes of slots that are shown, but no block's
    addresses: int  #: bytes of addresses that its blocks may lie at
    addresses_lacking: int  #: that it needs besides for all memory it may have (``ulimit -v``, ``-d``)
    classes: tuple[ClassStats, ...]  #: that have pages

    @property
    def fragmentation(self) -> float:
        """The share of the memory that is in no block: 0 where every byte is."""
        return 1 - (self.bytes + self.large_bytes) / self.memory if self.memory else 0.0

    def as_dict(self) -> dict[str, object]:
        """The fields by name."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The fields as a JSON object."""
        import json

        return json.dumps(self.as_dict())


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    """One address that shows a frame; see ``pool.mappings``."""

    kind: str  #: "window", "view" or "reservation"
    number: int  #: of the view or reservation
    slot: int  #: position in it
    address: int
    protection: str  #: "rw", "r" or "none"
    deferred: bool = False  #: unmapped, but shown until the next retire


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What an address is; see ``mrm.classify``. Field for field the C struct ``mrm_place``."""

    kind: str  #: "nothing", "window", "view" or "reservation"
    state: str  #: "unused", "open", "retired", "empty", "shown", "deferred" or "forked"
    pool: int  #: number of the pool, from 1; 0 for "nothing"
    number: int  #: of the view, or of the reservation
    frame: int | None  #: what is, or was, shown there
    frame_state: str | None  #: of that frame
    slot: int  #: position in the view or reservation
    protection: str  #: in force there
    offset: int  #: bytes into the frame
