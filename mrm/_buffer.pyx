"""A block of a heap that Python owns: bytes that can be looked at, and grow in place.

A Buffer keeps its heap alive, and with it the pool, whatever becomes of the objects that it came from. While
something looks at it through the buffer protocol or DLPack (a memoryview, an array), it neither moves nor goes:
_bytes.pyx has that part, and all else that does not touch the heap.
"""

cimport cython
from libc.stddef cimport size_t
from libc.string cimport memset

from mrm._bytes cimport Bytes
from mrm.heap.blocks cimport heap_calloc, heap_free, heap_malloc, heap_realloc
from mrm.heap.heap cimport heap_release, heap_retain
from mrm.heap.state cimport heap_t
from mrm.heap.traces cimport trace_note
from mrm.system.failure cimport check, failure


@cython.no_gc
cdef class Buffer(Bytes):
    """Bytes in a heap: made by ``heap.buffer(n)``.

    It has the buffer protocol, writable, and DLPack as a vector of uint8; ``len`` is its bytes. It
    is freed with its last reference, or by ``free()``, and keeps heap and pool alive until then.
    """

    cdef str _title(self):
        return "mrm.Buffer"

    cdef bint _gone(self) noexcept:
        return self.heap == NULL

    cdef int _change(self, size_t nbytes) except -1:
        cdef heap_t *heap = self.heap
        cdef void *block = self.block
        cdef void *moved
        if heap.debug != NULL:
            trace_note()
        with nogil:
            moved = heap_realloc(heap, block, nbytes)
        if moved == NULL:
            check(failure().status)
        self.block = moved
        return 0

    cdef int _end(self) except -1:
        cdef heap_t *heap = self.heap
        cdef void *block = self.block
        if heap.debug != NULL:
            trace_note()
        # Gone before the GIL is: another thread may begin to look then.
        self.heap = NULL
        self.block = NULL
        with nogil:
            heap_free(heap, block)
            heap_release(heap)
        return 0


cdef Buffer make_buffer(heap_t *heap, size_t nbytes, bint zero):
    """A Buffer of a heap."""
    cdef Buffer made = Buffer.__new__(Buffer)
    cdef void *block
    cdef int status
    heap_retain(heap)               # another thread, or whoever is told of a shortage, may close it meanwhile
    if nbytes <= 4096:
        block = heap_malloc(heap, nbytes)
        if zero and block != NULL:
            memset(block, 0, nbytes)
    else:
        if heap.debug != NULL:
            trace_note()
        with nogil:
            block = heap_calloc(heap, 1, nbytes) if zero else heap_malloc(heap, nbytes)
    if block == NULL:
        status = failure().status
        heap_release(heap)
        check(status)
    made.heap = heap
    made.block = block
    made.nbytes = <Py_ssize_t>nbytes
    return made
