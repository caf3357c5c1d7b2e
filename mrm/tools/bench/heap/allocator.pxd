"""An allocator as workloads see it: a table of functions, and what calls them.

Some allocators are one for the whole process, as malloc is; of others there are many, and each
call says which. Both kinds are called through one pointer, without a function in
between that one of them would have to pay for: which half of the table is filled is a
branch that goes the same way every time.
"""

from libc.stdint cimport uint64_t, uintptr_t


# What every block begins with while it is somebody's, so that one that was handed out twice is found.
cdef enum:
    LEAST_BLOCK = sizeof(uint64_t)

cdef struct functions_t:
    # One for the whole process: context is NULL.
    void *(*malloc)(size_t nbytes) noexcept nogil
    void *(*realloc)(void *block, size_t nbytes) noexcept nogil
    void (*free)(void *block) noexcept nogil
    # One of many.
    void *context
    void *(*malloc_of)(void *context, size_t nbytes) noexcept nogil
    void *(*realloc_of)(void *context, void *block, size_t nbytes) noexcept nogil
    int (*free_of)(void *context, void *block) noexcept nogil


cdef inline void *block_malloc(const functions_t *functions, size_t nbytes) noexcept nogil:
    if functions.context != NULL:
        return functions.malloc_of(functions.context, nbytes)
    return functions.malloc(nbytes)


cdef inline void *block_realloc(const functions_t *functions, void *block, size_t nbytes) noexcept nogil:
    if functions.context != NULL:
        return functions.realloc_of(functions.context, block, nbytes)
    return functions.realloc(block, nbytes)


cdef inline void block_free(const functions_t *functions, void *block) noexcept nogil:
    if functions.context != NULL:
        functions.free_of(functions.context, block)
    else:
        functions.free(block)


cdef inline uint64_t mark_of(void *block) noexcept nogil:
    """What a block's first word holds while it is somebody's: its address, as nobody else would write it."""
    return <uint64_t><uintptr_t>block ^ <uint64_t>0x9e3779b97f4a7c15


cdef class Allocator:
    cdef functions_t functions
    cdef object heap            # where it is one of mrm's
    cdef object pool            # and that heap's, if it has one
