"""Stacks, each kept once."""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t


cdef extern from "heap/stack.h" nogil:
    ctypedef struct text_t "mrm_text":
        char *at
        size_t room
    void say "mrm_say"(text_t *text, const char *format, ...)
    uint32_t thread_number "mrm_thread_number"()


# Where a thread was. It stays for good.
cdef struct trace_t:
    trace_t *next               # in its bucket
    uint64_t hash
    uint32_t addresses          # of C's stack, which lie behind this
    uint32_t length             # bytes of text, of Python's, which lie behind those


cdef const trace_t *trace_take() noexcept nogil
cdef void trace_note() noexcept
cdef void trace_say(text_t *text, const trace_t *trace) noexcept nogil
cdef void traces_freeze() noexcept nogil
cdef void traces_thaw(bint child) noexcept nogil
