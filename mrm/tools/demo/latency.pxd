"""How long operations took: counts in buckets that grow with the value."""

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    FINE_BITS = 6               # 64 buckets for each power of two: 1.6 % at the most
    BUCKETS = (40 - FINE_BITS + 1) << FINE_BITS     # up to 2**40 ns, 18 minutes


cdef extern from *:
    """
    #include <time.h>
    static inline uint64_t demo_now(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    static inline int demo_log2(uint64_t x) { return 63 - __builtin_clzll(x); }
    """
    uint64_t now "demo_now"() noexcept nogil
    int log2 "demo_log2"(uint64_t x) noexcept nogil


cdef struct latency_t:
    uint64_t worst              # ns
    uint64_t count[BUCKETS]


cdef inline uint32_t bucket_of(uint64_t ns) noexcept nogil:
    """Values under 64 have a bucket each; above, the top seven bits choose it."""
    cdef int shift
    if ns < (1 << FINE_BITS):
        return <uint32_t>ns
    if ns >= <uint64_t>1 << 40:
        return BUCKETS - 1
    shift = log2(ns) - FINE_BITS
    return <uint32_t>((shift << FINE_BITS) + (ns >> shift))


cdef inline uint64_t bucket_value(uint32_t bucket) noexcept nogil:
    """The middle of a bucket."""
    cdef int shift
    if bucket < (1 << FINE_BITS):
        return bucket
    shift = (bucket >> FINE_BITS) - 1
    return ((<uint64_t>(bucket & ((1 << FINE_BITS) - 1)) + (1 << FINE_BITS)) << shift) + ((<uint64_t>1 << shift) >> 1)


cdef inline void latency_record(latency_t *latency, uint64_t ns) noexcept nogil:
    latency.count[bucket_of(ns)] += 1
    if ns > latency.worst:
        latency.worst = ns


cdef list latency_counts(const latency_t *latency)
