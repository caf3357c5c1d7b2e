from typing import Any

from mrm.errors import Error

MOST_COUNTED: int

class UnknownBooks(Error): ...

def read_head(fd: int) -> dict[str, Any]: ...
def read_books(fd: int, most: int = ...) -> dict[str, Any]: ...
