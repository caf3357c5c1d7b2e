"""Frame and slot numbers from Python: scalars, ranges, sequences and buffers.

A buffer of 32-bit unsigned integers (``array.array('I')``, numpy's uint32) is used as
it is; other integers are converted, each checked for its range. numpy is not required.
"""

from array import array

from cpython cimport array as carray
from cpython.buffer cimport PyObject_CheckBuffer
from cpython.long cimport PyLong_AsLongLongAndOverflow
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from mrm.errors import ArgumentError


cdef carray.array _template = array("I")


cdef object new_array(size_t n, uint32_t **data):
    """An ``array.array('I')`` of n numbers, and where they lie."""
    cdef carray.array made = carray.clone(_template, <Py_ssize_t>n, zero=False)
    data[0] = <uint32_t *>made.data.as_voidptr
    return made


cdef class Numbers:
    """n numbers at ``data``, for as long as this lives."""

    def __cinit__(self):
        self.data = NULL
        self.owned = NULL
        self.n = 0

    def __dealloc__(self):
        free(self.owned)


cdef uint32_t _one(object value, str what) except? 0xFFFFFFFF:
    """One number, checked."""
    cdef int64_t small
    cdef int overflow = 0
    if type(value) is int:
        small = PyLong_AsLongLongAndOverflow(value, &overflow)
        if not overflow and 0 <= small <= 0xFFFFFFFF:
            return <uint32_t>small
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{what} are integers, not {value!r}")
    number = value.__index__()
    if not 0 <= number < 2**32:
        raise ArgumentError(f"{what} are numbers from 0 to 2**32 - 1, not {number}")
    return number


cdef int _room(Numbers result, size_t n) except -1:
    result.owned = malloc(max(n, <size_t>1) * sizeof(uint32_t))
    if result.owned == NULL:
        raise MemoryError
    result.data = <uint32_t *>result.owned
    result.n = n
    return 0


ctypedef fused integer:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint64_t


cdef int _convert(Numbers result, const integer[:] source, str what) except -1:
    """Copy integers of another width, each checked for its range."""
    cdef Py_ssize_t i
    _room(result, source.shape[0])
    for i in range(source.shape[0]):
        # A negative number is beyond 2**32 as an unsigned one.
        if <uint64_t>source[i] > 0xFFFFFFFF:
            raise ArgumentError(f"{what} are numbers from 0 to 2**32 - 1, not {source[i]}")
        result.data[i] = <uint32_t>source[i]
    return 0


cdef int _from_buffer(Numbers result, object value, str what) except -1:
    """The integers of a one-dimensional buffer."""
    cdef const uint32_t[::1] exact
    view = memoryview(value)
    kind = view.format.lstrip("@=<")
    if view.ndim != 1 or len(kind) != 1 or kind not in "bBhHiIlLqQnN":
        raise ArgumentError(
            f"{what} are a one-dimensional buffer of integers, not {view.ndim}-dimensional of format {view.format!r}"
        )
    if kind in "ILN" and view.itemsize == 4 and view.contiguous:
        exact = view.cast("B").cast("I")
        result.exporter = exact
        result.n = view.shape[0]
        result.data = <uint32_t *>&exact[0] if result.n else &result.single
        return 0
    signed = kind in "bhilqn"
    if not view.contiguous:
        view = memoryview(view.tobytes()).cast(kind)
    view = view.cast("B")
    if view.nbytes == 0:
        return _room(result, 0)
    width = memoryview(value).itemsize
    if signed:
        if width == 1:
            return _convert[int8_t](result, view.cast("b"), what)
        if width == 2:
            return _convert[int16_t](result, view.cast("h"), what)
        if width == 4:
            return _convert[int32_t](result, view.cast("i"), what)
        return _convert[int64_t](result, view.cast("q"), what)
    if width == 1:
        return _convert[uint8_t](result, view.cast("B"), what)
    if width == 2:
        return _convert[uint16_t](result, view.cast("H"), what)
    if width == 4:
        exact = view.cast("I")
        result.exporter = exact
        result.n = exact.shape[0]
        result.data = <uint32_t *>&exact[0]
        return 0
    return _convert[uint64_t](result, view.cast("Q"), what)


cdef bint _is_array(object value) except -1:
    """Whether a buffer has dimensions, or is no integer at all."""
    return memoryview(value).ndim > 0 or not hasattr(value, "__index__")


cdef Numbers numbers(object value, str what):
    """The numbers that ``value`` stands for.

    Raises ArgumentError if it is not made of integers from 0 to 2**32 - 1.
    """
    cdef Numbers result = Numbers.__new__(Numbers)
    cdef Py_ssize_t i, start, step
    if type(value) is int:
        result.single = _one(value, what)
        result.data = &result.single
        result.n = 1
        return result
    if isinstance(value, range):
        if value:       # looked at before room is made: a range may be longer than any memory
            _one(value[0], what)
            _one(next(reversed(value)), what)
        _room(result, len(value))
        if result.n:
            start = value.start
            step = value.step
            for i in range(<Py_ssize_t>result.n):
                result.data[i] = <uint32_t>(start + i * step)
        return result
    # numpy's integers are buffers of no dimension, too; its arrays have an __index__ that
    # serves for one element only.
    if isinstance(value, (str, bytes, bytearray)):
        raise ArgumentError(f"{what} are an int, or integers in a sequence or buffer, not {value!r}")
    if PyObject_CheckBuffer(value) and _is_array(value):
        _from_buffer(result, value, what)
        return result
    if hasattr(value, "__index__"):
        result.single = _one(value, what)
        result.data = &result.single
        result.n = 1
        return result
    try:
        items = list(value)
    except TypeError:
        raise ArgumentError(f"{what} are an int, or integers in a sequence or buffer, not {value!r}") from None
    _room(result, len(items))
    for i in range(<Py_ssize_t>result.n):
        result.data[i] = _one(items[i], what)
    return result


cdef Numbers own_numbers(object value, str what):
    """The same, in memory of their own: for use without the GIL.

    What points into a buffer of the caller's could be written by another thread between
    a check and its use.
    """
    cdef Numbers result = numbers(value, what)
    cdef uint32_t *shared = result.data
    if result.exporter is not None:
        _room(result, result.n)
        memcpy(result.data, shared, result.n * sizeof(uint32_t))
        result.exporter = None
    return result
