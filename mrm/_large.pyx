"""CPython's large blocks: what its object allocator passes on to malloc, on a heap.

CPython serves requests of up to 512 bytes from arenas (_arenas.pyx). Larger ones, as for the tables of dicts, the
items of lists, and long strings, it passes on to its *raw* domain, which is malloc, by a table of functions
that can be replaced (PyMem_SetAllocator). Here is what is put there: it sends requests of more than
512 bytes to a heap, and all others, and those that the heap cannot serve, to what was there before.

Why there, and not over the domains of objects themselves: that would be one more call for each object
that is made and one for each that ends, and the size of a block in an arena is the arena's secret,
so that a list that outgrows it by realloc could not be moved. The raw domain sees neither.

Whose a block is, its address tells: the heap's ranges never change. So it does not matter from
when a block is, and as with arenas what is put there stays there: uninstalling only has new
blocks come from below. No heap is ever closed. The raw domain is used without the GIL, and
by any thread; so is the heap.

Hooks that stand above, such as tracemalloc's and those of PYTHONMALLOC=debug, see each request once. But
whoever takes the raw table while mrm's is in it, and puts back an older one later, makes CPython free the heap's
blocks as malloc's. tracemalloc does so, if it was started before: that is refused (cpython.py).
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from mrm import errors
from mrm cimport MRM_HEAP_NO_DEBUG, MRM_KEEP_NONE, mrm_heap_options
from mrm._frames cimport Frames
from mrm.heap.blocks cimport heap_calloc, heap_free, heap_malloc, heap_realloc, heap_usable_size
from mrm.heap.heap cimport heap_open
from mrm.heap.page cimport SEGMENT_SHIFT
from mrm.heap.slow cimport heap_trim
from mrm.heap.state cimport heap_t
from mrm.physical.pool cimport pool_t
from mrm.system.failure cimport check
from mrm.system.rollup cimport rollup_before_less


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
    void *mrm_load_ptr(void *const *p)
    void mrm_store_ptr(void **p, void *v)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    bint likely "MRM_LIKELY"(bint condition)


cdef enum:
    SMALL = 512                 # bytes: SMALL_REQUEST_THRESHOLD of CPython's obmalloc.c

# One of the ranges of one of the heaps; of 0 bytes until there is one.
cdef struct owned_t:
    uint64_t base
    uint64_t nbytes
    heap_t *heap

cdef enum:
    HEAPS = 2                   # on private memory, and on a pool

cdef heap_t *heaps[HEAPS]
cdef owned_t owned[2 * HEAPS]
cdef void *active = NULL        # the heap that new blocks come from; none: where they came before
cdef uint64_t elsewhere = 0     # blocks that it could not serve
cdef bint hooked = False
cdef allocator_t below


cdef inline heap_t *owner(const void *block) noexcept nogil:
    """The heap that a block is of; NULL: malloc's."""
    cdef int i
    for i in range(2 * HEAPS):
        if <uint64_t>block - owned[i].base < owned[i].nbytes:
            return owned[i].heap
    return NULL


cdef inline void *served(void *block) noexcept nogil:
    """Count it if there is none."""
    if block == NULL:
        mrm_add64(&elsewhere, 1)
    return block


# ---- the hook ------------------------------------------------------------------------

cdef void *hook_malloc(void *context, size_t nbytes) noexcept nogil:
    cdef heap_t *heap = <heap_t *>mrm_load_ptr(&active)
    cdef void *block = NULL
    if nbytes > SMALL and heap != NULL:
        block = served(heap_malloc(heap, nbytes))
    return block if block != NULL else below.malloc(below.ctx, nbytes)


cdef void *hook_calloc(void *context, size_t count, size_t size) noexcept nogil:
    cdef heap_t *heap = <heap_t *>mrm_load_ptr(&active)
    cdef void *block = NULL
    # What overflows is for the one below to refuse.
    if heap != NULL and size and count <= <size_t>-1 // size and count * size > SMALL:
        block = served(heap_calloc(heap, count, size))
    return block if block != NULL else below.calloc(below.ctx, count, size)


