"""Inflating, with what old addresses still show retired first.

The balloon passes over frames that a deferred alias shows, and strict ones wait for a
retire: if too few others are free, the pool is retired, once, and they go too. A runtime
that retires at moments of its own, and whose pool somebody else inflates, forbids that.
"""

from libc.stdint cimport uint32_t

from mrm cimport MRM_BAD_ARGUMENT, MRM_NO_RETIRE, MRM_OK, mrm_report
from mrm.physical.balloon cimport balloon_inflate, balloon_refuse
from mrm.physical.pool cimport pool_t, pool_usable
from mrm.space.commit cimport pool_retire
from mrm.system.failure cimport failure, mrm_fail


cdef int pool_inflate(pool_t *pool, uint32_t n, int flags, uint32_t *done) noexcept nogil:
    """Give the memory of ``n`` free frames to the kernel; ``done`` says how many went, whatever comes."""
    cdef mrm_report report
    cdef uint32_t more = 0
    cdef int status = pool_usable(pool)
    done[0] = 0
    if status == MRM_OK and flags & ~MRM_NO_RETIRE:
        status = mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"flags is MRM_NO_RETIRE (%d) or 0, not %d", <int>MRM_NO_RETIRE,
            flags,
        )
    if status == MRM_OK:
        status = balloon_inflate(pool, n, done)
    if status != MRM_OK or done[0] == n:
        return status
    if not flags & MRM_NO_RETIRE:
        status = pool_retire(pool, &report)
        if status == MRM_OK:
            status = balloon_inflate(pool, n - done[0], &more)
            done[0] += more
    if status == MRM_OK and done[0] < n:
        return balloon_refuse(pool, n, done[0])
    return status
