"""For what is wrapped around heaps, or uses them: a heap that is libc's malloc with a memory of what it made; logs."""

import csv
import ctypes
import io
import threading

from mrm.errors import ArgumentError, BlockError, ClosedError, OutOfFrames

_libc = ctypes.CDLL(None)
for _name, _result, *_arguments in (
    ("malloc", "p", "n"),
    ("calloc", "p", "n", "n"),
    ("realloc", "p", "p", "n"),
    ("aligned_alloc", "p", "n", "n"),
    ("free", None, "p"),
):
    _kinds = {"p": ctypes.c_void_p, "n": ctypes.c_size_t, None: None}
    getattr(_libc, _name).restype = _kinds[_result]
    getattr(_libc, _name).argtypes = [_kinds[_kind] for _kind in _arguments]


class FakeHeap:
    """What mrm.Heap does, of at most ``room`` bytes; a block has its bytes rounded up to 16."""

    def __init__(self, room=1 << 30):
        self.room = room
        self.live = {}
        self.closed = False
        self.lock = threading.RLock()
        self.calls = []

    def _made(self, address, nbytes):
        self.live[address] = max(-(-nbytes // 16) * 16, 16)
        return address

    def _check(self, more):
        if self.closed:
            raise ClosedError("the heap is closed")
        if sum(self.live.values()) + more > self.room:
            raise OutOfFrames("full", nbytes=more)

    def malloc(self, nbytes):
        with self.lock:
            self.calls.append("malloc")
            self._check(nbytes)
            return self._made(_libc.malloc(nbytes + 16), nbytes)

    def calloc(self, count, size):
        with self.lock:
            self.calls.append("calloc")
            self._check(count * size)
            return self._made(_libc.calloc(1, count * size + 16), count * size)

    def aligned(self, alignment, nbytes):
        with self.lock:
            self.calls.append("aligned")
            if alignment & (alignment - 1):
                raise ArgumentError("no power of two")
            self._check(nbytes)
            rounded = -(-(nbytes + 16) // alignment) * alignment
            return self._made(_libc.aligned_alloc(max(alignment, 16), rounded), nbytes)

    def realloc(self, address, nbytes):
        with self.lock:
            self.calls.append("realloc")
            if not address:
                return self.malloc(nbytes)
            if address not in self.live:
                raise BlockError("not a block")
            self._check(nbytes - self.live[address])
            moved = _libc.realloc(address, nbytes + 16)
            del self.live[address]
            return self._made(moved, nbytes)

    def free(self, address):
        with self.lock:
            self.calls.append("free")
            if self.closed:
                raise ClosedError("the heap is closed")
            if not address:
                return
            if address not in self.live:
                raise BlockError("not a block")
            del self.live[address]
            _libc.free(address)

    def usable_size(self, address):
        if self.closed:
            raise ClosedError("the heap is closed")
        if address not in self.live:
            raise BlockError("not a block")
        return self.live[address]

    def owns(self, address):
        with self.lock:
            return any(at <= address < at + nbytes for at, nbytes in self.live.items())

    def blocks(self):
        return iter(list(self.live.items()))

    def stats(self):
        return {"blocks": len(self.live)}

    def trim(self):
        return 0

    def close(self):
        with self.lock:
            for address in self.live:
                _libc.free(address)
            self.live.clear()
            self.closed = True


def rows(text):
    """The calls that a log tells, each as a dict by column."""
    return list(csv.DictReader(io.StringIO(text)))
