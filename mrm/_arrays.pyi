"""Frame and slot numbers from Python: scalars, ranges, sequences and buffers."""

from collections.abc import Iterable
from typing import SupportsIndex, TypeAlias

from typing_extensions import Buffer

# One frame or slot, or many: a buffer of integers (array.array, numpy) costs least.
_Integers: TypeAlias = SupportsIndex | Iterable[SupportsIndex] | Buffer

class Numbers: ...
