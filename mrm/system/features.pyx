"""Which features this kernel has: the one table, and how each is tried.

No version number is asked: distributions take features back and forth, and sandboxes
take them away. Each is tried, once in a process, before it is needed: those that pools
and commits use when the first pool opens (ten system calls, on addresses of their own),
all others when somebody asks. A trial takes no huge page and touches none: what the
kernel says to a mapping of huge pages that has no page in it is what it says to any. So
it needs no free page, cannot die of SIGBUS, and has nothing to lose:

- A length of nothing makes madvise say whether it knows the advice.
- mremap moves an empty mapping of one huge page, and MADV_DONTNEED empties an empty one,
  or they say EINVAL. One page never holds a whole GiB, which an mremap must not
  (plan.pyx says why).
- mremap over two mappings of small pages says EFAULT where it carries one only.

What takes pages to be seen is tried by who has them, and noted here: shared page tables
by the first pool of huge pages (views.pyx), on its own frames; unnamed files by the first
pool on a hugetlbfs mount (framefile.py); the rest by mrm/features.py.

An answer is yes, no, or unknown yet. Whatever is unknown is taken to be there, and what
the kernel then refuses is noted as not there, so that no plan meets it twice: the second
line, for a filter that comes into force later. Nothing is locked. Threads that try at once
find the same, and a child of fork has its parent's answers, or tries again.

MADV_DONTNEED on huge pages rounded its length up to whole huge pages before late 2022
(commit 8ebe0a5eaaeb, in 6.1), and rounds it down since. It does not matter here: what
it is given is slots, which are whole, aligned huge pages. Nor could it lose contents: those
lie in the pool's file. (MADV_REMOVE and PUNCH_HOLE, which would lose them, are no way
around its lack; unmapping run by run is.)
"""

from collections import namedtuple

from libc.stdint cimport int64_t, uint8_t, uint64_t

from mrm.system.calls cimport (
    CALL_CLOSE, CALL_IOCTL, CALL_MADVISE, CALL_MEMFD_CREATE, CALL_MMAP, CALL_MREMAP, CALL_MUNMAP,
    CALL_PKEY_ALLOC, CALL_PKEY_FREE, CALL_USERFAULTFD, call, is_fake,
)
from mrm.system.pages cimport base_page, frame_bytes


cdef extern from "system/atomic.h" nogil:
    uint8_t mrm_load8(const uint8_t *p)
    void mrm_store8(uint8_t *p, uint8_t v)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_NONE, PROT_READ, MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS, MAP_NORESERVE
        MAP_FIXED_NOREPLACE, MREMAP_MAYMOVE, MREMAP_FIXED, MADV_DONTNEED, MFD_CLOEXEC, MFD_HUGETLB

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_CLOEXEC, O_NONBLOCK

cdef extern from "<errno.h>" nogil:
    enum:
        EINVAL, EFAULT, EEXIST, ENOSYS, ENOSPC, EMFILE, ENFILE, ENOMEM


cdef enum:
    UNKNOWN = 0
    YES = 1
    NO = 2
    ADVICE_POPULATE_READ = 22   # older headers know neither
    ADVICE_COLLAPSE = 25
    USER_MODE_ONLY = 1          # userfaultfd: faults of the kernel's left out, which needs no rights
    USERFAULTFD_API = 0xAA
    MINOR_HUGETLBFS = 1 << 9

cdef uint64_t USERFAULTFD_ASK = 0xC018AA3F      # UFFDIO_API

cdef uint8_t tried[FEATURES]        # what a trial found
cdef uint8_t refused_later[FEATURES]
cdef uint8_t pretended[FEATURES]    # by a test
cdef uint8_t missing[FEATURES]      # what comes of the three: the byte that plans read


Row = namedtuple("Row", "name since instead cost")

