"""What happened between two readings of a pool's books.

Nothing of this is counted for watchers. How often the stacks of free frames changed is in
them anyway, since their compare-and-swap needs it: one for a frame that is taken or given,
one for an array of fewer than 64, and one for a batch that a stack is filled up with.
Larger arrays, and runs, pass the stacks by and are not in it.
"""

import time
from dataclasses import dataclass
from typing import Any

from mrm.errors import Error
from mrm.shootdowns import received

_ROUND = 1 << 32  # changes of a stack are kept in 32 bits


@dataclass(frozen=True)
class Reading:
    """The books at one moment, and the machine's shootdowns, where they can be told."""

    books: dict[str, Any]
    seconds: float  # of a clock that only goes forward
    shootdowns: int | None


def take(books: dict[str, Any]) -> Reading:
    """A reading of now."""
    try:
        shootdowns = received()
    except Error:
        shootdowns = None
    return Reading(books, time.monotonic(), shootdowns)


def changes(before: dict[str, Any], after: dict[str, Any], account: int) -> int:
    """How often an account's stacks changed in between: exact, unless one came round."""
    later = after["changes"].get(account, ())
    earlier = before["changes"].get(account) or (0,) * len(later)
    return sum((b - a) % _ROUND for a, b in zip(earlier, later, strict=True))


#: Lines of the display, and the figures they are rates of.
FIGURES = {
    "batches": "batches",
    "retires": "epoch",
    "views opened": "views_opened",
    "system calls": "system_calls",
}


def rates(before: Reading, after: Reading) -> dict[str, float | None]:
    """What happened a second, by name; None for what is not known."""
    seconds = max(after.seconds - before.seconds, 1e-9)
    both = before.books, after.books
    found: dict[str, float | None] = {
        "takes and gives": sum(changes(*both, account) for account in after.books["changes"]) / seconds
    }
    for line, figure in FIGURES.items():
        found[line] = (both[1]["figures"][figure] - both[0]["figures"][figure]) / seconds
    found["shootdowns, whole machine"] = (
        None
        if before.shootdowns is None or after.shootdowns is None
        else (after.shootdowns - before.shootdowns) / seconds
    )
    return found
