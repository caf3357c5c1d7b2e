"""Allocators that are libraries, each loaded beside the others and seen by nobody else.

RTLD_LOCAL keeps their ``malloc`` from becoming the process's, RTLD_DEEPBIND has them find their
own functions first where they call each other. What Python itself allocates stays glibc's.
"""

from libc.stdint cimport uintptr_t

from mrm import errors


cdef extern from "<dlfcn.h>" nogil:
    enum:
        RTLD_NOW, RTLD_LOCAL, RTLD_DEEPBIND
    void *dlopen(const char *name, int flags)
    void *dlsym(void *library, const char *name)
    char *dlerror()


cdef class Allocator:
    """A table of functions."""

    @staticmethod
    def library(name, prefix=""):
        """A library's, whose functions are called malloc, realloc and free, with something before it."""
        cdef Allocator made = Allocator.__new__(Allocator)
        cdef bytes file = name.encode()
        cdef void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND)
        if library == NULL:
            raise errors.Error(f"{name} cannot be loaded: {said()}", call="dlopen")
        made.functions.malloc = <void *(*)(size_t) noexcept nogil>found(library, name, f"{prefix}malloc")
        made.functions.realloc = <void *(*)(void *, size_t) noexcept nogil>found(library, name, f"{prefix}realloc")
        made.functions.free = <void (*)(void *) noexcept nogil>found(library, name, f"{prefix}free")
        return made

    @property
    def held_elsewhere(self):
        """Bytes that it has now, in memory that the kernel does not count as this process's."""
        return 0 if self.held is None else self.held()

    def trial(self, size_t nbytes):
        """The address of a block of so many bytes, which is freed again; 0 if there was none."""
        cdef void *block
        with nogil:
            block = block_malloc(&self.functions, nbytes)
            if block != NULL:
                block_free(&self.functions, block)
        return <uintptr_t>block


cdef void *found(void *library, name, function) except NULL:
    cdef bytes symbol = function.encode()
    cdef void *address = dlsym(library, symbol)
    if address == NULL:
        raise errors.Error(f"{name} has no {function}: {said()}", call="dlsym")
    return address


cdef str said():
    cdef char *words = dlerror()
    return "nobody says why" if words == NULL else (<bytes>words).decode(errors="replace")
