"""What happens, line by line, for whoever asks for it with MRM_LOG."""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint32_t


cdef enum:
    LINE_BYTES = 1024


# One event in the making; on the C stack.
cdef struct line_t:
    size_t n                    # bytes written so far
    bint as_json
    char text[LINE_BYTES]


# Whether anybody asked: a load and a branch. Asked first, before a line is begun.
cdef bint events_on() noexcept nogil

# A line: begun, given its fields, and ended, which writes it. Names of fields are plain words.
cdef void line_begin(line_t *line, const char *event) noexcept nogil
cdef void line_number(line_t *line, const char *field, int64_t value) noexcept nogil
cdef void line_seconds(line_t *line, const char *field, double value) noexcept nogil
cdef void line_bool(line_t *line, const char *field, bint value) noexcept nogil
cdef void line_text(line_t *line, const char *field, const char *value) noexcept nogil
cdef void line_end(line_t *line) noexcept nogil
