"""Every system call that mrm makes, by one funnel that a script can make fail.

``call(CALL_..., ...)`` returns what the kernel returned, or ``-errno``, counts
itself for its thread, and takes no lock. Two things can be put in its way, for
tests and for measuring what is ours alone:

- a *script* lets every call through but the n-th of some kind, which fails with a
  chosen errno without being made, and records what passed;
- the *fake* makes no call at all and says yes: mmap and mremap hand out addresses
  that must not be touched. A pool of a million frames opens on it in an instant.

The cost of the question whether one of them is there is a load and a branch, some
hundred times less than the cheapest call.
"""

import errno as _errno
import os as _os

from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc

from mrm import errors


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_load32(const uint32_t *p)
    void mrm_store32(uint32_t *p, uint32_t v)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED

cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    static const struct { long number; const char *name; } mrm_calls[] = {
        {-1, "none"},
        {SYS_mmap, "mmap"},
        {SYS_munmap, "munmap"},
        {SYS_mremap, "mremap"},
        {SYS_mprotect, "mprotect"},
        {SYS_madvise, "madvise"},
        {SYS_memfd_create, "memfd_create"},
        {SYS_openat, "openat"},
        {SYS_close, "close"},
        {SYS_ftruncate, "ftruncate"},
        {SYS_fallocate, "fallocate"},
        {SYS_fstatfs, "fstatfs"},
        {SYS_pread64, "pread"},
        {SYS_mbind, "mbind"},
        {SYS_get_mempolicy, "get_mempolicy"},
        {SYS_set_mempolicy, "set_mempolicy"},
        {SYS_move_pages, "move_pages"},
        {SYS_perf_event_open, "perf_event_open"},
        {SYS_ioctl, "ioctl"},
        {SYS_userfaultfd, "userfaultfd"},
        {SYS_pkey_alloc, "pkey_alloc"},
        {SYS_pkey_free, "pkey_free"},
        {SYS_unlinkat, "unlinkat"},
        {SYS_mincore, "mincore"},
        {SYS_sched_setscheduler, "sched_setscheduler"},
        {SYS_flock, "flock"},
        {SYS_fcntl, "fcntl"},
        {SYS_fchmod, "fchmod"},
        {SYS_write, "write"},
        {SYS_rt_sigprocmask, "rt_sigprocmask"},
        {SYS_prctl, "prctl"},
    };
    static _Thread_local uint64_t mrm_thread_calls;
    """
    struct _call_t "":
        long number
        const char *name
    _call_t mrm_calls[]
    uint64_t mrm_thread_calls
    long syscall(long number, ...) nogil


# ---- the script ----------------------------------------------------------------

cdef struct script_t:
    uint32_t active         # 0 lets every call through unseen
    uint32_t fake           # 1 makes no call at all
    uint32_t kinds          # bit k: calls of kind k are counted
    int error               # errno of a call made to fail
    uint64_t first          # the counted call that fails first, from 1; 0 none
    uint64_t last           # ... and last
    uint64_t counted        # calls counted so far
    uint64_t fake_next      # next address that the fake hands out
    uint64_t fake_end       # where its addresses end; 0 nowhere
    uint64_t recorded       # calls recorded, or that would have been

cdef struct record_t:
    int which
    int64_t arguments[6]
    int64_t result

cdef enum:
    RECORDS = 65536

cdef script_t script
cdef record_t *records = NULL
script.fake_next = 0x200000000000

# The funnel's own index, for Python.
KINDS = {mrm_calls[i].name.decode(): i for i in range(1, CALLS)}


cdef int64_t _fake_result(int which, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e) noexcept nogil:
    """What a kernel that maps nothing says."""
    cdef uint64_t bytes_, gib = 1 << 30
    if which == CALL_MMAP:
        bytes_ = (<uint64_t>b + 2 * gib - 1) & ~(gib - 1)
        if script.fake_end and (<uint64_t>a if a else script.fake_next) + <uint64_t>b > script.fake_end:
            return -ENOMEM
        if a:
            return a
        return <int64_t>(mrm_add64(&script.fake_next, bytes_) - bytes_)
    if which == CALL_MREMAP:
        return e
    if which == CALL_MEMFD_CREATE:
        return 1 << 24
    return 0


cdef int64_t _scripted(int which, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) noexcept nogil:
    cdef int64_t result
    cdef uint64_t turn
    cdef record_t *entry
    result = 1
    if script.kinds >> which & 1:
        turn = mrm_add64(&script.counted, 1)
        if script.first and script.first <= turn <= script.last:
            result = -script.error
    if result == 1:
        if script.fake:
            result = _fake_result(which, a, b, c, d, e)
        else:
            result = syscall(mrm_calls[which].number, a, b, c, d, e, f)
            if result == -1:
                result = -errno
    if records != NULL:
        turn = mrm_add64(&script.recorded, 1) - 1
        if turn < RECORDS:
            entry = &records[turn]
            entry.which = which
            entry.arguments[0] = a
            entry.arguments[1] = b
            entry.arguments[2] = c
            entry.arguments[3] = d
            entry.arguments[4] = e
            entry.arguments[5] = f
            entry.result = result
    return result


# ---- the funnel ----------------------------------------------------------------

cdef int64_t call(
    int which, int64_t a=0, int64_t b=0, int64_t c=0, int64_t d=0, int64_t e=0, int64_t f=0
) noexcept nogil:
    """Make one system call; what it returned, or ``-errno``."""
    global mrm_thread_calls
    cdef int64_t result
    mrm_thread_calls += 1
    if mrm_load32(&script.active):
        return _scripted(which, a, b, c, d, e, f)
    result = syscall(mrm_calls[which].number, a, b, c, d, e, f)
    return -errno if result == -1 else result


cdef int64_t map_file(void *at, size_t nbytes, int prot, int flags, int fd, uint64_t offset) noexcept nogil:
    """mmap of a file; the address, or ``-errno``."""
    return call(CALL_MMAP, <int64_t>at, <int64_t>nbytes, prot, flags, fd, <int64_t>offset)


cdef int64_t seal(void *at, size_t nbytes) noexcept nogil:
    """Make a range trap while it stays reserved, in one invalidation.

    A mapping of PROT_NONE over whatever is there: it costs what munmap does, and the
    addresses stay taken. mprotect costs twice as much and sends two shootdowns.
    """
    return call(
        CALL_MMAP, <int64_t>at, <int64_t>nbytes, PROT_NONE,
        MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
    )


cdef int64_t advise(void *at, size_t nbytes, int advice) noexcept nogil:
    """madvise; 0 or ``-errno``."""
    return call(CALL_MADVISE, <int64_t>at, <int64_t>nbytes, advice)


cdef int64_t fallocate(int fd, int mode, uint64_t offset, uint64_t nbytes) noexcept nogil:
    """Space in a file, or a hole (mode); 0 or ``-errno``. A signal in between makes it begin anew."""
    cdef int64_t got
    while True:
        got = call(CALL_FALLOCATE, fd, mode, <int64_t>offset, <int64_t>nbytes)
        if got != -EINTR:
            return got


cdef const char *call_name(int which) noexcept nogil:
    """The call's name as its manual page has it."""
    return mrm_calls[which if 0 <= which < CALLS else 0].name


