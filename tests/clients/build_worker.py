"""Builds the C client by cffi's API mode, in the current folder."""

import cffi

import mrm

ffi = cffi.FFI()
ffi.cdef("""
    const char *work(uint64_t table, uint64_t pool_object, int of, int rounds);
    const char *own_pool(uint64_t table);
""")
ffi.set_source(
    "cworker",
    '#include "worker.h"\nconst char *own_pool(uint64_t table);',
    sources=["worker.c", "meet.c"],
    include_dirs=[mrm.get_include(), "."],
    extra_compile_args=["-std=gnu11", "-Wall", "-Wextra", "-Werror"],
)
ffi.compile(verbose=True)
