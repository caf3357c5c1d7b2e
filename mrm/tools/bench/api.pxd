"""mrm as a C program sees it: the table of functions of mrm.h, as far as the bench uses it."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "mrm/mrm.h" nogil:
    enum:
        MRM_REUSE_NOW
        MRM_PROT_READ_WRITE
        MRM_DEFERRED

    ctypedef struct mrm_pool
    ctypedef struct mrm_view
    ctypedef struct mrm_reservation
    ctypedef struct mrm_batch
    ctypedef struct mrm_report

    ctypedef struct mrm_api:
        mrm_pool *(*pool_from_object)(void *python_object) noexcept nogil
        void (*pool_release)(mrm_pool *pool) noexcept nogil
        int (*take)(mrm_pool *pool, uint32_t *frame) noexcept nogil
        int (*take_many)(mrm_pool *pool, uint32_t *frames, size_t n) noexcept nogil
        int (*take_run)(mrm_pool *pool, uint32_t n, uint32_t *first) noexcept nogil
        int (*give)(mrm_pool *pool, uint32_t frame, int reuse) noexcept nogil
        int (*give_many)(mrm_pool *pool, const uint32_t *frames, size_t n, int reuse) noexcept nogil
        int (*view_open)(mrm_pool *pool, mrm_view **view) noexcept nogil
        void *(*view_address)(const mrm_view *view, uint32_t frame) noexcept nogil
        int (*view_retire)(mrm_view *view) noexcept nogil
        int (*view_close)(mrm_view *view) noexcept nogil
        int (*reservation_open)(
            mrm_pool *pool, uint64_t slots, uint64_t at, mrm_reservation **reservation
        ) noexcept nogil
        int (*reservation_retire)(mrm_reservation *reservation, mrm_report *report) noexcept nogil
        int (*reservation_close)(mrm_reservation *reservation) noexcept nogil
        int (*batch_begin)(mrm_reservation *reservation, mrm_batch **batch) noexcept nogil
        int (*batch_map)(
            mrm_batch *batch, const uint32_t *slots, const uint32_t *frames, size_t n, int protection
        ) noexcept nogil
        int (*batch_move)(
            mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n, int flags
        ) noexcept nogil
        int (*batch_commit)(mrm_batch *batch, mrm_report *report) noexcept nogil
        void (*batch_abort)(mrm_batch *batch) noexcept nogil

    # Set by mrm_import(), once in each module that calls through it.
    const mrm_api *mrm_table "mrm"
    int mrm_import() except -1 with gil

cdef extern from *:
    """
    static const char *mrm_bench_why(void) { return mrm->failure()->text; }
    """
    # The sentence of this thread's last failure.
    const char *why "mrm_bench_why"() nogil
