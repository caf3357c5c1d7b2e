"""What this kernel can do, found out by trying."""


cdef enum:
    FEATURE_MREMAP = 0          # mremap of hugetlb mappings (5.16)
    FEATURE_POPULATE            # MADV_POPULATE_READ and _WRITE (5.14)
    FEATURE_ZAP                 # MADV_DONTNEED on hugetlb mappings (5.18)
    FEATURES


cdef bint feature_missing(int feature) noexcept nogil
cdef void feature_is_missing(int feature) noexcept nogil
