"""Which call is about which block, and what that tells by itself."""

from typing import Any

from mrm.tools.replay.calls import Calls

ACTIONS: tuple[str, ...]
MISMATCHES: tuple[str, ...]

def keep_books(calls: Calls, most: int = ...) -> dict[str, Any]: ...