TABLE = (
    Row(
        "hugetlb mremap", "5.16",
        "runs are mapped anew and their sources sealed",
        "a call more a run, and the new place's page tables are filled again",
    ),
    Row(
        "MADV_POPULATE_WRITE", "5.14",
        "each mapping is populated by its own mmap, and the window by touching every page",
        "0.7 us a page of neighbours that are mapped one by one; one thread clears pages when a pool is funded",
    ),
    Row(
        "hugetlb MADV_DONTNEED", "5.18",
        "scattered slots of one mapping are unmapped run by run",
        "a shootdown a run instead of one for all",
    ),
    Row(
        "shared page tables", "2.6.20, by architecture and configuration",
        "a view has page tables of its own",
        "the first touch of each page through a view takes a fault, and retiring it visits each; "
        "a view also costs 4 KiB of page tables a GiB",
    ),
    Row(
        "MADV_COLLAPSE", "6.1",
        "transparent huge pages are what funding got",
        "frames of a pool on transparent huge pages may stay on small ones; page_size_of() tells",
    ),
    Row(
        "mremap over several mappings", "6.17",
        "what lies in several mappings is mapped anew, and sealed by one call",
        "nothing: the kernel would send a shootdown for each mapping that it moves, so mrm does not use it",
    ),
    Row(
        "MAP_FIXED_NOREPLACE", "4.17",
        "addresses are asked for as a hint, and looked at",
        "another thread's mapping in the hole of an mremap would be mapped over",
    ),
    Row(
        "hugetlb memfd", "4.14",
        "a file on a hugetlbfs mount (path=), or small pages",
        "without such a mount there are no huge pages",
    ),
    Row(
        "unnamed hugetlbfs files", "5.1",
        "a file is made under a random name, which is taken away at once",
        "nothing, but for the moment in which the name is seen",
    ),
    Row(
        "memory_hugetlb_accounting", "6.7, a mount option of cgroup2",
        "huge pages count against the limits on huge pages only",
        "nothing; where it is on, they count against memory.max too, and mrm looks at that before it funds",
    ),
    Row(
        "userfaultfd", "4.3",
        "which frames of a kept file were in the balloon is found by fetching them (Pool(keep=True, maximum=))",
        "nothing to a pool that is open; a clearing for each such frame when one is opened",
    ),
    Row("userfaultfd minor faults of huge pages", "5.13", "mrm uses none", "nothing"),
    Row(
        "protection keys", "4.9, by processor",
        "access is changed by mapping anew or by mprotect",
        "one or two shootdowns a change",
    ),
    Row(
        "tracepoint tlb:tlb_flush", "4.0, with CAP_PERFMON",
        "shootdowns are counted for the whole machine, from /proc/interrupts",
        "other processes' are in the count",
    ),
)

NAMES = tuple(row.name for row in TABLE)
assert len(NAMES) == FEATURES


# ---- answers -------------------------------------------------------------------

cdef bint feature_missing(int feature) noexcept nogil:
    """Whether plans go without it."""
    return mrm_load8(&missing[feature]) != 0


cdef bint feature_unknown(int feature) noexcept nogil:
    """Whether nobody has tried it."""
    return mrm_load8(&tried[feature]) == UNKNOWN


cdef void _settle(int feature) noexcept nogil:
    mrm_store8(
        &missing[feature],
        mrm_load8(&tried[feature]) == NO or mrm_load8(&refused_later[feature]) or mrm_load8(&pretended[feature]),
    )


cdef void feature_found(int feature, bint there) noexcept nogil:
    """A trial has this answer."""
    mrm_store8(&tried[feature], YES if there else NO)
    _settle(feature)


cdef void feature_is_missing(int feature) noexcept nogil:
    """The kernel has refused it in use."""
    mrm_store8(&refused_later[feature], 1)
    _settle(feature)


# ---- trials --------------------------------------------------------------------

cdef bint _for_want_of_room(int64_t got) noexcept nogil:
    """Whether a refusal says nothing of the feature."""
    return got == -EMFILE or got == -ENFILE or got == -ENOMEM


