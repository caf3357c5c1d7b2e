"""The sizes that the machine sets: pages, page tables and addresses. The one place that asks."""

from libc.stdint cimport uint32_t, uint64_t


cdef uint64_t base_page() noexcept nogil
cdef uint64_t frame_bytes() noexcept nogil
cdef uint64_t table_span() noexcept nogil
cdef uint64_t sharing_span() noexcept nogil
cdef uint32_t address_bits() noexcept nogil
cdef uint64_t low_start() noexcept nogil
cdef uint64_t low_end() noexcept nogil
