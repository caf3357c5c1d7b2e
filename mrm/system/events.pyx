"""What happens, line by line, for whoever asks for it with MRM_LOG.

Pools that open and close, retires, shortages, and what else says ``event(...)``: rare
things, each of which costs system calls or worse anyway. Takes and gives are none. The
environment is read once, when this is imported:

    MRM_LOG          stderr, or the path of a file, which is added to
    MRM_LOG_FORMAT   line (the default) or json: one object a line

Off, an event costs the question whether it is on. On, a line is put together on the C
stack, without the GIL, and written by one write(2), so that lines of several threads and
processes do not mix (a file is opened to be added to). A line that cannot be written, to a
full disk or a pipe that is not read, is lost, and the next one that can says how many
were: the runtime goes on. A child after fork writes to the same file, under its own number.

A pipe that is full and blocks stops whoever writes, as with any log.
"""

import os

from libc.stdint cimport uint64_t
from libc.time cimport time_t
from posix.unistd cimport getpid

from mrm.errors import ArgumentError
from mrm.system.calls cimport CALL_WRITE, call
from mrm.system.calls import system_call


cdef extern from "<time.h>" nogil:
    struct timespec:
        time_t tv_sec
        long tv_nsec
    struct tm:
        int tm_year, tm_mon, tm_mday, tm_hour, tm_min, tm_sec
    enum:
        CLOCK_REALTIME
    int clock_gettime(int clock, timespec *now)
    tm *gmtime_r(const time_t *time, tm *result)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t size, const char *format, ...)

cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)
    bint mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)


cdef enum:
    TAIL = 3                    # bytes kept free for the end of a line

cdef int log_fd = -1
cdef bint log_json = False
cdef uint64_t lost = 0


cdef bint events_on() noexcept nogil:
    """Whether anybody asked."""
    return log_fd >= 0


# ---- a line ------------------------------------------------------------------------------

cdef inline void put(line_t *line, char byte) noexcept nogil:
    if line.n < <size_t>(LINE_BYTES - TAIL):
        line.text[line.n] = byte
        line.n += 1


cdef void put_all(line_t *line, const char *text) noexcept nogil:
    while text[0]:
        put(line, text[0])
        text += 1


cdef void put_quoted(line_t *line, const char *text) noexcept nogil:
    """A string as JSON has it; a line's is the same. UTF-8 is left as it is; it is cut between characters."""
    cdef char escape[8]
    cdef unsigned char c
    cdef size_t whole = LINE_BYTES - TAIL - 256     # the fields that follow shall have room
    put(line, c'"')
    while text[0]:
        c = <unsigned char>text[0]
        if line.n >= whole and c & 0xC0 != 0x80:
            break
        if c == c'"' or c == c'\\':
            put(line, c'\\')
            put(line, <char>c)
        elif c < 32 or c == 127:
            snprintf(escape, sizeof(escape), b"\\u%04x", <int>c)
            put_all(line, escape)
        else:
            put(line, <char>c)
        text += 1
    put(line, c'"')


cdef void put_name(line_t *line, const char *field) noexcept nogil:
    put_all(line, b', "' if line.as_json else b" ")
    put_all(line, field)
    put_all(line, b'": ' if line.as_json else b"=")


cdef void fit(line_t *line, size_t before) noexcept nogil:
    """Leave a field out that has no room any more: half a field is no field."""
    if line.n >= <size_t>(LINE_BYTES - TAIL):
        line.n = before


cdef void put_field(line_t *line, const char *field, const char *value) noexcept nogil:
    cdef size_t before = line.n
    put_name(line, field)
    put_all(line, value)
    fit(line, before)


cdef void line_begin(line_t *line, const char *event) noexcept nogil:
    """When, who, and what."""
    cdef timespec now
    cdef tm parts
    cdef char text[96]
    clock_gettime(CLOCK_REALTIME, &now)
    gmtime_r(&now.tv_sec, &parts)
    line.n = 0
    line.as_json = log_json
    snprintf(
        text, sizeof(text),
        b'{"time": "%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ", "pid": %d, "event": "' if line.as_json
        else b"%04d-%02d-%02dT%02d:%02d:%02d.%06ldZ mrm[%d] ",
        parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
        now.tv_nsec // 1000, <int>getpid(),
    )
    put_all(line, text)
    put_all(line, event)
    if line.as_json:
        put(line, c'"')


