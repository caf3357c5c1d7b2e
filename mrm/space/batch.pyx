"""A batch: changes to a reservation, noted down until they are committed together.

Adding costs a few nanoseconds a slot and looks at nothing but its arguments' form;
what the slots and frames are is only known, and only checked, by the commit
(plan.pyx makes the plan, commit.pyx carries it out). A batch belongs to one thread at
a time; it keeps its reservation's tables alive, but not the reservation open.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_DEFERRED, MRM_MISSING_OK, MRM_NO_MEMORY, MRM_OK, MRM_PROT_NONE, MRM_PROT_READ,
    MRM_PROT_READ_WRITE, MRM_REUSE_NOW,
)
from mrm.physical.frames cimport frames_mappings
from mrm.physical.pool cimport pool_t, pool_usable
from mrm.physical.taking cimport account_take_many, pool_give_many
from mrm.space.reservation cimport reservation_release, reservation_retain, reservation_t
from mrm.system.failure cimport failure, mrm_fail


cdef enum:
    CHUNK = 256                 # frames that are given back at a time, on the C stack


cdef int batch_begin(reservation_t *reservation, batch_t **begun) noexcept nogil:
    """An empty batch for the reservation."""
    cdef batch_t *batch
    cdef int status = pool_usable(reservation.pool)
    if status != MRM_OK:
        return status
    batch = <batch_t *>calloc(1, sizeof(batch_t))
    if batch == NULL:
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(batch_t), b"no memory for a batch")
    batch.reservation = reservation
    reservation_retain(reservation)
    begun[0] = batch
    return MRM_OK


cdef void batch_abort(batch_t *batch) noexcept nogil:
    """End the batch; what was not committed is forgotten, and frames taken for it are given back."""
    cdef pool_t *pool = batch.reservation.pool
    cdef uint32_t given[CHUNK]
    cdef size_t i, n = 0
    for i in range(batch.count if pool_usable(pool) == MRM_OK else 0):
        # One that a slot shows all the same, as undoing a commit failed, stays held.
        if batch.ops[i].taken and not frames_mappings(&pool.frames, batch.ops[i].source):
            given[n] = batch.ops[i].source
            n += 1
        if n == CHUNK or (n and i + 1 == batch.count):
            pool_give_many(pool, given, n, MRM_REUSE_NOW)
            n = 0
    reservation_release(batch.reservation)
    free(batch.ops)
    free(batch)


cdef int _add(
    batch_t *batch, uint8_t op, const uint32_t *slots, const uint32_t *sources, size_t n,
    int flags, int flags_allowed, int protection,
) noexcept nogil:
    """Note the same kind of change for ``n`` slots."""
    cdef size_t i, room
    cdef op_t *ops
    if protection != MRM_PROT_NONE and protection != MRM_PROT_READ and protection != MRM_PROT_READ_WRITE:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"protection %d is none of MRM_PROT_NONE (0), MRM_PROT_READ (1) and MRM_PROT_READ_WRITE (3)", protection,
        )
    if flags & ~flags_allowed:
        return mrm_fail(failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"flags %#x are not for this operation", flags)
    if n > batch.room - batch.count:
        # More than 2**32 changes are more than there are slots; their sum could overflow.
        room = max(batch.count + n, 2 * batch.room) if n <= <size_t>1 << 32 else n
        ops = <op_t *>realloc(batch.ops, room * sizeof(op_t)) if n <= <size_t>1 << 32 else NULL
        if ops == NULL:
            return mrm_fail(
                failure(), MRM_NO_MEMORY, 0, 12, NULL, room * sizeof(op_t),
                b"no memory for a batch of %zu changes", room,
            )
        batch.ops = ops
        batch.room = room
    ops = batch.ops + batch.count
    for i in range(n):
        ops[i].slot = slots[i]
        ops[i].source = sources[i] if sources != NULL else 0
        ops[i].op = op
        ops[i].flags = <uint8_t>flags
        ops[i].protection = <uint8_t>protection
        ops[i].taken = 0
    batch.count += n
    return MRM_OK


cdef int batch_map(
    batch_t *batch, const uint32_t *slots, const uint32_t *frames, size_t n, int protection
) noexcept nogil:
    """Empty slots shall show held frames."""
    return _add(batch, OP_MAP, slots, frames, n, 0, 0, protection)


cdef int batch_map_from(
    batch_t *batch, uint32_t account, int how, const uint32_t *slots, size_t n, int protection, uint32_t *frames
) noexcept nogil:
    """Empty slots shall show frames that are taken from an account now; they are the batch's until the commit."""
    cdef pool_t *pool = batch.reservation.pool
    cdef size_t i
    cdef int status
    if n > pool.layout.frame_count:
        return account_take_many(pool, account, how, NULL, n)   # which says that there are not as many
    # First, since whoever is told of a shortage may do anything, with this batch, too.
    status = account_take_many(pool, account, how, frames, n)
    if status != MRM_OK:
        return status
    status = _add(batch, OP_MAP, slots, frames, n, 0, 0, protection)
    if status != MRM_OK:
        pool_give_many(pool, frames, n, MRM_REUSE_NOW)
        return status
    for i in range(batch.count - n, batch.count):
        batch.ops[i].taken = True
    return MRM_OK


cdef int batch_unmap(batch_t *batch, const uint32_t *slots, size_t n, int flags) noexcept nogil:
    """Slots shall show nothing: at once, or (MRM_DEFERRED) after the next retire."""
    return _add(batch, OP_UNMAP, slots, NULL, n, flags, MRM_DEFERRED | MRM_MISSING_OK, 0)


cdef int batch_move(
    batch_t *batch, const uint32_t *sources, const uint32_t *targets, size_t n, int flags
) noexcept nogil:
    """Targets shall show what sources show, and sources nothing, as with unmap."""
    return _add(batch, OP_MOVE, targets, sources, n, flags, MRM_DEFERRED, 0)


cdef int batch_alias(batch_t *batch, const uint32_t *sources, const uint32_t *targets, size_t n) noexcept nogil:
    """Targets shall show what sources show, too."""
    return _add(batch, OP_ALIAS, targets, sources, n, 0, 0, 0)


cdef int batch_swap(batch_t *batch, const uint32_t *slots, const uint32_t *others, size_t n) noexcept nogil:
    """Each slot and its other shall change places."""
    return _add(batch, OP_SWAP, slots, others, n, 0, 0, 0)


cdef int batch_protect(batch_t *batch, const uint32_t *slots, size_t n, int protection) noexcept nogil:
    """Shown slots shall allow this much and no more."""
    return _add(batch, OP_PROTECT, slots, NULL, n, 0, 0, protection)
