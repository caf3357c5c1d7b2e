"""CPython's large blocks: what its object allocator passes on to malloc, on a heap of private memory.

CPython serves requests of up to 512 bytes from arenas (_arenas.pyx). Larger ones, as for the tables of dicts, the
items of lists, and long strings, it passes on to its *raw* domain, which is malloc, by a table of functions
that can be replaced (PyMem_SetAllocator). Here is what is put there: it sends requests of more than
512 bytes to a heap, and all others, and those that the heap cannot serve, to what was there before.

Why there, and not over the domains of objects themselves: that would be one more call for each object
that is made and one for each that ends, and the size of a block in an arena is the arena's secret,
so that a list that outgrows it by realloc could not be moved. The raw domain sees neither.

Whose a block is, its address tells: the heap's ranges never change. So it does not matter from
when a block is, and as with arenas what is put there stays there: uninstalling only has new
blocks come from below. The heap is never closed. The raw domain is used without the GIL, and
by any thread; so is the heap.

Hooks that stand above, such as tracemalloc's and those of PYTHONMALLOC=debug, see each request once. But
whoever takes the raw table while mrm's is in it, and puts back an older one later, makes CPython free the heap's
blocks as malloc's. tracemalloc does so, if it was started before: that is refused (cpython.py).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mrm import errors
from mrm cimport mrm_heap_options
from mrm.heap.blocks cimport heap_calloc, heap_free, heap_malloc, heap_realloc, heap_usable_size
from mrm.heap.heap cimport heap_open
from mrm.heap.slow cimport heap_trim
from mrm.heap.state cimport heap_t
from mrm.system.failure cimport check


cdef extern from "Python.h" nogil:
    ctypedef enum domain_t "PyMemAllocatorDomain":
        PYMEM_DOMAIN_RAW
    ctypedef struct allocator_t "PyMemAllocatorEx":
        void *ctx
        void *(*malloc)(void *ctx, size_t nbytes) noexcept nogil
        void *(*calloc)(void *ctx, size_t count, size_t nbytes) noexcept nogil
        void *(*realloc)(void *ctx, void *block, size_t nbytes) noexcept nogil
        void (*free)(void *ctx, void *block) noexcept nogil
    void PyMem_GetAllocator(domain_t domain, allocator_t *allocator)
    void PyMem_SetAllocator(domain_t domain, allocator_t *allocator)
    void *PyMem_RawMalloc(size_t nbytes)
    void PyMem_RawFree(void *block)

cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    bint likely "MRM_LIKELY"(bint condition)


cdef enum:
    SMALL = 512                 # bytes: SMALL_REQUEST_THRESHOLD of CPython's obmalloc.c

cdef heap_t *heap = NULL
cdef uint32_t active = 0        # new blocks come from the heap
cdef uint64_t elsewhere = 0     # blocks that it could not serve
cdef bint hooked = False
cdef allocator_t below


cdef inline bint is_ours(const void *block) noexcept nogil:
    return (
        <uint64_t>block - <uint64_t>heap.base < heap.nbytes
        or <uint64_t>block - <uint64_t>heap.runs.base < <uint64_t>heap.runs.slots << 21
    )


cdef inline void *served(void *block) noexcept nogil:
    """Count it if there is none."""
    if block == NULL:
        mrm_add64(&elsewhere, 1)
    return block


# ---- the hook ------------------------------------------------------------------------

cdef void *hook_malloc(void *context, size_t nbytes) noexcept nogil:
    cdef void *block = NULL
    if nbytes > SMALL and mrm_load32(&active):
        block = served(heap_malloc(heap, nbytes))
    return block if block != NULL else below.malloc(below.ctx, nbytes)


cdef void *hook_calloc(void *context, size_t count, size_t size) noexcept nogil:
    cdef void *block = NULL
    # What overflows is for the one below to refuse.
    if size and count <= <size_t>-1 // size and count * size > SMALL and mrm_load32(&active):
        block = served(heap_calloc(heap, count, size))
    return block if block != NULL else below.calloc(below.ctx, count, size)


cdef void *hook_realloc(void *context, void *block, size_t nbytes) noexcept nogil:
    cdef void *moved = NULL
    if block == NULL:
        return hook_malloc(context, nbytes)
    if not is_ours(block):
        # malloc's stay malloc's: how large it is, only malloc knows.
        return below.realloc(below.ctx, block, nbytes)
    if nbytes > SMALL and mrm_load32(&active):
        moved = served(heap_realloc(heap, block, nbytes))
    if moved == NULL:
        # Away from here: it has become small, or we were uninstalled, or the heap has no memory for it.
        moved = below.malloc(below.ctx, nbytes)
        if likely(moved != NULL):
            memcpy(moved, block, min(heap_usable_size(heap, block), nbytes))
            heap_free(heap, block)
    return moved


cdef void hook_free(void *context, void *block) noexcept nogil:
    if is_ours(block):
        heap_free(heap, block)
    else:
        below.free(below.ctx, block)


# ---- from Python -----------------------------------------------------------------------

cdef bint is_in_place() noexcept:
    """Whether a request comes to the heap."""
    cdef void *block = PyMem_RawMalloc(SMALL + 1)
    cdef bint ours = is_ours(block)
    PyMem_RawFree(block)
    return ours


def activate(limit, keep):
    """Have large blocks come from the heap: at most ``limit`` bytes, or without limit (None).

    Limit and ``keep``, the bytes of freed blocks that are kept, are those of the first time.

    Raises
    ------
    Error
        If the heap cannot be opened, or another hook has taken the place of this one.
    """
    global heap, hooked
    cdef mrm_heap_options options
    cdef allocator_t ours
    if heap == NULL:
        memset(&options, 0, sizeof(options))
        options.size = sizeof(options)
        options.limit = limit or 0
        options.keep = keep or 1        # 0 would have it choose
        options.name = b"Python's large blocks"
        check(heap_open(NULL, &options, &heap))
    if not hooked:
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &below)
        ours.ctx = NULL
        ours.malloc = hook_malloc
        ours.calloc = hook_calloc
        ours.realloc = hook_realloc
        ours.free = hook_free
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &ours)
        hooked = True
    mrm_store32(&active, 1)
    if not is_in_place():
        mrm_store32(&active, 0)
        raise errors.Error(
            "another allocator of Python's raw memory has taken the place of mrm's (PyMem_SetAllocator), or one over it "
            "does not pass requests on: take it away first, or install with large=False"
        )


def deactivate():
    """Have large blocks come from where they came before."""
    mrm_store32(&active, 0)


def is_hooked():
    """Whether the hook is there already."""
    return hooked


def trim():
    """Give what is kept back to the kernel; bytes."""
    return heap_trim(heap) if heap != NULL else 0


def where():
    """The heap's ranges, as a list of (address, bytes)."""
    if heap == NULL:
        return []
    return [
        (<uint64_t>heap.base, heap.nbytes), (<uint64_t>heap.runs.base, <uint64_t>heap.runs.slots << 21),
    ]


def figures():
    """What there is and was, as a dict."""
    if heap == NULL:
        return dict(memory=0, peak=0, elsewhere=0)
    return dict(memory=heap.bytes_now, peak=heap.bytes_peak, elsewhere=elsewhere)
