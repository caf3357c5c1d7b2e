"""Where the books of a pool lie: memory that others may look at, and nobody but the owner writes.

Watching costs the owner nothing, because nothing is done for it: what a pool counts and
keeps lists in anyway (stacks, records of frames, accounts, funds, figures) lies in a memfd
of its own, and a watcher reads that. It finds the file among the owner's descriptors, as
/proc/PID/fd/N, so that the kernel says who may look: whoever may trace the process by its
ids and capabilities (PTRACE_MODE_READ), which other users may not.

It reads by pread, not through a mapping: a read of what was never written takes no page,
where a touch of shared memory would, and no signal can come of it. The file is sealed: it
keeps its size, and the owner's mapping is the only one there will ever be that is
writable, so that not even a process of the same user spoils the books by accident.

A child after fork has neither: the mapping is not copied (MADV_DONTFORK, which holds for
children that run no handlers, too), and the handler here closes the file. Whatever a
child does with a pool asks ``pool_usable`` first, and in it that says no.

Where any of it is refused (no descriptors left, a filter of system calls, a limit on the
size of files), the books are private memory as they would have to be without watchers. The
pool works just the same, and says in its description that it cannot be watched.

Where memory is promised strictly (vm.overcommit_memory=2), the file is funded at once:
shared memory counts when it is touched, and a touch that cannot be had is a SIGBUS.
"""

from libc.errno cimport EACCES, EFBIG
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, strncpy
from libc.time cimport time
from posix.unistd cimport getpid

from mrm cimport MRM_NO_MEMORY
from mrm.physical.books cimport account_t, fund_t
from mrm.physical.stack cimport frame_t, stack_t
from mrm.system.calls cimport (
    CALL_CLOSE, CALL_FALLOCATE, CALL_FCNTL, CALL_FTRUNCATE, CALL_MADVISE, CALL_MEMFD_CREATE, CALL_MMAP, CALL_MUNMAP,
    advise, call, fallocate, is_fake, map_file,
)
from mrm.system.events cimport line_number, line_text
from mrm.system.failure cimport failure, mrm_fail
from mrm.system.ranges cimport STATE_CLOSED, STATE_OPEN


cdef extern from "system/atomic.h" nogil:
    void mrm_store32(uint32_t *p, uint32_t v)
    void mrm_store64(uint64_t *p, uint64_t v)
    void mrm_store_ptr(void **p, void *v)
    void *mrm_load_ptr(void **p)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ, PROT_WRITE, MAP_SHARED, MADV_DONTFORK

cdef extern from "<sys/resource.h>" nogil:
    ctypedef struct rlimit_t "struct rlimit":
        uint64_t rlim_cur
    enum:
        RLIMIT_FSIZE
    int getrlimit(int resource, rlimit_t *limit)

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)

cdef extern from "<stdio.h>" nogil:
    int snprintf(char *text, size_t size, const char *format, ...)


cdef enum:
    # Older headers do not know all of these.
    SEALABLE = 1 | 2            # MFD_CLOEXEC | MFD_ALLOW_SEALING
    NOEXEC_SEAL = 8             # MFD_NOEXEC_SEAL (6.3)
    ADD_SEALS = 1033            # F_ADD_SEALS
    SEALS = 1 | 2 | 4 | 16      # F_SEAL_SEAL, SHRINK, GROW and FUTURE_WRITE (5.1)

# Those that are shared, for the child's handler; changed by one store at a time, under the lock.
cdef ledger_t *shared_ones = NULL
cdef uint32_t list_lock = 0


cdef void head_sizes(uint32_t *sizes) noexcept nogil:
    """Sizes of all that a watcher has to know: they differ when a struct has changed."""
    sizes[0] = sizeof(head_t)
    sizes[1] = sizeof(figures_t)
    sizes[2] = sizeof(fund_t)
    sizes[3] = sizeof(stack_t)
    sizes[4] = sizeof(frame_t)
    sizes[5] = sizeof(account_t)
    sizes[6] = sizes[7] = 0


# ---- shared ----------------------------------------------------------------------------

cdef int64_t refused(ledger_t *ledger, int which, int64_t result) noexcept nogil:
    """Note what was refused, if it was; the result."""
    if result < 0:
        ledger.call = which
        ledger.error = <int>-result
    return result


cdef int64_t make_file(ledger_t *ledger, const char *name, bint reserve) noexcept nogil:
    """A file of the right size; its descriptor, or below 0."""
    cdef rlimit_t limit
    cdef char text[LEDGER_NAME]
    cdef int64_t got, fd
    # Beyond RLIMIT_FSIZE the kernel sends SIGXFSZ, which kills by default.
    if getrlimit(RLIMIT_FSIZE, &limit) == 0 and ledger.nbytes > limit.rlim_cur:
        return refused(ledger, CALL_FTRUNCATE, -EFBIG)
    snprintf(text, 250, b"mrm-books:%s", name)      # the kernel's limit of a memfd's name, zero included
    fd = call(CALL_MEMFD_CREATE, <int64_t>text, SEALABLE)
    if fd == -EACCES:
        # With vm.memfd_noexec=2 the kernel wants to be told that nobody will execute it.
        fd = call(CALL_MEMFD_CREATE, <int64_t>text, SEALABLE | NOEXEC_SEAL)
    if refused(ledger, CALL_MEMFD_CREATE, fd) < 0:
        return fd
    got = refused(ledger, CALL_FTRUNCATE, call(CALL_FTRUNCATE, fd, <int64_t>ledger.nbytes))
    if got >= 0 and reserve:
        got = refused(ledger, CALL_FALLOCATE, fallocate(<int>fd, 0, 0, ledger.nbytes))
    if got >= 0:
        return fd
    call(CALL_CLOSE, fd)
    return got