cdef void *hook_realloc(void *context, void *block, size_t nbytes) noexcept nogil:
    cdef heap_t *heap
    cdef void *moved = NULL
    if block == NULL:
        return hook_malloc(context, nbytes)
    heap = owner(block)
    if heap == NULL:
        # malloc's stay malloc's: how large it is, only malloc knows.
        return below.realloc(below.ctx, block, nbytes)
    if nbytes > SMALL and heap == <heap_t *>mrm_load_ptr(&active):
        moved = served(heap_realloc(heap, block, nbytes))
    if moved == NULL:
        # Away from here: it has become small, or we were uninstalled, or the heap has no memory for it.
        moved = hook_malloc(context, nbytes) if nbytes > SMALL else below.malloc(below.ctx, nbytes)
        if likely(moved != NULL):
            memcpy(moved, block, min(heap_usable_size(heap, block), nbytes))
            heap_free(heap, block)
    return moved


cdef void hook_free(void *context, void *block) noexcept nogil:
    cdef heap_t *heap = owner(block)
    if heap != NULL:
        if <uint64_t>block - <uint64_t>heap.base >= heap.nbytes:
            rollup_before_less(heap.bytes_now)      # a run of slots: there are not many
        heap_free(heap, block)
    else:
        below.free(below.ctx, block)


# ---- from Python -----------------------------------------------------------------------

cdef bint is_in_place() noexcept:
    """Whether a request comes to a heap."""
    cdef void *block = PyMem_RawMalloc(SMALL + 1)
    cdef bint ours = owner(block) != NULL
    PyMem_RawFree(block)
    return ours


cdef int open_heap(int which, pool_t *pool, limit, keep) except -1:
    """Open one of the heaps."""
    cdef mrm_heap_options options
    cdef heap_t *heap = NULL
    cdef owned_t *ranges = &owned[2 * which]
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.limit = limit or 0
    options.keep = keep or MRM_KEEP_NONE
    options.name = b"Python's large blocks"
    # Whoever looks for mistakes notes Python's stack, which makes objects, and these may be made
    # in the middle of CPython's own allocator.
    options.flags = MRM_HEAP_NO_DEBUG
    check(heap_open(pool, &options, &heap))
    heaps[which] = heap
    ranges[0].heap = ranges[1].heap = heap
    ranges[0].base = <uint64_t>heap.base
    ranges[1].base = <uint64_t>heap.runs.base
    ranges[0].nbytes = heap.nbytes
    ranges[1].nbytes = <uint64_t>heap.runs.slots << SEGMENT_SHIFT
    return 0


def activate(Frames pool, limit, keep):
    """Have large blocks come from a heap on private memory (pool is None), or on a pool.

    At most ``limit`` bytes, or without limit (None). Limit and ``keep``, the bytes of freed
    blocks that are kept, are those of the first time.

    Raises
    ------
    Error
        If the heap cannot be opened, or another hook has taken the place of this one.
    """
    global hooked
    cdef allocator_t ours
    cdef int which = 0 if pool is None else 1
    cdef pool_t *found = NULL if pool is None else pool.open_one()
    if heaps[which] == NULL:
        open_heap(which, found, limit, keep)
    if not hooked:
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &below)
        ours.ctx = NULL
        ours.malloc = hook_malloc
        ours.calloc = hook_calloc
        ours.realloc = hook_realloc
        ours.free = hook_free
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &ours)
        hooked = True
    mrm_store_ptr(&active, heaps[which])
    if not is_in_place():
        mrm_store_ptr(&active, NULL)
        raise errors.Error(
            "another allocator of Python's raw memory has taken the place of mrm's (PyMem_SetAllocator), or one over "
            "it does not pass requests on: take it away first, or install with large=False"
        )


def deactivate():
    """Have large blocks come from where they came before."""
    mrm_store_ptr(&active, NULL)


def is_hooked():
    """Whether the hook is there already."""
    return hooked


def trim(int which):
    """Give what is kept back; bytes."""
    return heap_trim(heaps[which]) if heaps[which] != NULL else 0


def where(int which):
    """The ranges of a heap, as a list of (address, bytes): of that on private memory (0), or on a pool (1)."""
    return [(owned[i].base, owned[i].nbytes) for i in range(2 * which, 2 * which + 2)]


def memory_on_pool():
    """Bytes that the heap on a pool has, which no child would have."""
    return heaps[1].bytes_now if heaps[1] != NULL else 0


def figures(int which):
    """What there is and was, as a dict."""
    if heaps[which] == NULL:
        return dict(memory=0, peak=0, elsewhere=0)
    return dict(memory=heaps[which].bytes_now, peak=heaps[which].bytes_peak, elsewhere=elsewhere)
