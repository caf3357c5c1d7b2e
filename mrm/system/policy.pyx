"""The calling thread's memory policy, changed for a moment.

Where a page of shared memory comes from is decided by whoever fetches it: by the policy of the
thread, for a page fault and for fallocate alike. mbind would be of no use here. hugetlbfs has
no policy of a file's own (its mappings lack ``set_policy``, seen from 5.10 to 6.18), so mbind
marks one mapping, and only faults through that go by it: fallocate does not, nor another mapping.

What a thread had is read first and put back afterwards, flags and nodes as they were given.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from mrm cimport MRM_OK, MRM_SYSTEM_CALL
from mrm.system.calls cimport CALL_GET_MEMPOLICY, CALL_SET_MEMPOLICY, call
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "<string.h>" nogil:
    char *strerror(int error)

cdef enum:
    BITS = NODE_WORDS * 64


cdef void policy_begin(policy_t *policy, int mode) noexcept nogil:
    """A policy of that mode, without a node."""
    memset(policy, 0, sizeof(policy_t))
    policy.mode = mode


cdef void policy_add(policy_t *policy, uint32_t node) noexcept nogil:
    """Let it have this node."""
    policy.mask[node // 64] |= <uint64_t>1 << node % 64


cdef int policy_get(policy_t *policy) noexcept nogil:
    """The calling thread's own."""
    cdef int64_t got
    policy_begin(policy, 0)
    got = call(CALL_GET_MEMPOLICY, <int64_t>&policy.mode, <int64_t>policy.mask, BITS, 0, 0)
    if got == 0:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_SYSTEM_CALL, CALL_GET_MEMPOLICY, <int>-got, NULL, 0,
        b"the memory policy of this thread cannot be read (%s), and so memory cannot be fetched to a node",
        strerror(<int>-got),
    )


cdef int policy_set(const policy_t *policy) noexcept nogil:
    """Make it the calling thread's."""
    # The kernel reads one bit less than it is told.
    cdef int64_t got = call(CALL_SET_MEMPOLICY, policy.mode, <int64_t>policy.mask, BITS + 1)
    if got == 0:
        return MRM_OK
    return mrm_fail(
        failure(), MRM_SYSTEM_CALL, CALL_SET_MEMPOLICY, <int>-got, NULL, 0,
        b"the memory policy of this thread cannot be set (%s), and so memory cannot be fetched to a node; "
        b"in a container it takes CAP_SYS_NICE", strerror(<int>-got),
    )