cdef void _try_advice(int feature, int advice) noexcept nogil:
    """madvise of nothing says EINVAL to an advice that it does not know, and 0 to the others."""
    cdef int64_t got = call(CALL_MADVISE, 0, 0, advice)
    if got == 0 or got == -EINVAL:
        feature_found(feature, got == 0)


cdef int64_t _reserve(int64_t nbytes) noexcept nogil:
    return call(CALL_MMAP, 0, nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)


cdef int64_t _move(int64_t source, int64_t nbytes, int64_t target) noexcept nogil:
    return call(CALL_MREMAP, source, nbytes, nbytes, MREMAP_MAYMOVE | MREMAP_FIXED, target)


cdef void _try_hugetlb(int fd, int64_t size) noexcept nogil:
    """Empty and move a mapping of one huge page of the file that has no page in it."""
    cdef int64_t start = _reserve(3 * size), end = start + 3 * size, got
    cdef int64_t source
    if start < 0:
        return
    source = (start + size - 1) & ~(size - 1)
    # NORESERVE and without access: no page is promised, the file grows no longer.
    got = call(CALL_MMAP, source, size, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd, 0)
    if got == source:
        got = call(CALL_MADVISE, source, size, MADV_DONTNEED)
        if got == 0 or got == -EINVAL:
            feature_found(FEATURE_ZAP, got == 0)
        got = _move(source, size, source + size)
        if got == source + size:
            feature_found(FEATURE_MREMAP, True)
            # Where it was is nobody's now, and may be another thread's the moment after.
            if source > start:
                call(CALL_MUNMAP, start, source - start)
            start = source + size
        elif got == -EINVAL:
            feature_found(FEATURE_MREMAP, False)
    call(CALL_MUNMAP, start, end - start)


cdef void _try_many() noexcept nogil:
    """Move two mappings at once: of small pages, as the kernel treats huge ones alike."""
    cdef int64_t page = <int64_t>base_page(), start = _reserve(4 * page), end = start + 4 * page, got
    if start < 0:
        return
    got = call(
        CALL_MMAP, start, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0
    )
    if got == start:
        got = _move(start, 2 * page, start + 2 * page)
        if got == start + 2 * page:
            feature_found(FEATURE_MANY, True)
            start += 2 * page
        elif got == -EFAULT:
            feature_found(FEATURE_MANY, False)
    call(CALL_MUNMAP, start, end - start)


cdef void _try_noreplace() noexcept nogil:
    """Map over something that is there: refused, or put elsewhere by a kernel that ignores the flag."""
    cdef int64_t page = <int64_t>base_page(), start = _reserve(page), got
    if start < 0:
        return
    got = call(
        CALL_MMAP, start, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0
    )
    if got == -EEXIST or got > 0:
        feature_found(FEATURE_NOREPLACE, got == -EEXIST)
    if got > 0 and got != start:
        call(CALL_MUNMAP, got, page)
    call(CALL_MUNMAP, start, page)


cdef void _try_userfaultfd() noexcept nogil:
    cdef uint64_t question[3]
    cdef int64_t fd = call(CALL_USERFAULTFD, O_CLOEXEC | O_NONBLOCK | USER_MODE_ONLY), got
    if fd == -EINVAL:
        fd = call(CALL_USERFAULTFD, O_CLOEXEC | O_NONBLOCK)     # before 5.11 there was one mode
    if fd < 0 and _for_want_of_room(fd):
        return
    feature_found(FEATURE_USERFAULTFD, fd >= 0)
    if fd < 0:
        feature_found(FEATURE_MINOR_FAULTS, False)
        return
    question[0] = USERFAULTFD_API
    question[1] = question[2] = 0
    got = call(CALL_IOCTL, fd, <int64_t>USERFAULTFD_ASK, <int64_t>question)
    feature_found(FEATURE_MINOR_FAULTS, got >= 0 and question[1] & MINOR_HUGETLBFS)
    call(CALL_CLOSE, fd)


