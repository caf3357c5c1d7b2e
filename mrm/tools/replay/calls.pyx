"""A log as an array of calls: a million lines in a fraction of a second.

The columns are those that mrm.adaptors.log writes, in that order. Only the last one, the line of the program,
can be quoted; it is left where it is until somebody asks for it. A last line without an end is what a
process that was killed leaves behind: it is left out, and said.
"""

import csv

from libc.stdint cimport UINT64_MAX
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp

from mrm.adaptors.log import COLUMNS
from mrm.errors import ArgumentError

cdef enum:
    SECONDS, THREAD, ACTION, ADDRESS, NBYTES, WAS, ALIGNMENT, WHERE, NUMBER_OF_COLUMNS

ACTIONS = ("malloc", "calloc", "aligned", "realloc", "free")


cdef inline int digit_of(char c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    if c'A' <= c <= c'F':
        return c - c'A' + 10
    return 99


cdef bint number_of(const char *p, const char *end, uint64_t *value) noexcept nogil:
    """A number, decimal or 0x...; nothing is 0. False if it is none, or needs more than 64 bits."""
    cdef uint64_t base = 10, result = 0
    cdef int digit
    if end - p > 2 and p[0] == c'0' and p[1] == c'x':
        base = 16
        p += 2
    while p < end:
        digit = digit_of(p[0])
        if <uint64_t>digit >= base or result > (UINT64_MAX - <uint64_t>digit) // base:
            return False
        result = result * base + <uint64_t>digit
        p += 1
    value[0] = result
    return True


cdef bint seconds_of(const char *p, const char *end, double *value) noexcept nogil:
    """Seconds with a point in it, as Log writes them."""
    cdef double result = 0, unit = 1
    cdef bint fraction = False
    while p < end:
        if p[0] == c'.' and not fraction:
            fraction = True
        elif c'0' <= p[0] <= c'9':
            result = result * 10 + (p[0] - c'0')
            if fraction:
                unit *= 10
        else:
            return False
        p += 1
    value[0] = result / unit
    return True


cdef int kind_of(const char *p, const char *end) noexcept nogil:
    """A method by its name; CALL_KINDS for none."""
    cdef size_t n = end - p
    if n == 6 and memcmp(p, b"malloc", 6) == 0:
        return CALL_MALLOC
    if n == 4 and memcmp(p, b"free", 4) == 0:
        return CALL_FREE
    if n == 7 and memcmp(p, b"realloc", 7) == 0:
        return CALL_REALLOC
    if n == 6 and memcmp(p, b"calloc", 6) == 0:
        return CALL_CALLOC
    if n == 7 and memcmp(p, b"aligned", 7) == 0:
        return CALL_ALIGNED
    return CALL_KINDS


cdef const char *end_of_line(const char *p, const char *end) noexcept nogil:
    """Where the last column ends: at the end of the line, unless that is quoted; NULL if there is none."""
    if p < end and p[0] == c'"':
        p += 1
        while p < end and (p[0] != c'"' or (p + 1 < end and p[1] == c'"')):
            p += 2 if p[0] == c'"' else 1
    return <const char *>memchr(p, c'\n', end - p) if p < end else NULL


cdef const char *call_of(const char *line, const char *end, call_t *call, int *wrong) noexcept nogil:
    """Read a line; returns where the next begins.

    NULL if the line has no end; and with ``wrong`` set if a column makes no sense, which it names.
    """
    cdef const char *begins[NUMBER_OF_COLUMNS]
    cdef const char *p = line
    cdef const char *stop
    cdef int column
    cdef uint64_t thread = 0
    wrong[0] = -1
    for column in range(WHERE):
        begins[column] = p
        while p < end and p[0] != c',' and p[0] != c'\n':
            p += 1
        if p == end:
            return NULL
        if p[0] == c'\n':
            wrong[0] = column
            return NULL
        p += 1
    begins[WHERE] = p
    stop = end_of_line(p, end)
    if stop == NULL:
        return NULL
    call.kind = <uint8_t>kind_of(begins[ACTION], begins[ADDRESS] - 1)
    if call.kind == CALL_KINDS:
        wrong[0] = ACTION
    elif not seconds_of(begins[SECONDS], begins[THREAD] - 1, &call.seconds):
        wrong[0] = SECONDS
    elif not number_of(begins[THREAD], begins[ACTION] - 1, &thread) or thread >> 32:
        wrong[0] = THREAD
    elif not number_of(begins[ADDRESS], begins[NBYTES] - 1, &call.address):
        wrong[0] = ADDRESS
    elif not number_of(begins[NBYTES], begins[WAS] - 1, &call.nbytes):
        wrong[0] = NBYTES
    elif not number_of(begins[WAS], begins[ALIGNMENT] - 1, &call.was):
        wrong[0] = WAS
    elif not number_of(begins[ALIGNMENT], begins[WHERE] - 1, &call.alignment):
        wrong[0] = ALIGNMENT
    if wrong[0] >= 0:
        return NULL
    call.thread = <uint32_t>thread
    call.block = NO_BLOCK
    return stop + 1


cdef class Calls:
    """Every call of a log.

    Parameters
    ----------
    path : path
        A file that ``mrm.adaptors.Log`` wrote.

    Attributes
    ----------
    n : int
        How many.
    cut_off : bool
        Whether the last line had no end.
    """

    def __init__(self, path):
        if self.text is not None:
            raise TypeError("a log is read once")
        self.name = str(path)
        with open(path, "rb") as file:
            self.text = file.read()
        cdef bytes header = ",".join(COLUMNS).encode() + b"\n"
        if not self.text.startswith(header):
            raise ArgumentError(
                f"{path} is no log of calls: it does not begin with {','.join(COLUMNS)!r}, as mrm.adaptors.Log writes"
            )
        cdef const char *begin = self.text
        cdef const char *p = begin + len(header)
        cdef const char *end = begin + len(self.text)
        cdef const char *after
        cdef size_t room = 0
        cdef void *more
        cdef int wrong = -1
        with nogil:
            while p < end:
                if self.n == room:
                    room = room * 2 if room else 1 << 16
                    more = realloc(self.call, room * sizeof(call_t))
                    if more == NULL:
                        break
                    self.call = <call_t *>more
                self.call[self.n].line = p - begin
                after = call_of(p, end, &self.call[self.n], &wrong)
                if after == NULL:
                    break
                self.n += 1
                p = after
        if wrong >= 0:
            line = self.text[p - begin:].partition(b"\n")[0].decode(errors="replace")
            raise ArgumentError(f"{path}:{self.n + 2}: {line!r} has no sense in its column {COLUMNS[wrong]!r}")
        if p < end and self.n == room:
            raise MemoryError
        self.cut_off = p < end
        if self.n >= NO_BLOCK:
            raise ArgumentError(f"{path} has {self.n} calls, more than the {NO_BLOCK - 1} that are counted; cut it")

    def __dealloc__(self):
        free(self.call)

    def __len__(self):
        return self.n

    cdef str where(self, size_t i):
        """The last column of a call: which line of the program it came from, if that was written."""
        cdef const char *begin = self.text
        cdef const char *p = begin + self.call[i].line
        cdef const char *end = begin + len(self.text)
        cdef int _column
        for _column in range(WHERE):
            p = <const char *>memchr(p, c',', end - p) + 1
        cdef const char *stop = end_of_line(p, end)
        text = p[:stop - p].decode(errors="replace")
        return next(csv.reader([text]))[0] if text.startswith('"') else text
