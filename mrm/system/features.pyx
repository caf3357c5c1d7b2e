"""What this kernel can do, found out by trying.

Every feature is taken to be there until the kernel says EINVAL to its first use; the
code that used it then goes the other way, and so does every plan made later. No
version number is asked: distributions take features back and forth.
"""

from libc.stdint cimport uint8_t


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    void mrm_store8(uint8_t *p, uint8_t v)


cdef uint8_t missing[FEATURES]

NAMES = ("hugetlb mremap", "MADV_POPULATE_WRITE", "hugetlb MADV_DONTNEED")


cdef bint feature_missing(int feature) noexcept nogil:
    """Whether the kernel has refused the feature before."""
    return mrm_load8(&missing[feature]) != 0


cdef void feature_is_missing(int feature) noexcept nogil:
    """The kernel has refused it."""
    mrm_store8(&missing[feature], 1)


def missing_features():
    """Names of the features that this kernel was seen to lack, as a tuple of str."""
    return tuple(name for i, name in enumerate(NAMES) if missing[i])


def pretend_missing(names):
    """Go the ways of a kernel without these features, for tests; returns the earlier tuple."""
    before = missing_features()
    for i, name in enumerate(NAMES):
        mrm_store8(&missing[i], name in names)
    return before
