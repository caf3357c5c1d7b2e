"""The blocks of a heap as Python has them: by address, and in buffers and arrays that own theirs.

What is done is in mrm/heap; here arguments become sizes, and statuses exceptions. A call on small
blocks keeps the GIL, which would cost more to let go than the call does; one that may map, clear or copy
much lets it go. How a heap is opened, looked at and closed is Heap's, the class above this one (_heap.pyx).

Nobody makes one of these: a Heap is one. Without a GIL methods run in their object's critical section (see
_core.pyx).
"""

import operator

cimport cython
from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from mrm cimport MRM_OK
from mrm._buffer cimport make_buffer
from mrm._bytes cimport size_of
from mrm.errors import ArgumentError, ClosedError
from mrm.heap.blocks cimport (
    heap_aligned, heap_calloc, heap_free, heap_malloc, heap_realloc, heap_usable_size,
)
from mrm.heap.heap cimport heap_owns, heap_release, heap_retain
from mrm.heap.local cimport heap_usable
from mrm.heap.traces cimport trace_note
from mrm.system.failure cimport check, failure
from mrm.system.ranges cimport STATE_OPEN


cdef enum:
    QUICK = 64 << 10            # bytes up to which the GIL is kept

# What a heap is asked for without the GIL.
cdef enum:
    MALLOC
    CALLOC
    REALLOC
    ALIGNED


cdef uint64_t address_of(object address) except? 0:
    """An address from Python, checked."""
    if type(address) is not int or not 0 <= address < 1 << 64:
        raise ArgumentError(f"an address is an int, not {address!r}")
    return <uint64_t>address


cdef void let_go(heap_t *heap) noexcept:
    """What comes before the GIL is let go: a heap that looks for mistakes shall know where Python was."""
    if heap.debug != NULL:
        trace_note()


cdef inline object found(void *block):
    """Where a block lies; for none, the exception of this thread's failure."""
    if block == NULL:
        check(failure().status)
    return <uint64_t>block


cdef inline object ask(heap_t *heap, int what, size_t first, size_t nbytes):
    """Ask a heap for a block without the GIL; where it lies.

    ``what`` is a constant in each call, and tells what the first number is.
    """
    cdef void *block
    heap_retain(heap)           # so may any other thread meanwhile
    let_go(heap)
    with nogil:
        if what == MALLOC:
            block = heap_malloc(heap, nbytes)
        elif what == CALLOC:
            block = heap_calloc(heap, first, nbytes)
        elif what == REALLOC:
            block = heap_realloc(heap, <void *>first, nbytes)
        else:
            block = heap_aligned(heap, first, nbytes)
        heap_release(heap)
    return found(block)


