"""What is said when a frame cannot be taken, given or mapped."""

from libc.stdint cimport uint32_t

from mrm.physical.books cimport books_t
from mrm.physical.frames cimport frames_t


cdef const char *word_for(uint32_t state) noexcept nogil
cdef int refuse_frame(
    const frames_t *frames, uint32_t frame, const char *place, const char *deed
) noexcept nogil
cdef int refuse_in_array(const frames_t *frames, const uint32_t *given, size_t i) noexcept nogil
cdef int refuse_quarantine(const frames_t *frames, uint32_t frame) noexcept nogil
cdef int refuse_mapping(uint32_t frame) noexcept nogil
cdef int refuse_alias(uint32_t frame) noexcept nogil
cdef int refuse_take(const frames_t *frames, uint32_t account, int how, size_t n, size_t found) noexcept nogil
cdef int refuse_run(const frames_t *frames, uint32_t n, uint32_t longest, uint32_t free) noexcept nogil
cdef int refuse_reuse(int reuse) noexcept nogil
cdef void holders(const books_t *books, char *text, size_t nbytes) noexcept nogil
