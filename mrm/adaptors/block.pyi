"""Buffers and arrays of heaps that are wrapped."""

from typing import Any

from mrm._bytes import Bytes

class Block(Bytes):
    def __init__(self, heap: Any, nbytes: int, zero: bool = False) -> None: ...
