"""Handles that are alive in this process, by kind: what tests assert to be zero at their end."""

from libc.stdint cimport uint64_t


cdef extern from "system/atomic.h" nogil:
    uint64_t mrm_load64(const uint64_t *p)
    uint64_t mrm_add64(uint64_t *p, uint64_t v)

cdef uint64_t counts[LIVE_KINDS]


cdef void live_changed(int kind, int by) noexcept nogil:
    """Count a handle made (1) or ended (-1)."""
    mrm_add64(&counts[kind], <uint64_t><long>by)


def live_handles():
    """Pools, views, reservations, batches, attachments and heaps that Python has open, as a dict of counts."""
    return {
        "pools": mrm_load64(&counts[LIVE_POOLS]),
        "views": mrm_load64(&counts[LIVE_VIEWS]),
        "reservations": mrm_load64(&counts[LIVE_RESERVATIONS]),
        "batches": mrm_load64(&counts[LIVE_BATCHES]),
        "attachments": mrm_load64(&counts[LIVE_ATTACHMENTS]),
        "heaps": mrm_load64(&counts[LIVE_HEAPS]),
    }
