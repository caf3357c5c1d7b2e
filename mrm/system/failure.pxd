"""The failure record of a thread, and the statuses that functions return."""

from libc.stdint cimport int32_t, uint64_t


cdef extern from "mrm/mrm.h" nogil:
    enum:
        MRM_OK
        MRM_BAD_ARGUMENT
        MRM_BAD_FRAME
        MRM_OUT_OF_FRAMES
        MRM_BAD_SLOT
        MRM_NO_ADDRESSES
        MRM_SYSTEM_CALL
        MRM_CLOSED
        MRM_FORKED
        MRM_NO_MEMORY
        MRM_INCONSISTENT
        MRM_UNFUNDED

    ctypedef struct mrm_failure:
        int32_t status
        int32_t call
        int32_t error
        uint64_t address
        uint64_t bytes
        char text[768]


cdef extern from "system/failure.h" nogil:
    int mrm_fail(
        mrm_failure *failure, int status, int call, int error,
        const void *address, size_t nbytes, const char *format, ...
    ) noexcept


cdef mrm_failure *failure() noexcept nogil
cdef int check(int status) except -1
