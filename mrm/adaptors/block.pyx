"""A block with the buffer protocol, of anything that has a heap's methods.

It is made, resized and freed by the methods of the adaptor that it came from, so that whatever is wrapped around
the heap sees it; what lies in it is looked at without Python. Otherwise it is what mrm.Buffer is (_bytes.pyx). If
there is an mrm.Heap below, it keeps that one's memory alive, even when the heap has been closed. Then it is freed
past the adaptors, which have forgotten it.
"""

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from mrm._bytes cimport Bytes, give_back
from mrm._heap cimport Heap
from mrm.errors import ClosedError
from mrm.heap.heap cimport heap_retain
from mrm.heap.state cimport heap_t


cdef heap_t *heap_below(object heap) except? NULL:
    """The handle of the mrm.Heap at the bottom of a stack, with one user more; NULL if there is another kind."""
    cdef heap_t *handle
    while not isinstance(heap, Heap):
        heap = getattr(heap, "heap", None)
        if heap is None:
            return NULL
    handle = (<Heap>heap).open_one()
    heap_retain(handle)
    return handle


@cython.no_gc_clear     # so that the adaptor is still there when the block is freed
cdef class Block(Bytes):
    """Bytes of a heap, exported by the buffer protocol.

    Parameters
    ----------
    heap : HeapLike
        Whose methods make and free it; kept alive.
    nbytes : int
        How many bytes.
    zero : bool
        Whether they shall be zero.
    """

    cdef object maker                   # whose methods made it; None once freed
    cdef object __weakref__

    def __init__(self, heap, Py_ssize_t nbytes, bint zero=False):
        if self.maker is not None or self.heap != NULL:
            raise TypeError("a Block is made once")
        self.heap = heap_below(heap)
        self.block = <void *><uint64_t>(heap.calloc(1, nbytes) if zero else heap.malloc(nbytes))
        self.nbytes = nbytes
        self.maker = heap

    def __dealloc__(self):
        if self.maker is not None:
            self._end()

    cdef str _title(self):
        return "mrm.adaptors.Block"

    cdef bint _gone(self) noexcept:
        return self.maker is None

    cdef int _change(self, size_t nbytes) except -1:
        self.block = <void *><uint64_t>self.maker.realloc(<uint64_t>self.block, nbytes)
        return 0

    cdef int _end(self) except -1:
        cdef void *block = self.block
        maker, self.maker = self.maker, None
        self.block = NULL
        try:
            maker.free(<uint64_t>block)
        except ClosedError:
            self.block = block          # what is below has it still, if it is an mrm.Heap
        finally:
            give_back(self)
        return 0
