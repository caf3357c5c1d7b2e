"""A block with the buffer protocol, of anything that has a heap's methods.

It is made, resized and freed by the methods of the heap that it came from, so that whatever is wrapped around
the heap sees it; what lies in it is looked at without Python. While somebody looks it can be neither
resized nor released: that raises PinnedError, a BufferError.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT
from libc.stdint cimport uint64_t

from mrm.errors import ClosedError, PinnedError


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

    cdef object heap
    cdef readonly object address
    cdef uint64_t data
    cdef Py_ssize_t length
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]
    cdef Py_ssize_t exports
    cdef object __weakref__

    def __init__(self, heap, Py_ssize_t nbytes, bint zero=False):
        if self.heap is not None:
            raise TypeError("a Block is made once")
        self.address = heap.calloc(1, nbytes) if zero else heap.malloc(nbytes)
        self.data = self.address
        self.length = nbytes
        self.heap = heap

    def __dealloc__(self):
        if self.heap is not None and self.address is not None:
            try:
                self.heap.free(self.address)
            except ClosedError:
                pass    # it went with its heap

    @property
    def nbytes(self):
        """How many bytes it has been asked for."""
        return self.length

    @property
    def released(self):
        """Whether it was released."""
        return self.heap is None

    cdef int _usable(self) except -1:
        if self.heap is None:
            raise ClosedError("the block was released; ask its heap for another")
        return 0

    cdef int _movable(self, str what) except -1:
        self._usable()
        if self.exports:
            raise PinnedError(
                f"{self.exports} buffers look at the block: release them (del the arrays, memoryview.release()) "
                f"before it is {what}"
            )
        return 0

    def resize(self, Py_ssize_t nbytes):
        """Give it so many bytes, of which the first are as they were.

        Raises
        ------
        PinnedError
            While somebody looks at it.
        OutOfFrames
            If there is no memory for it; then it is as it was.
        """
        self._movable("resized")
        # Nobody may begin to look while it moves.
        self.exports = -1
        try:
            self.address = self.heap.realloc(self.address, nbytes)
            self.data = self.address
            self.length = nbytes
        finally:
            self.exports = 0

    def release(self):
        """Free it now; twice is once."""
        if self.heap is None:
            return
        self._movable("released")
        heap, self.heap = self.heap, None
        heap.free(self.address)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self._usable()
        if self.exports < 0:
            raise PinnedError("the block is being resized by another thread; look at it afterwards")
        self.shape[0] = self.length
        self.strides[0] = 1
        buffer.buf = <void *>self.data
        buffer.len = self.length
        buffer.readonly = False
        buffer.itemsize = 1
        buffer.format = <char *>b"B" if flags & PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = self.shape
        buffer.strides = self.strides
        buffer.suboffsets = NULL
        buffer.internal = NULL
        buffer.obj = self
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.exports -= 1

    def __len__(self):
        return self.length

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def __repr__(self):
        return f"<Block of {self.length} bytes at {self.address:#x}{', released' if self.heap is None else ''}>"