cdef uint64_t calls_made() noexcept nogil:
    """System calls that this thread has made through the funnel."""
    return mrm_thread_calls


cdef bint is_fake() noexcept nogil:
    """Whether the fake is in place, whose addresses must not be touched."""
    return script.fake != 0


# ---- from Python ---------------------------------------------------------------

def system_call(str name, *arguments):
    """Make one system call by name, without the GIL.

    Parameters
    ----------
    name : str
        One of ``KINDS``.
    *arguments : int or bytes
        Up to six; bytes are passed as their address.

    Returns
    -------
    int
        What the kernel returned.

    Raises
    ------
    OSError
        With the kernel's errno.
    """
    cdef int64_t values[6]
    cdef int which = KINDS[name]
    cdef int64_t result
    if len(arguments) > 6:
        raise TypeError("a system call takes six arguments at the most")
    for i in range(6):
        values[i] = 0
    for i, argument in enumerate(arguments):
        if isinstance(argument, bytes):
            values[i] = <int64_t><char *>(<bytes>argument)
        else:
            # Python's integers may be addresses beyond 2**63, which mean the same bits.
            values[i] = <int64_t><uint64_t>(argument & 0xFFFFFFFFFFFFFFFF)
    with nogil:
        result = call(which, values[0], values[1], values[2], values[3], values[4], values[5])
    if result < 0 and result > -4096:
        raise OSError(-result, _os.strerror(-result), name)
    return result


