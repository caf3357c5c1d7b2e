"""Allocators: libraries, each loaded beside the others and seen by nobody else, and heaps of ours.

RTLD_LOCAL keeps their ``malloc`` from becoming the process's, RTLD_DEEPBIND has them find their
own functions first where they call each other. What Python itself allocates stays glibc's. Heaps are
called as any program in C calls them, by the table of mrm.h.
"""

from libc.stdint cimport uintptr_t

from mrm import errors

from mrm cimport api, mrm_import

mrm_import()


cdef extern from *:
    """
    #include <dlfcn.h>
    #ifndef RTLD_DEEPBIND       /* of C libraries other than glibc */
    #define RTLD_DEEPBIND 0
    #endif
    """
    enum:
        RTLD_NOW, RTLD_LOCAL, RTLD_DEEPBIND

cdef extern from "<dlfcn.h>" nogil:
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

    @staticmethod
    def of_heap(heap, pool=None):
        """A heap of ours, with the pool that it is on; both are closed with it."""
        cdef Allocator made = Allocator.__new__(Allocator)
        made.heap, made.pool = heap, pool
        made.functions.context = <void *><uintptr_t>heap._c_heap
        made.functions.malloc_of = <void *(*)(void *, size_t) noexcept nogil>api.heap_malloc
        made.functions.realloc_of = <void *(*)(void *, void *, size_t) noexcept nogil>api.heap_realloc
        made.functions.free_of = <int (*)(void *, void *) noexcept nogil>api.heap_free
        return made

    @property
    def frames(self):
        """The most bytes that it has had of a pool's frames; None where it has no pool.

        By the pool's books as they are now, and by the heap's of what has been.
        """
        if self.pool is None:
            return None
        figures = self.pool.stats()
        return max(figures.held * figures.frame_size, self.heap.stats().memory_peak)

    def close(self):
        """End a heap and its pool; libraries stay."""
        for opened in (self.heap, self.pool):
            if opened is not None:
                opened.close()

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
