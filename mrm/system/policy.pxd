"""The calling thread's memory policy, changed for a moment."""

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    POLICY_BIND = 2             # MPOL_...: from these nodes, and no others
    POLICY_INTERLEAVE = 3       # from each of them in turn, by the offset in the file
    NODE_WORDS = 16             # of a mask: 1024 nodes


cdef struct policy_t:
    int mode                    # and its flags
    uint64_t mask[NODE_WORDS]


cdef void policy_begin(policy_t *policy, int mode) noexcept nogil
cdef void policy_add(policy_t *policy, uint32_t node) noexcept nogil
# MRM_OK, or a failure that says so.
cdef int policy_get(policy_t *policy) noexcept nogil
cdef int policy_set(const policy_t *policy) noexcept nogil
