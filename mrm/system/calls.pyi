"""Every system call that mrm makes, and the script that makes chosen ones fail."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

KINDS: dict[str, int]

def system_call(name: str, *arguments: int | bytes) -> int: ...
def thread_calls() -> int: ...

class Script:
    def __init__(
        self,
        fail: int = 0,
        *,
        times: int | None = 1,
        error: int = ...,
        kinds: Iterable[str] | None = None,
        fake: bool = False,
        address_bits: int | None = None,
        record: bool = True,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    @property
    def counted(self) -> int: ...
    def calls(self) -> list[tuple[str, tuple[int, ...], int]]: ...
