"""A block of a heap that Python owns: bytes that can be looked at, and grow in place.

A Buffer keeps its heap alive, and with it the pool, whatever becomes of the objects that it came from. While
something looks at it through the buffer protocol or DLPack (a memoryview, an array), it neither moves nor goes.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.string cimport memset

from mrm._dlpack cimport capsule_of, device
from mrm.errors import ArgumentError, ClosedError
from mrm.heap.blocks cimport heap_calloc, heap_free, heap_malloc, heap_realloc
from mrm.heap.heap cimport heap_release, heap_retain
from mrm.heap.traces cimport trace_note
from mrm.system.failure cimport check, failure


# No garbage collector: a Buffer refers to no Python object. The free list is what makes a small one cost
# little more than a bytearray.
@cython.no_gc
@cython.freelist(64)
cdef class Buffer:
    """Bytes in a heap: made by ``heap.buffer(n)``.

    It has the buffer protocol, writable, and DLPack as a vector of uint8; ``len`` is its bytes. It
    is freed with its last reference, or by ``free()``, and keeps heap and pool alive until then.
    """

    def __init__(self):
        raise TypeError("a Buffer is made by heap.buffer(n)")

    def __dealloc__(self):
        if self.heap != NULL:
            heap_free(self.heap, self.block)
            heap_release(self.heap)
            self.heap = NULL

    cdef int _check(self) except -1:
        if self.heap == NULL:
            raise ClosedError("the buffer was freed")
        return 0

    cdef int _check_still(self) except -1:
        """It is there, and nobody moves it."""
        self._check()
        if self.exports < 0:
            raise BufferError("another thread is resizing the buffer: look at it when that is done")
        return 0

    cdef int _check_unseen(self, what) except -1:
        """Nobody looks at it, or moves it."""
        if self.exports > 0:
            raise BufferError(f"{self.exports} views look at the buffer: release them before it is {what}")
        if self.exports < 0:
            raise BufferError(f"another thread is resizing the buffer: it is {what} when that is done")
        return 0

    def __len__(self):
        return self.nbytes

    @property
    def address(self):
        """Where its bytes lie, as an int."""
        self._check()
        return <uint64_t>self.block

    @property
    def exported(self):
        """Whether something looks at it now."""
        return self.exports > 0

    @cython.critical_section
    def resize(self, n):
        """Have n bytes from now on.

        Contents stay, up to the smaller of both sizes. A buffer above 1 MiB grows without a byte being
        copied: in place, or by moving its frames to other addresses.

        Parameters
        ----------
        n : int
            Bytes.

        Raises
        ------
        BufferError
            While something looks at it.
        OutOfFrames
            If there is not as much memory; then it is as it was.
        """
        cdef size_t nbytes = size_of(n)
        cdef void *moved
        cdef heap_t *heap
        cdef void *block
        self._check()
        self._check_unseen("resized")
        heap = self.heap
        block = self.block
        # With the GIL gone another thread may come: it must neither look at the bytes nor move them.
        self.exports = -1
        if heap.debug != NULL:
            trace_note()
        with nogil:
            moved = heap_realloc(heap, block, nbytes)
        self.exports = 0
        if moved == NULL:
            check(failure().status)
        self.block = moved
        self.nbytes = <Py_ssize_t>nbytes

    @cython.critical_section
    def free(self):
        """Give the memory back now; freeing twice does nothing.

        Raises
        ------
        BufferError
            While something looks at it.
        """
        cdef heap_t *heap = self.heap
        cdef void *block = self.block
        if heap == NULL:
            return
        self._check_unseen("freed")
        self.heap = NULL
        self.block = NULL
        self.nbytes = 0
        if heap.debug != NULL:
            trace_note()
        with nogil:
            heap_free(heap, block)
            heap_release(heap)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self._check_still()
        buffer.buf = self.block
        buffer.len = self.nbytes
        buffer.readonly = False
        buffer.itemsize = 1
        buffer.format = <char *>b"B" if flags & PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = &self.nbytes
        buffer.strides = &buffer.itemsize
        buffer.suboffsets = NULL
        buffer.internal = NULL
        buffer.obj = self
        with cython.critical_section(self):
            self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        with cython.critical_section(self):
            self.exports -= 1

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """A capsule with the bytes as a DLPack tensor; the buffer stays in place while it is in use.

        Raises
        ------
        BufferError
            If a copy, a stream or another device than the CPU is asked for.
        """
        self._check_still()
        return capsule_of(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self):
        """Where it lies, as DLPack says it: the CPU."""
        return device()

    def __repr__(self):
        if self.heap == NULL:
            return "<mrm.Buffer freed>"
        return f"<mrm.Buffer of {self.nbytes} bytes at {<uint64_t>self.block:#x}>"


cdef size_t size_of(object n) except? 0xFFFFFFFFFFFFFFFF:
    """Bytes, checked."""
    cdef Py_ssize_t nbytes
    if type(n) is not int:
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise ArgumentError(f"a size is an int of bytes, not {n!r}")
        n = n.__index__()
    if n < 0 or n >= 1 << 63:
        raise ArgumentError(f"a size is 0 or more bytes, and less than 2**63, not {n!r}")
    nbytes = n
    return <size_t>nbytes


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
