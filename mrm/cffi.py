"""The C table for cffi, without a compiler.

::

    import mrm
    from mrm.cffi import api, ffi

    with mrm.Pool("64MiB") as pool:
        handle = api.pool_from_object(ffi.cast("void *", id(pool)))
        frame = ffi.new("uint32_t *")
        assert api.take(handle, frame) == 0
        ...
        api.pool_release(handle)

cffi lets the GIL go in each call, which every function of the table allows. What cffi
reads is the header itself, less what it does not understand: the preprocessor's lines
and the inline functions. A program that cffi compiles (its API mode) includes the header
as C does, and calls ``mrm_attach`` with ``mrm.api_address()``.

``allocator`` has what ``new`` makes lie in a heap::

    new = allocator(ffi, heap)
    table = new("struct entry[]", 1_000_000)       # zeros, on huge pages; freed with the last reference
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi

import mrm
from mrm.adaptors.adaptor import HeapLike, check_heap
from mrm.adaptors.block import Block


def declarations() -> str:
    """The types and constants of mrm.h, as ``ffi.cdef`` reads them."""
    header = Path(mrm.get_include(), "mrm", "mrm.h").read_text()
    types = header.partition("/* ---- statuses")[2].partition("*/")[2].partition("#if")[0]
    return re.sub(r"^static inline .*?^}\n", "", types, flags=re.MULTILINE | re.DOTALL)


ffi = cffi.FFI()
ffi.cdef(declarations())
api = ffi.cast("const mrm_api *", mrm.api_address())


def allocator(ffi: cffi.FFI, heap: HeapLike, *, zero: bool = True) -> Callable[..., Any]:
    """What is called as ``ffi.new`` is, and makes things in a heap.

    Parameters
    ----------
    ffi : cffi.FFI
        Whose types they are of; that of a compiled module, too.
    heap : HeapLike
        An ``mrm.Heap``, an adaptor, or what has a heap's methods.
    zero : bool
        Whether what is not initialised shall be zero, as ``ffi.new`` has it. A heap knows memory that is zero
        already.

    Returns
    -------
    callable
        ``new(type, init=None)``, which returns an owning cdata. It is freed with its last reference, or by
        ``ffi.release``, and keeps the heap's memory alive until then, even if the heap is closed.

    Notes
    -----
    Each ``new`` is one call of Python, whatever it makes; what is read and written is read and written by cffi alone.
    """
    check_heap(heap)
    make = getattr(heap, "buffer", None) or (lambda nbytes, zero: Block(heap, nbytes, zero))

    def allocate(nbytes: int) -> Any:
        # cffi keeps what is returned here for as long as what it makes of it, and this keeps the buffer.
        return ffi.from_buffer("char *", make(nbytes, zero), require_writable=True)

    new: Callable[..., Any] = ffi.new_allocator(allocate, None, should_clear_after_alloc=False)
    return new
