"""A batch: changes to a reservation that are committed together."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from mrm.space.reservation cimport reservation_t


cdef enum:
    OP_MAP = 1                  # slot shows frame
    OP_UNMAP                    # slot shows nothing
    OP_MOVE                     # slot shows what source showed, source nothing
    OP_ALIAS                    # slot shows what source shows
    OP_SWAP                     # slot and source change places
    OP_PROTECT                  # slot changes its protection


cdef struct op_t:
    uint32_t slot               # the slot that changes
    uint32_t source             # the other slot, or the frame of OP_MAP
    uint8_t op                  # OP_...
    uint8_t flags               # MRM_DEFERRED, MRM_MISSING_OK
    uint8_t protection          # OP_MAP, OP_PROTECT
    uint8_t taken               # OP_MAP: the frame was taken for this batch, which gives it back if it is aborted


cdef struct batch_t:
    reservation_t *reservation
    op_t *ops
    size_t count
    size_t room


# Adding only notes; slots and frames are checked by commit. Arrays are read at once.
cdef int batch_begin(reservation_t *reservation, batch_t **begun) noexcept nogil
cdef void batch_abort(batch_t *batch) noexcept nogil
cdef int batch_map(
    batch_t *batch, const uint32_t *slots, const uint32_t *frames, size_t n, int protection
) noexcept nogil
cdef int batch_map_from(
    batch_t *batch, uint32_t account, int how, const uint32_t *slots, size_t n, int protection, uint32_t *frames
) noexcept nogil
cdef int batch_unmap(batch_t *batch, const uint32_t *slots, size_t n, int flags) noexcept nogil
cdef int batch_move(
    batch_t *batch, const uint32_t *sources, const uint32_t *targets, size_t n, int flags
) noexcept nogil
cdef int batch_alias(batch_t *batch, const uint32_t *sources, const uint32_t *targets, size_t n) noexcept nogil
cdef int batch_swap(batch_t *batch, const uint32_t *slots, const uint32_t *others, size_t n) noexcept nogil
cdef int batch_protect(batch_t *batch, const uint32_t *slots, size_t n, int protection) noexcept nogil
