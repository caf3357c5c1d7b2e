"""The failure record of a thread, and the statuses that functions return."""

from libc.stdint cimport int32_t, uint64_t

from mrm cimport mrm_failure


cdef extern from "system/failure.h" nogil:
    int mrm_fail(
        mrm_failure *failure, int status, int call, int error,
        const void *address, size_t nbytes, const char *format, ...
    ) noexcept


cdef mrm_failure *failure() noexcept nogil
cdef void failure_longer(const char *text) noexcept nogil
cdef int check(int status) except -1
cdef int remember(object error, size_t nbytes) noexcept
