"""Bytes as a DLPack tensor: https://dmlc.github.io/dlpack/latest/c_api.html.

Who knows DLPack 1.0 says so (max_version), and gets a tensor that can be written to; an older form, whose consumers
take it to be read-only, is for the others. A tensor holds a buffer of what it shows, as a memoryview does:
whoever exports it sees to it that it stays in place while it is looked at.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free


cdef struct tensor_t:
    void *data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

# What both forms have behind them.
cdef struct shown_t:
    int64_t shape[1]
    int64_t strides[1]
    Py_buffer buffer

cdef struct unversioned_t:
    tensor_t tensor
    void *context
    void (*deleter)(unversioned_t *tensor) noexcept
    shown_t shown

cdef struct versioned_t:
    uint32_t major
    uint32_t minor
    void *context
    void (*deleter)(versioned_t *tensor) noexcept
    uint64_t flags
    tensor_t tensor
    shown_t shown

cdef enum:
    DL_CPU = 1
    DL_UINT = 1


cdef tuple device():
    """Where such bytes lie, as DLPack says it: the CPU."""
    return (DL_CPU, 0)


cdef int show(object exporter, tensor_t *tensor, shown_t *shown) except -1:
    """Describe the bytes of an exporter, and hold them."""
    PyObject_GetBuffer(exporter, &shown.buffer, PyBUF_WRITABLE)
    shown.shape[0] = shown.buffer.len
    shown.strides[0] = 1
    tensor.data = shown.buffer.buf
    tensor.device_type = DL_CPU
    tensor.ndim = 1
    tensor.code = DL_UINT
    tensor.bits = 8
    tensor.lanes = 1
    tensor.shape = shown.shape
    tensor.strides = shown.strides
    return 0


cdef object capsule_of(object exporter, object stream, object max_version, object dl_device, object copy):
    """A capsule with the bytes of an exporter of the buffer protocol, as a vector of uint8.

    Raises BufferError if a copy, a stream or another device than the CPU is asked for.
    """
    cdef unversioned_t *old
    cdef versioned_t *new
    cdef void *made
    if stream is not None or copy or (dl_device is not None and tuple(dl_device) != device()):
        raise BufferError("it is memory of the CPU, and shared without a copy")
    versioned = max_version is not None and max_version[0] >= 1
    made = calloc(1, sizeof(versioned_t) if versioned else sizeof(unversioned_t))
    if made == NULL:
        raise MemoryError
    try:
        if versioned:
            new = <versioned_t *>made
            new.major = 1
            new.deleter = _end_versioned
            show(exporter, &new.tensor, &new.shown)
            return PyCapsule_New(new, b"dltensor_versioned", _end_capsule)
        old = <unversioned_t *>made
        old.deleter = _end_unversioned
        show(exporter, &old.tensor, &old.shown)
        return PyCapsule_New(old, b"dltensor", _end_capsule)
    except BaseException:
        free(made)
        raise


# The consumer has done with it.

cdef void _end_unversioned(unversioned_t *managed) noexcept with gil:
    PyBuffer_Release(&managed.shown.buffer)
    free(managed)


cdef void _end_versioned(versioned_t *managed) noexcept with gil:
    PyBuffer_Release(&managed.shown.buffer)
    free(managed)


cdef void _end_capsule(object capsule) noexcept:
    """Nobody took the tensor out of its capsule: a consumer renames it."""
    if PyCapsule_IsValid(capsule, b"dltensor"):
        _end_unversioned(<unversioned_t *>PyCapsule_GetPointer(capsule, b"dltensor"))
    elif PyCapsule_IsValid(capsule, b"dltensor_versioned"):
        _end_versioned(<versioned_t *>PyCapsule_GetPointer(capsule, b"dltensor_versioned"))