cdef void line_number(line_t *line, const char *field, int64_t value) noexcept nogil:
    """An integer."""
    cdef char text[24]
    snprintf(text, sizeof(text), b"%lld", <long long>value)
    put_field(line, field, text)


cdef void line_seconds(line_t *line, const char *field, double value) noexcept nogil:
    """A number with a fraction, to the microsecond; the locale may write it with a comma, JSON may not."""
    cdef char text[32]
    cdef int i
    if not -1e15 < value < 1e15:                    # not a number, nor anything like an event's
        value = 0
    snprintf(text, sizeof(text), b"%.6f", value)
    for i in range(<int>sizeof(text)):
        if text[i] == 0:
            break
        if text[i] == c',':
            text[i] = c'.'
    put_field(line, field, text)


cdef void line_bool(line_t *line, const char *field, bint value) noexcept nogil:
    """Yes or no."""
    put_field(line, field, b"true" if value else b"false")


cdef void line_text(line_t *line, const char *field, const char *value) noexcept nogil:
    """Words, cut off if they are very many."""
    cdef size_t before = line.n
    put_name(line, field)
    put_quoted(line, value)
    fit(line, before)


cdef void line_end(line_t *line) noexcept nogil:
    """Write the line."""
    # Whoever says how many were lost takes them off before: two that write at once do not both.
    cdef uint64_t missing = mrm_load64(&lost)
    while missing and not mrm_cas64(&lost, &missing, 0):
        pass
    if missing:
        line_number(line, b"lost", <int64_t>missing)
    if line.as_json:
        line.text[line.n] = c'}'
        line.n += 1
    line.text[line.n] = c'\n'
    line.n += 1
    if call(CALL_WRITE, log_fd, <int64_t>line.text, <int64_t>line.n) != <int64_t>line.n:
        mrm_add64(&lost, missing + 1)


# ---- from Python -------------------------------------------------------------------------

def is_on():
    """Whether events are written anywhere."""
    return events_on()


def event(kind, **fields):
    """Write an event, if anybody asked for them.

    Parameters
    ----------
    kind : str
        What happened, in a word.
    **fields : int, float, bool, str or None
        What there is to say, in this order; what is None is left out.
    """
    cdef line_t line
    cdef bytes word = kind.encode(), name, text
    if not events_on():
        return
    line_begin(&line, word)
    for field, value in fields.items():
        name = field.encode()
        if value is None:
            continue
        if isinstance(value, bool):
            line_bool(&line, name, value)
        elif isinstance(value, int):
            line_number(&line, name, value)
        elif isinstance(value, float):
            line_seconds(&line, name, value)
        else:
            text = str(value).encode("utf-8", "replace").replace(b"\0", b"?")
            line_text(&line, name, text)
    with nogil:
        line_end(&line)


def configure(where, form="line"):
    """Say where events go, as MRM_LOG and MRM_LOG_FORMAT do.

    Parameters
    ----------
    where : str or None
        ``"stderr"``, a path, or nothing.
    form : {"line", "json"}, optional

    Raises
    ------
    ArgumentError
        If there is no such format, or the file cannot be opened.
    """
    global log_fd, log_json
    cdef int before = log_fd, fd = -1
    if form not in ("line", "json"):
        raise ArgumentError(f"MRM_LOG_FORMAT is line or json, not {form!r}")
    if where == "stderr":
        fd = 2
    elif where:
        try:
            fd = system_call(
                "openat", -100, os.fsencode(where) + b"\0", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666
            )
        except OSError as error:
            raise ArgumentError(
                f"MRM_LOG: {where} cannot be written: {error.strerror}", call="openat", error=error.errno
            ) from None
    log_json = form == "json"
    log_fd = fd
    if before > 2:
        os.close(before)


def _from_environment():
    import warnings

    try:
        configure(os.environ.get("MRM_LOG"), os.environ.get("MRM_LOG_FORMAT") or "line")
    except ArgumentError as error:
        # A log is no reason for a program not to start; but it does not go missing unsaid.
        warnings.warn(f"{error}; events are not logged", RuntimeWarning, stacklevel=2)


_from_environment()
