"""A small file of the kernel's, read at once.

In Python that is three calls, and a Ctrl-C that strikes between the first and the assignment of what it
returned leaves a descriptor open. Here nothing strikes; and it is as cheap as can be, since
some figures are looked at four times a second.
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t
from libc.stdlib cimport strtoll
from libc.string cimport strcmp


cdef extern from "<fcntl.h>" nogil:
    enum:
        O_RDONLY
        O_CLOEXEC
    int c_open "open"(const char *path, int flags)

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buffer, size_t n)
    int c_close "close"(int fd)

cdef enum:
    ROOM = 64

cdef bytes pretended_name = None
cdef const char *pretended = NULL       # the same
cdef int64_t pretended_figure = 0


cdef ssize_t _read(const char *where, char *text) noexcept nogil:
    """Bytes of a file, ROOM - 1 at most and a zero after them; 0 or less if there are none."""
    cdef ssize_t n
    cdef int fd = c_open(where, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return -1
    n = c_read(fd, text, ROOM - 1)
    while n < 0 and errno == EINTR:
        n = c_read(fd, text, ROOM - 1)
    c_close(fd)
    if n >= 0:
        text[n] = 0
    return n


cdef int64_t figure(const char *where) noexcept nogil:
    """The number that a file begins with, for who has no GIL; -1 when it cannot be read, or is no number."""
    cdef char text[ROOM]
    cdef char *end = NULL
    cdef int64_t found
    if pretended != NULL and strcmp(where, pretended) == 0:
        return pretended_figure
    if _read(where, text) <= 0:
        return -1
    found = strtoll(text, &end, 10)
    return -1 if end == text else found


def read_figure(path):
    """The number that a file consists of.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    int or None
        None when it cannot be read, or is no number.
    """
    cdef bytes name = os.fsencode(path)
    cdef const char *where = name
    cdef char text[ROOM]
    cdef ssize_t n
    if pretended_name is not None and name == pretended_name:
        return pretended_figure
    with nogil:
        n = _read(where, text)
    if n <= 0:
        return None
    try:
        return int(text[:n])
    except ValueError:
        return None


class pretend:  # noqa: N801
    """Have one file say another number, for tests, until the ``with`` ends.

    Parameters
    ----------
    path : str
        The file.
    number : int
        What it says, 0 or more.
    """

    def __init__(self, path, number):
        self._file = os.fsencode(path), number

    def __enter__(self):
        global pretended_name, pretended, pretended_figure
        pretended_name, pretended_figure = self._file
        pretended = pretended_name

    def __exit__(self, *exception):
        global pretended_name, pretended
        pretended = NULL
        pretended_name = None
