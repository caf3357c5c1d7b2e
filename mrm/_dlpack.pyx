"""Bytes as a DLPack tensor: https://dmlc.github.io/dlpack/latest/c_api.html, in its unversioned form.

A tensor holds a buffer of what it shows, as a memoryview does: whoever exports it sees to it that it stays in
place while it is looked at.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint64_t
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

cdef struct managed_t:
    tensor_t tensor
    void *context
    void (*deleter)(managed_t *tensor) noexcept
    int64_t shape[1]
    Py_buffer buffer

cdef enum:
    DL_CPU = 1
    DL_UINT = 1


cdef tuple device():
    """Where such bytes lie, as DLPack says it: the CPU."""
    return (DL_CPU, 0)


cdef object capsule_of(object exporter, object stream, object dl_device, object copy):
    """A capsule with the bytes of an exporter of the buffer protocol, as a vector of uint8.

    Raises BufferError if a copy, a stream or another device than the CPU is asked for.
    """
    cdef managed_t *managed
    if stream is not None or copy or (dl_device is not None and tuple(dl_device) != device()):
        raise BufferError("it is memory of the CPU, and shared without a copy")
    managed = <managed_t *>calloc(1, sizeof(managed_t))
    if managed == NULL:
        raise MemoryError
    try:
        PyObject_GetBuffer(exporter, &managed.buffer, PyBUF_SIMPLE)
    except BaseException:
        free(managed)
        raise
    managed.tensor.data = managed.buffer.buf
    managed.tensor.device_type = DL_CPU
    managed.tensor.ndim = 1
    managed.tensor.code = DL_UINT
    managed.tensor.bits = 8
    managed.tensor.lanes = 1
    managed.tensor.shape = managed.shape
    managed.shape[0] = managed.buffer.len
    managed.deleter = _end_tensor
    return PyCapsule_New(managed, b"dltensor", _end_capsule)


cdef void _end_tensor(managed_t *managed) noexcept with gil:
    """The consumer has done with it."""
    PyBuffer_Release(&managed.buffer)
    free(managed)


cdef void _end_capsule(object capsule) noexcept:
    """Nobody took the tensor out of its capsule: a consumer renames it."""
    if PyCapsule_IsValid(capsule, b"dltensor"):
        _end_tensor(<managed_t *>PyCapsule_GetPointer(capsule, b"dltensor"))
