"""The table of functions for C, and its capsule."""

from typing_extensions import CapsuleType

_C_API: CapsuleType

def api_address() -> int: ...