cdef bint share(ledger_t *ledger, const char *name, bint reserve) noexcept nogil:
    """Memory that others can see; whether it could be had."""
    cdef int64_t at, got, fd = make_file(ledger, name, reserve)
    if fd < 0:
        return False
    at = refused(
        ledger, CALL_MMAP, map_file(NULL, ledger.nbytes, PROT_READ | PROT_WRITE, MAP_SHARED, <int>fd, 0)
    )
    if at < 0:
        call(CALL_CLOSE, fd)
        return False
    got = refused(ledger, CALL_MADVISE, advise(<void *>at, ledger.nbytes, MADV_DONTFORK))
    if got >= 0:
        got = refused(ledger, CALL_FCNTL, call(CALL_FCNTL, fd, ADD_SEALS, SEALS))
    if got < 0:
        call(CALL_MUNMAP, at, <int64_t>ledger.nbytes)
        call(CALL_CLOSE, fd)
        return False
    ledger.memory = <char *>at
    ledger.fd = <int>fd
    return True


# ---- open and close ----------------------------------------------------------------------

cdef ledger_t *ledger_open(const head_t *head, const char *name, bint reserve) noexcept nogil:
    """``head.nbytes`` that begin with this head, else zeros, aligned to LEDGER_LINE; shared if that can be had.

    They are as good as free until they are touched, unless ``reserve`` asks for all of them now.
    """
    global shared_ones
    cdef ledger_t *ledger = <ledger_t *>calloc(1, sizeof(ledger_t))
    cdef size_t nbytes = head.nbytes
    cdef head_t *published
    if ledger != NULL:
        ledger.fd = -1
        ledger.nbytes = nbytes
        # The fake's files and addresses are none.
        if is_fake() or not share(ledger, name, reserve):
            ledger.to_free = calloc(1, nbytes + LEDGER_LINE)
            ledger.memory = <char *>(
                (<uintptr_t>ledger.to_free + LEDGER_LINE - 1) & ~<uintptr_t>(LEDGER_LINE - 1)
            )
            if ledger.to_free == NULL:
                free(ledger)
                ledger = NULL
    if ledger == NULL:
        mrm_fail(failure(), MRM_NO_MEMORY, 0, 0, NULL, nbytes, b"no memory for a pool's books: %zu bytes", nbytes)
        return NULL
    memcpy(ledger.memory, head, sizeof(head_t))
    published = <head_t *>ledger.memory
    strncpy(published.name, name, LEDGER_NAME - 1)
    published.layout = LEDGER_LAYOUT
    head_sizes(published.sizes)
    if ledger.fd >= 0:
        mrm_lock(&list_lock)
        ledger.next = shared_ones
        mrm_store_ptr(<void **>&shared_ones, ledger)
        mrm_unlock(&list_lock)
    return ledger


cdef void ledger_publish(ledger_t *ledger, const char *version, uint32_t pool, int backing) noexcept nogil:
    """Let watchers see the books of a pool that is open now."""
    cdef head_t *head = <head_t *>ledger.memory
    cdef uint64_t magic
    strncpy(head.version, version, sizeof(head.version) - 1)
    head.pid = <uint32_t>getpid()
    head.pool = pool
    head.backing = backing
    head.opened = <uint64_t>time(NULL)
    memcpy(&magic, b"mrmbooks", 8)
    mrm_store32(&head.state, STATE_OPEN)
    mrm_store64(<uint64_t *>head.magic, magic)


cdef void ledger_close(ledger_t *ledger) noexcept nogil:
    """Give the memory back; watchers are told that the pool has ended, and keep what they hold open."""
    cdef ledger_t **link = &shared_ones
    if ledger.fd >= 0:
        mrm_store32(&(<head_t *>ledger.memory).state, STATE_CLOSED)
        mrm_lock(&list_lock)
        while link[0] != ledger:
            link = &link[0].next
        mrm_store_ptr(<void **>link, ledger.next)
        mrm_unlock(&list_lock)
        # If munmap fails, which it has no reason to, the pages stay, and nothing else does.
        call(CALL_MUNMAP, <int64_t>ledger.memory, <int64_t>ledger.nbytes)
        call(CALL_CLOSE, ledger.fd)
    free(ledger.to_free)
    free(ledger)


cdef void ledger_line(const ledger_t *ledger, line_t *line) noexcept nogil:
    """Add which pool an event is about."""
    cdef const head_t *head = <const head_t *>ledger.memory
    line_number(line, b"pool", head.pool)
    if head.name[0]:
        line_text(line, b"name", head.name)


# ---- fork ------------------------------------------------------------------------------

cdef void forked() noexcept nogil:
    """In the child: close what it inherited, and forget the rest. The memory did not come along."""
    global list_lock, shared_ones
    cdef ledger_t *ledger = <ledger_t *>mrm_load_ptr(<void **>&shared_ones)
    list_lock = 0
    shared_ones = NULL
    while ledger != NULL:
        call(CALL_CLOSE, ledger.fd)
        ledger.fd = -1
        ledger.memory = NULL
        ledger = ledger.next


pthread_atfork(NULL, NULL, forked)
