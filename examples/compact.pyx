# cython: language_level=3
"""Compaction from Cython, without the GIL: pages that lie scattered are moved together.

    $ CFLAGS="-I $(python -c 'import mrm; print(mrm.get_include())')" cythonize -qi compact.pyx
    $ python -c "import compact; compact.main()"

All moves of a batch are checked first and carried out together; the old addresses go on
showing their pages until the retire, which costs one invalidation for all of them.
"""

cimport mrm as m
from libc.stdint cimport uint32_t, uint64_t

import mrm

m.mrm_import()

cdef enum:
    PAGES = 16


cdef int scatter(m.mrm_batch *batch, const uint32_t *frames, const uint32_t *slots) noexcept nogil:
    """Show the frames in slots that are not neighbours."""
    cdef int status = m.api.batch_map(batch, slots, frames, PAGES, m.MRM_PROT_READ_WRITE)
    return status if status else m.api.batch_commit(batch, NULL)


cdef int compact(
    m.mrm_batch *batch, const uint32_t *slots, const uint32_t *targets, m.mrm_report *report
) noexcept nogil:
    """Move what the slots show to others."""
    cdef int status = m.api.batch_move(batch, slots, targets, PAGES, m.MRM_DEFERRED)
    return status if status else m.api.batch_commit(batch, report)


def main():
    cdef uint32_t frames[PAGES]
    cdef uint32_t old[PAGES]
    cdef uint32_t new[PAGES]
    cdef m.mrm_reservation *slots
    cdef m.mrm_report moved, retired
    cdef m.mrm_batch *batch
    cdef m.mrm_pool *pool
    cdef int i, status
    for i in range(PAGES):
        old[i] = 4 * i
        new[i] = 4 * PAGES + i
    with mrm.Pool("64MiB") as owner, nogil:
        with gil:
            pool = m.api.pool_from_object(<void *>owner)
        status = m.api.take_many(pool, frames, PAGES)
        if status == m.MRM_OK:
            status = m.api.reservation_open(pool, 5 * PAGES, 0, &slots)
        if status == m.MRM_OK:
            status = m.api.batch_begin(slots, &batch)
        if status == m.MRM_OK:
            status = scatter(batch, frames, old)
        if status == m.MRM_OK:
            for i in range(PAGES):
                (<uint64_t *>m.api.reservation_address(slots, old[i]))[0] = frames[i]
            status = compact(batch, old, new, &moved)
        if status == m.MRM_OK:
            status = m.api.reservation_retire(slots, &retired)
        with gil:
            if status != m.MRM_OK:
                raise RuntimeError(m.api.failure().text.decode())
            for i in range(PAGES):
                assert (<uint64_t *>m.api.reservation_address(slots, new[i]))[0] == frames[i]
            print(f"{PAGES} pages moved by {moved.system_calls} system calls and {moved.shootdowns} shootdowns;")
            print(f"old addresses retired by {retired.system_calls} and {retired.shootdowns}")
        m.api.batch_abort(batch)
        m.api.reservation_close(slots)
        m.api.give_many(pool, frames, PAGES, m.MRM_REUSE_NOW)
        m.api.pool_release(pool)