def thread_calls():
    """System calls that this thread has made through the funnel, as an int."""
    return calls_made()


class Script:
    """Makes chosen system calls fail, or makes none at all, and records what passed.

    A context manager; one at a time in a process. For tests, and for measuring what
    is ours alone.

    Parameters
    ----------
    fail : int, optional
        Which counted call fails first, from 1; 0 (the default) lets all pass.
    times : int or None, optional
        How many fail from there on; None means all of them.
    error : int, optional
        The errno that they fail with; ENOMEM when not given.
    kinds : iterable of str, optional
        Which calls are counted; all when not given.
    fake : bool, optional
        Make no call at all: mappings get addresses that must not be touched.
    address_bits : int, optional
        Bits that the fake's addresses have, half of them in use; without end when not given.
    record : bool, optional
        Keep the first 65,536 calls, for ``calls()``.
    """

    def __init__(self, fail=0, *, times=1, error=_errno.ENOMEM, kinds=None, fake=False, address_bits=None, record=True):
        self._fail = fail
        self._last = 2**63 if times is None else fail + times - 1
        self._error = error
        self._kinds = KINDS if kinds is None else kinds
        self._fake = fake
        self._bits = address_bits
        self._record = record

    def __enter__(self):
        global records
        if script.active:
            raise errors.ArgumentError("a script is in place already: leave it first")
        script.kinds = 0
        for kind in self._kinds:
            script.kinds |= 1 << <int>KINDS[kind]
        script.error = self._error
        script.first = self._fail
        script.last = self._last
        script.counted = 0
        script.recorded = 0
        script.fake = self._fake
        self._fake_next = script.fake_next
        if self._bits:
            script.fake_end = <uint64_t>1 << <int>self._bits
            script.fake_next = script.fake_end // 2
        if self._record and records == NULL:
            records = <record_t *>calloc(RECORDS, sizeof(record_t))
            if records == NULL:
                raise MemoryError
        mrm_store32(&script.active, 1)
        return self

    def __exit__(self, *exception):
        # The records stay where they are: another thread may be writing one.
        self._counted = script.counted
        self._calls = self._read()
        mrm_store32(&script.active, 0)
        script.fake = 0
        if script.fake_end:
            script.fake_end = 0
            script.fake_next = self._fake_next
        script.first = 0

    @property
    def counted(self):
        """Calls counted so far, those that failed included."""
        return self._counted if hasattr(self, "_counted") else script.counted

    def calls(self):
        """What passed: a list of ``(name, arguments, result)``."""
        return self._calls if hasattr(self, "_calls") else self._read()

    def _read(self):
        cdef uint64_t n = min(script.recorded, <uint64_t>RECORDS)
        if records == NULL:
            return []
        return [
            (
                call_name(records[i].which).decode(),
                tuple(records[i].arguments[j] for j in range(6)),
                records[i].result,
            )
            for i in range(n)
        ]
