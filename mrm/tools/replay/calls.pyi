"""A log as an array of calls."""

import os

ACTIONS: tuple[str, ...]
COLUMNS: tuple[str, ...]

class Calls:
    def __init__(self, path: str | os.PathLike[str]) -> None: ...
    @property
    def n(self) -> int: ...
    @property
    def cut_off(self) -> bool: ...
    def __len__(self) -> int: ...