cdef class Blocks:
    """The blocks of a heap: what mrm.Heap has besides its opening, its figures and its end."""

    def __init__(self):
        raise TypeError("a heap is opened by mrm.Heap()")

    @cython.final           # called in place, and not through a table
    cdef heap_t *open_one(self) except NULL:
        if self.heap == NULL:
            raise ClosedError("the heap is closed")
        if self.heap.state != STATE_OPEN:
            check(heap_usable(self.heap))
        return self.heap

    # ---- blocks by address -------------------------------------------------------------

    @cython.critical_section
    def malloc(self, nbytes):
        """Allocate a block.

        Parameters
        ----------
        nbytes : int

        Returns
        -------
        int
            Its address, a multiple of 16. The contents are whatever they were.

        Raises
        ------
        OutOfFrames
            If there is no memory, after the pool's ``on_shortage`` was asked; nothing is allocated then.
        """
        cdef size_t n = size_of(nbytes)
        cdef heap_t *heap = self.open_one()
        cdef void *block
        if n > QUICK:
            return ask(heap, MALLOC, 0, n)
        heap_retain(heap)           # whoever is told of a shortage may close it
        block = heap_malloc(heap, n)
        heap_release(heap)
        return found(block)

    @cython.critical_section
    def calloc(self, count, size):
        """Allocate a block of ``count`` times ``size`` zero bytes; its address.

        Frames and pages that are known to be zero are not cleared.

        Raises
        ------
        ArgumentError
            If the product is more than a size can be.
        OutOfFrames
            As ``malloc``.
        """
        cdef size_t n = size_of(count), each = size_of(size)
        return ask(self.open_one(), CALLOC, n, each)

    @cython.critical_section
    def realloc(self, address, nbytes):
        """Make a block larger or smaller; where it lies afterwards.

        Contents stay, up to the smaller of both sizes. Above 1 MiB they are not copied: the block grows in place,
        or its frames move to a larger range.

        Parameters
        ----------
        address : int
            Of a block; 0 allocates one.
        nbytes : int

        Raises
        ------
        BlockError
            If no block begins there.
        OutOfFrames
            If there is not as much memory; then the block is as it was.
        """
        cdef size_t n = size_of(nbytes)
        cdef uint64_t block = address_of(address)
        return ask(self.open_one(), REALLOC, block, n)

    @cython.critical_section
    def aligned(self, alignment, nbytes):
        """Allocate a block at a multiple of ``alignment``, a power of two; its address.

        Raises
        ------
        ArgumentError
            If it is no power of two.
        OutOfFrames
            As ``malloc``.
        """
        cdef size_t at = size_of(alignment), n = size_of(nbytes)
        return ask(self.open_one(), ALIGNED, at, n)

    @cython.critical_section
    def free(self, address):
        """Free a block; 0 is none.

        Raises
        ------
        BlockError
            If no block begins there, as far as that can be told: a foreign address, a block above
            1 MiB that was freed before. A heap with ``debug`` tells of every block, and of one that was
            written around, which is freed all the same.
        """
        cdef void *block = <void *>address_of(address)
        cdef int status = heap_free(self.open_one(), block)
        if status != MRM_OK:
            check(status)

    @cython.critical_section
    def usable_size(self, address):
        """Bytes that a block has: at least what was asked for.

        Raises
        ------
        BlockError
            If no block begins there.
        """
        cdef size_t n = heap_usable_size(self.open_one(), <void *>address_of(address))
        if n == 0:
            check(failure().status)
        return n

    @cython.critical_section
    def owns(self, address):
        """Whether an address lies in the heap's memory. Looks at no block, and costs nanoseconds."""
        return bool(heap_owns(self.open_one(), <void *>address_of(address)))

    # ---- blocks that own themselves ------------------------------------------------------

    @cython.critical_section
    def buffer(self, n, zero=False):
        """A block of n bytes that Python owns: an mrm.Buffer.

        Parameters
        ----------
        n : int
        zero : bool, optional
            Have it hold zeros; else it holds whatever was there.

        Raises
        ------
        OutOfFrames
            As ``malloc``.
        """
        return make_buffer(self.open_one(), size_of(n), zero)

    def empty(self, shape, dtype="float64"):
        """A NumPy array in the heap, with whatever was there; it keeps heap and pool alive.

        Parameters
        ----------
        shape : int or tuple of int
        dtype : data-type, optional
            As ``numpy.empty`` takes them; no Python objects.

        Raises
        ------
        ArgumentError
            If NumPy is not installed, or dtype holds objects.
        OutOfFrames
            As ``malloc``.
        """
        return self._array(shape, dtype, False)

    def zeros(self, shape, dtype="float64"):
        """A NumPy array of zeros in the heap; see ``empty``."""
        return self._array(shape, dtype, True)

    def _array(self, shape, dtype, zero):
        try:
            import numpy
        except ImportError:
            raise ArgumentError("arrays need NumPy: pip install numpy; heap.buffer(n) does without") from None

        dtype = numpy.dtype(dtype)
        if dtype.hasobject:
            raise ArgumentError(f"an array of {dtype} holds Python objects, which have to live where Python puts them")
        # Python's integers, whatever they came as: NumPy's would overflow in the product.
        lengths = tuple(map(operator.index, (shape,) if hasattr(shape, "__index__") else shape))
        n = dtype.itemsize
        for length in lengths:
            n *= length
        if n < 0 or min(lengths, default=0) < 0:
            raise ArgumentError(f"{shape!r} is no shape: lengths are not negative")
        return numpy.ndarray(lengths, dtype, self.buffer(n, zero))
