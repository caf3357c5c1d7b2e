"""mrm: the memory manager under a managed runtime.

It owns physical huge pages of 2 MiB, funded up front, and moves them between virtual addresses
at the rate that a pauseless compacting collector needs, without a TLB invalidation per
page, on an unmodified Linux kernel::

    import mrm

    with mrm.Pool("64MiB") as pool:
        frame = pool.take()                       # nanoseconds, no system call
        with pool.open_view() as view:            # every frame at a fresh address
            view[frame][:5] = b"hello"
            view.retire()                         # stale accesses trap from here on
        assert pool[frame][:5] == b"hello"        # contents follow their frame
        pool.give(frame)

Words: a *frame* is one physical page of ``mrm.FRAME_SIZE`` bytes, a number; a *slot* is a position for one in a
*reservation*; a *view* shows the whole pool. See README.md and docs/.
"""

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

from mrm._accounts import Account, Fund
from mrm._attachment import Attachment
from mrm._batch import Batch, Report
from mrm._buffer import Buffer
from mrm._core import Pool, api_address
from mrm._heap import Heap
from mrm._live import live_handles
from mrm._place import classify
from mrm._reservation import Reservation
from mrm._view import View, Window
from mrm.errors import (
    AddressSpaceError,
    ArgumentError,
    AuditError,
    BackingWarning,
    BlockError,
    ClosedError,
    Error,
    ForkedError,
    FrameError,
    FundingError,
    InconsistentError,
    MetadataMemoryError,
    OutOfFrames,
    PinnedError,
    SettingWarning,
    SlotError,
    SystemCallError,
)
from mrm.features import Feature, features
from mrm.sharing import Ticket, attach
from mrm.shootdowns import Shootdowns, shootdowns
from mrm.stats import AccountStats, Ballooned, ClassStats, FundStats, HeapStats, Mapping, Place, PoolStats
from mrm.system.pages import FRAME_SIZE

__version__ = "0.1.0"

__all__ = [
    "FRAME_SIZE",
    "Account",
    "AccountStats",
    "AddressSpaceError",
    "ArgumentError",
    "Attachment",
    "AuditError",
    "Autoscaler",
    "BackingWarning",
    "Ballooned",
    "Batch",
    "BlockError",
    "Buffer",
    "ClassStats",
    "ClosedError",
    "Coverage",
    "Deflation",
    "Error",
    "Feature",
    "ForkedError",
    "FrameError",
    "Fund",
    "FundStats",
    "FundingError",
    "Heap",
    "HeapStats",
    "InconsistentError",
    "Mapping",
    "MetadataMemoryError",
    "OutOfFrames",
    "PinnedError",
    "Place",
    "Pool",
    "PoolStats",
    "Portion",
    "Report",
    "Reservation",
    "SettingWarning",
    "Shootdowns",
    "SlotError",
    "SystemCallError",
    "Ticket",
    "View",
    "Window",
    "api_address",
    "attach",
    "classify",
    "coverage",
    "features",
    "get_include",
    "live_handles",
    "shootdowns",
]

# Names that are seldom used, of modules that were a quarter of what it took to import mrm. A pool
# imports those of its own when it is first inflated, or scaled.
_LATE = {
    "Autoscaler": "mrm.physical.autoscale",
    "Coverage": "mrm._coverage",
    "Deflation": "mrm._balloon",
    "Portion": "mrm._coverage",
    "coverage": "mrm._coverage",
}

if _TYPE_CHECKING:
    from mrm._balloon import Deflation
    from mrm._coverage import Coverage, Portion, coverage
    from mrm.physical.autoscale import Autoscaler
else:  # where a type checker saw it, every name would be one

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        found = globals()[name] = getattr(importlib.import_module(_LATE[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})


def get_include() -> str:
    """Folder to give to the C compiler, so that ``#include <mrm/mrm.h>`` finds the header.

    Returns
    -------
    str
        The package's own copy; a checkout's include/ where mrm was built in place.
    """
    packaged = _os.path.join(_os.path.dirname(__file__), "include")
    if _os.path.isdir(packaged):
        return packaged
    return _os.path.join(_os.path.dirname(_os.path.dirname(__file__)), "include")
