"""What was promised of a pool, and how much memory it has."""

from collections.abc import Callable
from typing import Literal, Never, SupportsIndex, overload

from mrm._accounts import Account, Fund
from mrm._balloon import Deflation
from mrm._frames import Frames
from mrm.errors import Error
from mrm.physical.autoscale import Autoscaler, Entry
from mrm.physical.keeping import Keeper
from mrm.stats import Ballooned

class Economy(Frames):
    def __init__(self) -> Never: ...  # mrm.Pool(size)
    def inflate(
        self,
        size: int | str,
        *,
        to: str = "pool",
        retire: bool = True,
        progress: Callable[[int, int], object] | None = None,
    ) -> Ballooned: ...
    @overload
    def deflate(
        self,
        size: int | str,
        *,
        source: str = "pool",
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
        background: Literal[False] = False,
    ) -> Ballooned: ...
    @overload
    def deflate(
        self,
        size: int | str,
        *,
        source: str = "pool",
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
        background: Literal[True],
    ) -> Deflation: ...
    def resize(
        self,
        size: int | str,
        *,
        place: str = "pool",
        threads: int | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> Ballooned: ...
    def autoscale(
        self,
        minimum: int | str,
        maximum: int | str,
        *,
        headroom: int | str | None = None,
        leave_free: int | str | None = None,
        leave_memory: int | str = 0,
        step: int | str | None = None,
        calm: float = 10.0,
        to: str = "pool",
        tell: Callable[[Entry], object] | None = None,
        interval: float = 0.25,
    ) -> Autoscaler: ...
    def _keeper(self) -> Keeper: ...
    def _inflate(self, n: int, retire: bool) -> tuple[int, Error | None]: ...
    def _deflate(self, n: int) -> tuple[int, Error | None]: ...
    def _missing_by_node(self) -> dict[int, int]: ...
    def fund(self, name: str, size: int | str | None = None) -> Fund: ...
    @property
    def funds(self) -> dict[str, Fund]: ...
    def account(
        self,
        name: str,
        *,
        committed: str | Fund = "committed",
        overdraft: str | Fund | None = "overdraft",
        limit: SupportsIndex | None = None,
        share_contents: bool = False,
    ) -> Account: ...
    @property
    def accounts(self) -> dict[str, Account]: ...
    def account_of(self, frame: SupportsIndex) -> Account: ...
    def keep_zeroed(self, n: SupportsIndex) -> None: ...
    def on_shortage(self, callback: Callable[[str, int], object] | None) -> None: ...
