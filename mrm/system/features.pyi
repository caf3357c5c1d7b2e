"""What this kernel can do, found out by trying."""

from collections.abc import Container

NAMES: tuple[str, ...]

def missing_features() -> tuple[str, ...]: ...
def pretend_missing(names: Container[str]) -> tuple[str, ...]: ...
