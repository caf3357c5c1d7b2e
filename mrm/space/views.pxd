"""Views: fresh addresses for every frame of a pool, without work per frame."""

from libc.stdint cimport uint32_t

from mrm.physical.pool cimport pool_t


cdef struct view_t:
    pool_t *pool
    char *base                  # address of frame 0 in it
    uint32_t number             # from 1; 0 is the window
    uint32_t state              # MRM_STATE_OPEN or MRM_STATE_RETIRED


cdef int view_shares(const pool_t *pool, const char *at, const char *other) noexcept nogil
cdef int views_attach(pool_t *pool) noexcept nogil
cdef int view_open(pool_t *pool, view_t **opened) noexcept nogil
cdef int view_retire(view_t *view) noexcept nogil
cdef int view_close(view_t *view) noexcept nogil
