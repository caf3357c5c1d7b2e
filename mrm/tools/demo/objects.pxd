"""Stamped objects: what one is made of, how its words are written, how it is checked.

An object of n words:

    word 0            its handle (low half) and generation (high half)
    word 1            its size in granules (low half) and the stamp of all that (high half)
    word 2            the shared counter: every mutator adds to it
    words 3..n-t-1    a pattern made from the stamp; never written again
    words n-t..n-1    one counter for each of the t mutators, which nobody else adds to

The counters lie at both ends, so that a copy that was cut short shows. They are the only
words that change after birth, and each carries two bits beside its value:

FROZEN  the object is being copied, and this word of this copy will never change again.
        Whoever wants to write follows the forwarding, or makes it.
DEAD    the object was dropped, and this is the counter's last value. A copy keeps it.

Adding is one compare-and-swap, which fails when either bit is set. So a write lands
either before the word was frozen, and then the copy has it, or in the new copy.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    int mrm_cas64(uint64_t *p, uint64_t *expected, uint64_t v)


cdef extern from *:
    """
    #define DEMO_FROZEN (1ull << 63)
    #define DEMO_DEAD (1ull << 62)
    #define DEMO_VALUE (DEMO_DEAD - 1)
    """
    const uint64_t FROZEN "DEMO_FROZEN"
    const uint64_t DEAD "DEMO_DEAD"
    const uint64_t VALUE "DEMO_VALUE"


cdef enum:
    GRANULE_SHIFT = 6           # objects are multiples of 64 bytes, a cache line
    GRANULE_WORDS = 8
    MOST_GRANULES = 64          # the largest object: 4 KiB
    SHARED = 2                  # index of the shared counter
    PATTERN = 3                 # index of the first word of the pattern
    MOST_MUTATORS = 8           # own counters that the second-smallest object has room for


cdef inline uint64_t mix(uint64_t x) noexcept nogil:
    """A bijection in which every bit depends on every bit (splitmix64)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline uint64_t object_granules(const uint64_t *at) noexcept nogil:
    """The size; what lies here may be no object, if the protocol is broken: no nonsense, then."""
    return at[1] & (2 * MOST_GRANULES - 1)


cdef inline uint64_t object_words(const uint64_t *at) noexcept nogil:
    return object_granules(at) * GRANULE_WORDS


cdef inline uint64_t stamp_of(uint64_t name, uint64_t granules) noexcept nogil:
    """Word 1 of an object of this name (word 0) and size."""
    return mix(name * 0x100 + granules) << 32 | granules


cdef inline uint64_t pattern_of(const uint64_t *at, uint64_t index) noexcept nogil:
    return mix(at[0] * 1024 + index)


cdef inline void object_make(uint64_t *at, uint64_t name, uint64_t granules, uint32_t mutators) noexcept nogil:
    """A new object that nobody can reach yet: stamped, all its counters 0."""
    cdef uint64_t words = granules * GRANULE_WORDS
    cdef uint64_t i
    at[0] = name
    at[1] = stamp_of(name, granules)
    at[SHARED] = 0
    for i in range(PATTERN, words - mutators):
        at[i] = pattern_of(at, i)
    for i in range(words - mutators, words):
        at[i] = 0


cdef inline bint object_stamped(const uint64_t *at) noexcept nogil:
    """Whether an object begins here: its size and stamp agree with its name."""
    cdef uint64_t granules = object_granules(at)
    return 0 < granules <= MOST_GRANULES and at[1] == stamp_of(at[0], granules)


cdef inline uint64_t object_flaw(const uint64_t *at, uint32_t mutators, uint64_t step) noexcept nogil:
    """Index of a word of the pattern that is not as it was made, looking at every ``step``-th; or 0."""
    cdef uint64_t i = PATTERN
    cdef uint64_t end = object_words(at) - mutators
    while i < end:
        if at[i] != pattern_of(at, i):
            return i
        i += step
    return 0


cdef inline uint64_t *own_counter(uint64_t *at, uint32_t mutators, uint32_t mutator) noexcept nogil:
    return at + object_words(at) - mutators + mutator


cdef inline bint counter_add(uint64_t *counter) noexcept nogil:
    """Add one; False when the word is frozen or dead, and nothing was written."""
    cdef uint64_t value = mrm_load64(counter)
    while not value & (FROZEN | DEAD):
        if mrm_cas64(counter, &value, value + 1):
            return True
    return False


cdef inline bint counter_kill(uint64_t *counter, uint64_t *last) noexcept nogil:
    """End a counter and tell its last value; False when it is frozen: do it in the copy."""
    cdef uint64_t value = mrm_load64(counter)
    while not value & FROZEN:
        if value & DEAD or mrm_cas64(counter, &value, value | DEAD):
            last[0] = value & VALUE
            return True
    return False


cdef inline void counter_freeze(uint64_t *counter) noexcept nogil:
    """From now on the word never changes in this copy. Any number of threads may do it."""
    cdef uint64_t value = mrm_load64(counter)
    while not value & FROZEN:
        if mrm_cas64(counter, &value, value | FROZEN):
            return


cdef inline void object_freeze(uint64_t *at, uint32_t mutators) noexcept nogil:
    """After this no word of this copy ever changes, so that all copies of it are equal."""
    cdef uint64_t words = object_words(at)
    cdef uint64_t i
    counter_freeze(at + SHARED)
    for i in range(words - mutators, words):
        counter_freeze(at + i)


cdef inline void object_copy(uint64_t *target, const uint64_t *source, uint32_t mutators) noexcept nogil:
    """A copy that can be written again; dead counters stay dead."""
    cdef uint64_t words = object_words(source)
    cdef uint64_t i
    memcpy(target, source, words * sizeof(uint64_t))
    target[SHARED] &= ~FROZEN
    for i in range(words - mutators, words):
        target[i] &= ~FROZEN
