# cython: language_level=3
"""A client in Cython: ``cimport mrm``, and no GIL from meeting the other threads on."""

cimport mrm
from libc.stdint cimport uint32_t, uint64_t
from mrm cimport MRM_DEFERRED, MRM_OK, MRM_PROT_READ_WRITE, MRM_REUSE_NOW, MRM_STATE_SHOWN

cdef extern from "worker.h" nogil:
    int meet(int of)

mrm.mrm_import()

cdef enum:
    FRAMES = 4


cdef int one_round(mrm.mrm_pool *pool, const mrm.mrm_layout *layout, mrm.mrm_reservation *slots) noexcept nogil:
    """The line that something went wrong in; 0 if nothing did."""
    cdef uint32_t frames[FRAMES]
    cdef uint32_t low[FRAMES]
    cdef uint32_t high[FRAMES]
    cdef mrm.mrm_place place
    cdef mrm.mrm_view *view
    cdef mrm.mrm_batch *batch
    cdef int i
    if mrm.api.take_many(pool, frames, FRAMES) != MRM_OK or mrm.api.view_open(pool, &view) != MRM_OK:
        return 1
    if mrm.api.batch_begin(slots, &batch) != MRM_OK:
        return 2
    for i in range(FRAMES):
        low[i] = i
        high[i] = FRAMES + i
        (<uint64_t *>mrm.api.view_address(view, frames[i]))[0] = frames[i]
    if mrm.api.view_close(view) != MRM_OK:
        return 3
    if mrm.api.batch_map(batch, low, frames, FRAMES, MRM_PROT_READ_WRITE) or mrm.api.batch_commit(batch, NULL):
        return 4
    if mrm.api.batch_move(batch, low, high, FRAMES, MRM_DEFERRED) or mrm.api.batch_commit(batch, NULL):
        return 5
    for i in range(FRAMES):
        mrm.api.classify(mrm.api.reservation_address(slots, high[i]), &place)
        if place.state != MRM_STATE_SHOWN or place.frame != frames[i] or place.pool != layout.pool:
            return 6
        if (<uint64_t *>mrm.api.reservation_address(slots, high[i]))[0] != frames[i]:
            return 7
        if (<uint64_t *>mrm.mrm_address(layout, 0, frames[i]))[0] != frames[i]:
            return 8
    if mrm.api.batch_unmap(batch, high, FRAMES, MRM_DEFERRED) or mrm.api.batch_commit(batch, NULL):
        return 9
    mrm.api.batch_abort(batch)
    if mrm.api.reservation_retire(slots, NULL) or mrm.api.give_many(pool, frames, FRAMES, MRM_REUSE_NOW):
        return 10
    return 0


def work(pool, int of, int rounds):
    """Work on a pool without the GIL, as one of ``of`` threads; None, or what went wrong."""
    cdef mrm.mrm_pool *handle = mrm.api.pool_from_object(<void *>pool)
    cdef mrm.mrm_reservation *slots
    cdef mrm.mrm_layout layout
    cdef int i, failed = 0
    if handle == NULL:
        return mrm.api.failure().text.decode()
    with nogil:
        if meet(of) < 0:
            failed = 100
        elif mrm.api.pool_layout(handle, &layout) or mrm.api.reservation_open(handle, 2 * FRAMES, 0, &slots):
            failed = 101
        else:
            for i in range(rounds):
                failed = one_round(handle, &layout, slots)
                if failed:
                    break
            if mrm.api.reservation_close(slots) and not failed:
                failed = 102
        mrm.api.pool_release(handle)
    return f"step {failed}: {mrm.api.failure().text.decode()}" if failed else None
