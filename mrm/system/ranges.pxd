"""Address ranges: reserved, trapping, and whose they are."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef enum:
    RANGE_ARENA = 1             # a pool's window and views; owner is its pool_t
    RANGE_SLOTS = 2             # a reservation; owner is its reservation_t
    RANGE_ATTACHED = 3          # another process's frames; owner is the attachment_t


# One range of addresses. Entries are never freed, only used again, so that a signal
# handler may read any of them at any time.
cdef struct range_t:
    uint64_t base               # 0: the entry is unused
    uint64_t nbytes
    uint32_t kind
    uint32_t *state             # the owner's state, which fork in the child sets to STATE_FORKED
    int *fd                     # the owner's file, which fork in the child closes; or NULL
    void *owner


# States of an owner.
cdef enum:
    STATE_CLOSED = 0
    STATE_OPEN = 1
    STATE_FORKED = 2


cdef range_t *range_reserve(
    size_t nbytes, size_t alignment, uint64_t at, uint32_t kind, uint32_t *state, int *fd, void *owner
) noexcept nogil
cdef int range_release(range_t *entry) noexcept nogil
# The same for good, of nobody's that fork ends: the address, or -errno.
cdef int64_t addresses_keep(size_t nbytes, size_t alignment) noexcept nogil
cdef bint range_is_low(const range_t *entry) noexcept nogil

# A reader: enter, find, look at the owner, leave. Lock-free and async-signal-safe; an
# owner that was found is not freed before leave.
cdef uint32_t range_enter() noexcept nogil
cdef void range_leave(uint32_t ticket) noexcept nogil
cdef range_t *range_find(uint64_t address, uint64_t *into) noexcept nogil
