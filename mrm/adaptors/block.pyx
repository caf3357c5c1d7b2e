"""A block with the buffer protocol, of anything that has a heap's methods.

It is made, resized and freed by the methods of the adaptor that it came from, so that whatever is wrapped around
the heap sees it; what lies in it is looked at without Python. Otherwise it is what mrm.Buffer is: while
somebody looks it neither moves nor goes, and if there is an mrm.Heap below it keeps that one's memory alive,
even when the heap has been closed. Then it is freed past the adaptors, which have forgotten it.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT
from libc.stdint cimport uint64_t

from mrm._dlpack cimport capsule_of, device
from mrm._heap cimport Heap
from mrm.errors import ClosedError, PinnedError
from mrm.heap.blocks cimport heap_free
from mrm.heap.heap cimport heap_release, heap_retain
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


@cython.no_gc_clear     # so that the heap is still there when the block is freed
cdef class Block:
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

    cdef object heap                    # None once freed
    cdef heap_t *kept                   # retained, or NULL
    cdef void *block
    cdef Py_ssize_t length
    cdef Py_ssize_t stride
    cdef Py_ssize_t exports             # buffers that look at it
    cdef object __weakref__

    def __init__(self, heap, Py_ssize_t nbytes, bint zero=False):
        if self.heap is not None:
            raise TypeError("a Block is made once")
        self.kept = heap_below(heap)
        self.block = <void *><uint64_t>(heap.calloc(1, nbytes) if zero else heap.malloc(nbytes))
        self.length = nbytes
        self.stride = 1
        self.heap = heap

    def __dealloc__(self):
        try:
            if self.heap is not None:
                self._end()
        finally:
            if self.kept != NULL:
                heap_release(self.kept)

    cdef int _end(self) except -1:
        """Free it."""
        heap, self.heap = self.heap, None
        try:
            heap.free(<uint64_t>self.block)
        except ClosedError:
            if self.kept != NULL:
                heap_free(self.kept, self.block)
        return 0

    cdef int _check(self) except -1:
        if self.heap is None:
            raise ClosedError("the block was freed; ask its heap for another")
        return 0

    cdef int _movable(self, str what) except -1:
        self._check()
        if self.exports < 0:
            raise PinnedError(f"another thread is resizing the block: it can be {what} afterwards")
        if self.exports:
            raise PinnedError(
                f"{self.exports} views look at the block: release them (del the arrays, memoryview.release()) "
                f"before it is {what}"
            )
        return 0

    @property
    def address(self):
        """Where its bytes lie, as an int."""
        self._check()
        return <uint64_t>self.block

    @property
    def exported(self):
        """Whether something looks at it now."""
        return self.exports > 0

    def resize(self, Py_ssize_t nbytes):
        """Have so many bytes from now on, of which the first are as they were.

        Raises
        ------
        PinnedError
            While something looks at it.
        OutOfFrames
            If there is not as much memory; then it is as it was.
        """
        self._movable("resized")
        self.exports = -1       # another thread may come while it moves: nobody may begin to look
        try:
            self.block = <void *><uint64_t>self.heap.realloc(<uint64_t>self.block, nbytes)
            self.length = nbytes
        finally:
            self.exports = 0

    def free(self):
        """Give the memory back now; freeing twice does nothing.

        Raises
        ------
        PinnedError
            While something looks at it.
        """
        if self.heap is not None:
            self._movable("freed")
            self._end()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self._check()
        if self.exports < 0:
            raise PinnedError("another thread is resizing the block: look at it afterwards")
        buffer.buf = self.block
        buffer.len = self.length
        buffer.readonly = False
        buffer.itemsize = 1
        buffer.format = <char *>b"B" if flags & PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = &self.length
        buffer.strides = &self.stride
        buffer.suboffsets = NULL
        buffer.internal = NULL
        buffer.obj = self
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """A capsule with the bytes as a DLPack tensor; the block stays in place while it is in use."""
        self._check()
        return capsule_of(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self):
        """Where it lies, as DLPack says it: the CPU."""
        return device()

    def __len__(self):
        return self.length

    def __repr__(self):
        if self.heap is None:
            return "<mrm.adaptors.Block freed>"
        return f"<mrm.adaptors.Block of {self.length} bytes at {<uint64_t>self.block:#x}>"
