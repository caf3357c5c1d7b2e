"""/proc/self/maps without the GIL: how many mappings there are, and what one range shows."""

from libc.stdint cimport int64_t, uint64_t


cdef struct mapping_t:
    uint64_t start
    uint64_t end
    uint64_t offset             # into the file, if there is one
    uint64_t inode              # 0: no file
    int protection              # PROT_READ and PROT_WRITE


cdef int64_t maps_count() noexcept nogil
cdef int64_t maps_limit() noexcept nogil
cdef int64_t maps_within(uint64_t start, uint64_t end, mapping_t *found, size_t room) noexcept nogil
