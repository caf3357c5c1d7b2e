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
"""

import re
from pathlib import Path

import cffi

import mrm


def declarations() -> str:
    """The types and constants of mrm.h, as ``ffi.cdef`` reads them."""
    header = Path(mrm.get_include(), "mrm", "mrm.h").read_text()
    types = header.partition("/* ---- statuses")[2].partition("*/")[2].partition("#if")[0]
    return re.sub(r"^static inline .*?^}\n", "", types, flags=re.MULTILINE | re.DOTALL)


ffi = cffi.FFI()
ffi.cdef(declarations())
api = ffi.cast("const mrm_api *", mrm.api_address())