cdef void _try_keys() noexcept nogil:
    cdef int64_t key = call(CALL_PKEY_ALLOC, 0, 0)
    # ENOSPC is said by a processor without any; a process that holds all of them hears it too.
    if key >= 0 or key == -ENOSPC or key == -EINVAL or key == -ENOSYS:
        feature_found(FEATURE_KEYS, key >= 0)
    if key >= 0:
        call(CALL_PKEY_FREE, key)


cdef void features_try(int fd, int64_t page_size) noexcept nogil:
    """Try what pools and commits use, and is not known; on huge pages if there is a file of them.

    On the fake nothing is found: it says yes to everything.
    """
    if is_fake():
        return
    if feature_unknown(FEATURE_POPULATE):
        _try_advice(FEATURE_POPULATE, ADVICE_POPULATE_READ)
    if feature_unknown(FEATURE_COLLAPSE):
        _try_advice(FEATURE_COLLAPSE, ADVICE_COLLAPSE)
    if fd >= 0 and (feature_unknown(FEATURE_ZAP) or feature_unknown(FEATURE_MREMAP)):
        _try_hugetlb(fd, page_size)


cdef int _log2(uint64_t size) noexcept nogil:
    cdef int bits = 0
    while size >> bits > 1:
        bits += 1
    return bits


cdef void _try_rest() noexcept nogil:
    """Try whatever can be tried here, and is not known."""
    cdef int64_t fd
    if is_fake():
        return
    if feature_unknown(FEATURE_MEMFD) or feature_unknown(FEATURE_MREMAP) or feature_unknown(FEATURE_ZAP):
        fd = call(
            CALL_MEMFD_CREATE, <int64_t><const char *>b"mrm-features",
            MFD_CLOEXEC | MFD_HUGETLB | <int64_t>_log2(frame_bytes()) << 26,
        )
        if fd >= 0 or not _for_want_of_room(fd):
            feature_found(FEATURE_MEMFD, fd >= 0)
        if fd >= 0:
            features_try(<int>fd, <int64_t>frame_bytes())
            call(CALL_CLOSE, fd)
    features_try(-1, 0)
    if feature_unknown(FEATURE_MANY):
        _try_many()
    if feature_unknown(FEATURE_NOREPLACE):
        _try_noreplace()
    if feature_unknown(FEATURE_USERFAULTFD):
        _try_userfaultfd()
    if feature_unknown(FEATURE_KEYS):
        _try_keys()


# ---- from Python ---------------------------------------------------------------

def try_all():
    """Try every feature that takes nothing but system calls, and is not known."""
    with nogil:
        _try_rest()


def answers():
    """What is known of each: True, False, or None as long as nobody has tried; a dict by name."""
    return {
        name: False if missing[i] else True if tried[i] == YES else None for i, name in enumerate(NAMES)
    }


def found_by_trial():
    """The same, but as the trials found it, whatever tests pretend."""
    return {name: {UNKNOWN: None, YES: True, NO: False}[tried[i]] for i, name in enumerate(NAMES)}


def is_missing(name):
    """Whether a feature is known not to be there, or a test pretends so; what is cheap is tried first."""
    features_try(-1, 0)
    return missing[<int>NAMES.index(name)] != 0


def found(name, there):
    """Note what a trial has found; for trials that are made elsewhere."""
    feature_found(NAMES.index(name), there)


def refused(name):
    """Note that the kernel refused a feature in use."""
    feature_is_missing(NAMES.index(name))


def missing_features():
    """Names of the features that mrm does without, as a tuple of str."""
    return tuple(name for i, name in enumerate(NAMES) if missing[i])


def pretended_features():
    """Names of those that tests pretend not to be there, as a tuple of str."""
    return tuple(name for i, name in enumerate(NAMES) if pretended[i])


def pretend_missing(names):
    """Go the ways of a kernel without these features, for tests; returns those of before.

    What is missing stays so. What the kernel has refused in use is forgotten: it was a
    test that made it do so.
    """
    before = pretended_features()
    for i, name in enumerate(NAMES):
        mrm_store8(&pretended[i], name in names)
        mrm_store8(&refused_later[i], 0)
        _settle(i)
    return before
