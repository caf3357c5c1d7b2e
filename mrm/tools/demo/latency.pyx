"""Counts in buckets as operations end; read out when somebody asks.

Recording is a shift and an addition, so that each operation can be timed. The buckets are
as fine as an HDR histogram of two digits; results.py makes one of them where the
``hdrhistogram`` package is installed, for its interchange format.
"""


cdef list latency_counts(const latency_t *latency):
    """The buckets that are not empty: (nanoseconds, operations)."""
    cdef uint32_t i
    return [(bucket_value(i), latency.count[i]) for i in range(<uint32_t>BUCKETS) if latency.count[i]]
