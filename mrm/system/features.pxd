"""Which features this kernel has: the one table, and how each is tried."""

from libc.stdint cimport int64_t


# The rows of the table, in its order (features.pyx).
cdef enum:
    FEATURE_MREMAP = 0          # mremap of hugetlb mappings
    FEATURE_POPULATE            # MADV_POPULATE_READ and _WRITE
    FEATURE_ZAP                 # MADV_DONTNEED on hugetlb mappings
    FEATURE_SHARING             # mappings of one GiB of huge pages share page tables
    FEATURE_COLLAPSE            # MADV_COLLAPSE
    FEATURE_MANY                # mremap over several mappings
    FEATURE_NOREPLACE           # MAP_FIXED_NOREPLACE
    FEATURE_MEMFD               # huge pages in a memfd
    FEATURE_UNNAMED             # files without a name on hugetlbfs
    FEATURE_ACCOUNTING          # huge pages count as memory of the control group
    FEATURE_USERFAULTFD
    FEATURE_MINOR_FAULTS        # userfaultfd's, of huge pages
    FEATURE_KEYS                # protection keys
    FEATURE_TRACEPOINT          # tlb:tlb_flush of this process
    FEATURES


# Whether plans go without it: it is not there, or a test pretends so. One load.
cdef bint feature_missing(int feature) noexcept nogil
# What a trial has found, by somebody who can try it and this file cannot.
cdef void feature_found(int feature, bint there) noexcept nogil
# The kernel has refused it in use, whatever the trial said.
cdef void feature_is_missing(int feature) noexcept nogil
cdef bint feature_unknown(int feature) noexcept nogil
# Try those that commits and pools use, on a file of huge pages (-1: on one of its own).
cdef void features_try(int fd, int64_t page_size) noexcept nogil
