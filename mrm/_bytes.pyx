"""What mrm.Buffer and an adaptor's Block have in common: bytes that can be looked at, and stay while they are.

Both are a block of memory with the buffer protocol and DLPack. ``exports`` counts who looks: while somebody
does, the block neither moves nor goes, and PinnedError says so. While a thread resizes it the count is -1: that
thread lets go of the GIL, and nobody may begin to look. Where there is no GIL, the count is asked and changed in
one critical section of the object.

How it is changed and ended is for the kinds to say: a Buffer's block is the heap's own (_buffer.pyx), a Block's goes
through the adaptors that made it (adaptors/block.pyx).
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from mrm._dlpack cimport capsule_of, device
from mrm.errors import ArgumentError, ClosedError, PinnedError
from mrm.heap.blocks cimport heap_free
from mrm.heap.heap cimport heap_release


# No garbage collector: it refers to no Python object. The free list is what makes a small Buffer cost little more
# than a bytearray. Cython has it on a base alone, and it serves a kind that is as large: one that adds no field.
@cython.no_gc
@cython.freelist(64)
cdef class Bytes:
    """Bytes in a heap; made by its ``buffer(n)``."""

    def __init__(self):
        raise TypeError("bytes in a heap are made by heap.buffer(n)")

    def __dealloc__(self):
        give_back(self)

    # What follows is for the kinds to say, as the header lists it; nobody makes one that is neither.

    cdef str _title(self):
        """What its repr calls it."""
        raise NotImplementedError

    cdef bint _gone(self) noexcept:
        """Whether it was freed, or never made."""
        return True

    cdef int _change(self, size_t nbytes) except -1:
        """Have the block be so many bytes; if that fails it is as it was."""
        raise NotImplementedError

    cdef int _end(self) except -1:
        """Free the block, and let go of the heap; it is gone before anything is called that lets the GIL go."""
        raise NotImplementedError

    cdef str _word(self):
        """What errors call it."""
        return self._title().rpartition(".")[2].lower()

    cdef int _check(self) except -1:
        if self._gone():
            raise ClosedError(f"the {self._word()} was freed; ask its heap for another")
        return 0

    cdef int _check_unseen(self, str what) except -1:
        """It is there, and nobody looks at it, or moves it."""
        self._check()
        if self.exports > 0:
            raise PinnedError(
                f"{self.exports} views look at the {self._word()}: release them (del the arrays, "
                f"memoryview.release()) before it is {what}"
            )
        if self.exports < 0:
            raise PinnedError(
                f"another thread is resizing the {self._word()}: it can be {what} when that is done"
            )
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

        Contents stay, up to the smaller of both sizes. Above 1 MiB it grows without a byte being
        copied: in place, or by moving its frames to other addresses.

        Parameters
        ----------
        n : int
            Bytes.

        Raises
        ------
        PinnedError
            While something looks at it; it is a BufferError, too.
        OutOfFrames
            If there is not as much memory; then it is as it was.
        """
        cdef size_t nbytes = size_of(n)
        self._check_unseen("resized")
        self.exports = -1
        try:
            self._change(nbytes)
            self.nbytes = <Py_ssize_t>nbytes
        finally:
            self.exports = 0

    @cython.critical_section
    def free(self):
        """Give the memory back now; freeing twice does nothing.

        Raises
        ------
        PinnedError
            While something looks at it; it is a BufferError, too.
        """
        if self._gone():
            return
        self._check_unseen("freed")
        self.nbytes = 0
        self._end()

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        with cython.critical_section(self):
            self._check()
            if self.exports < 0:
                raise PinnedError(
                    f"another thread is resizing the {self._word()}: look at it when that is done"
                )
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
            self.exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        with cython.critical_section(self):
            self.exports -= 1

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """A capsule with the bytes as a DLPack tensor; they stay in place while it is in use.

        Raises
        ------
        BufferError
            If a copy, a stream or another device than the CPU is asked for; as PinnedError, while another
            thread resizes them.
        """
        return capsule_of(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self):
        """Where it lies, as DLPack says it: the CPU."""
        return device()

    def __repr__(self):
        if self._gone():
            return f"<{self._title()} freed>"
        return f"<{self._title()} of {self.nbytes} bytes at {<uint64_t>self.block:#x}>"


cdef void give_back(Bytes self) noexcept nogil:
    """Free the block, if it has one, and let go of the heap."""
    cdef heap_t *heap = self.heap
    cdef void *block = self.block
    if heap == NULL:
        return
    self.heap = NULL
    self.block = NULL
    heap_free(heap, block)      # NULL is none
    heap_release(heap)


cdef size_t size_checked(object n) except? 0xFFFFFFFFFFFFFFFF:
    """The same for what is no plain size: some other integer, or a mistake."""
    if type(n) is not int:
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise ArgumentError(f"a size is an int of bytes, not {n!r}")
        n = n.__index__()
    if n < 0 or n >= 1 << 63:
        raise ArgumentError(f"a size is 0 or more bytes, and less than 2**63, not {n!r}")
    return n
