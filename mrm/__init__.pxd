"""What ``cimport mrm`` gives: the table of functions for C, with types.

::

    cimport mrm

    mrm.mrm_import()                            # once; raises ImportError

    cdef uint32_t frame
    with nogil:
        status = mrm.api.take(pool, &frame)     # in C: mrm->take(pool, &frame)

Give the compiler ``mrm.get_include()``. include/mrm/mrm.h documents every function, type
and constant, which have the same names here. The other .pxd files of the package are its
own, and change from one version to the next.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from "mrm/mrm.h" nogil:
    enum:
        MRM_API_VERSION
        MRM_OK
        MRM_BAD_ARGUMENT
        MRM_BAD_FRAME
        MRM_OUT_OF_FRAMES
        MRM_BAD_SLOT
        MRM_NO_ADDRESSES
        MRM_SYSTEM_CALL
        MRM_CLOSED
        MRM_FORKED
        MRM_NO_MEMORY
        MRM_INCONSISTENT
        MRM_UNFUNDED
        MRM_BAD_BLOCK
        MRM_REUSE_NOW
        MRM_REUSE_AFTER_RETIRE
        MRM_OVERDRAFT
        MRM_ZEROED
        MRM_SHARE_CONTENTS
        MRM_NO_OVERDRAFT
        MRM_OVERDRAFT_ONLY
        MRM_NO_RETIRE
        MRM_POOL_ACCOUNT
        MRM_BACKING_HUGETLB
        MRM_BACKING_THP
        MRM_BACKING_SMALL
        MRM_FRAME_READY
        MRM_FRAME_HELD
        MRM_FRAME_STRICT
        MRM_FRAME_RELEASED
        MRM_FRAME_INFLATED
        MRM_FRAME_POISONED
        MRM_PROT_NONE
        MRM_PROT_READ
        MRM_PROT_READ_WRITE
        MRM_DEFERRED
        MRM_MISSING_OK
        MRM_SLOT_EMPTY
        MRM_SLOT_SHOWN
        MRM_SLOT_DEFERRED
        MRM_PLACE_NOTHING
        MRM_PLACE_WINDOW
        MRM_PLACE_VIEW
        MRM_PLACE_RESERVATION
        MRM_STATE_UNUSED
        MRM_STATE_OPEN
        MRM_STATE_RETIRED
        MRM_STATE_EMPTY
        MRM_STATE_SHOWN
        MRM_STATE_DEFERRED
        MRM_STATE_FORKED

    # text is an array in C: as a pointer, Cython keeps it const.
    ctypedef struct mrm_failure:
        int32_t status
        int32_t call
        int32_t error
        uint64_t address
        uint64_t bytes
        const char *text

    ctypedef struct mrm_pool:
        pass
    ctypedef struct mrm_view:
        pass
    ctypedef struct mrm_reservation:
        pass
    ctypedef struct mrm_batch:
        pass
    ctypedef struct mrm_heap:
        pass

    ctypedef struct mrm_layout:
        uint64_t base
        uint64_t frame_size
        uint64_t frame_mask
        uint32_t frame_shift
        uint32_t stride_shift
        uint32_t view_count
        uint32_t frame_count
        uint32_t backing
        uint32_t pool

    void *mrm_address(const mrm_layout *layout, uint32_t view, uint32_t frame)
    uint32_t mrm_view_of(const mrm_layout *layout, const void *address)
    uint32_t mrm_frame_of(const mrm_layout *layout, const void *address)
    uint64_t mrm_offset_of(const mrm_layout *layout, const void *address)

    ctypedef struct mrm_stats:
        uint32_t size
        uint32_t version
        uint64_t frame_size
        uint64_t frames
        uint64_t ready
        uint64_t released
        uint64_t strict
        uint64_t held
        uint64_t mapped
        uint64_t pending
        uint64_t epoch
        uint64_t views_open
        uint64_t views_retired
        uint64_t views_opened
        uint64_t reservations
        uint64_t batches
        uint64_t system_calls
        uint64_t inflated
        uint64_t poisoned
        uint64_t zeroed
        uint64_t cleared
        uint64_t cleared_late

    ctypedef struct mrm_slot:
        uint32_t state
        uint32_t frame
        uint32_t protection
        uint64_t address

    ctypedef struct mrm_report:
        uint64_t pages
        uint64_t runs
        uint64_t system_calls
        uint64_t shootdowns
        uint64_t nanoseconds

    ctypedef struct mrm_place:
        uint32_t kind
        uint32_t state
        uint32_t pool
        uint32_t number
        uint32_t frame
        uint32_t frame_state
        uint32_t slot
        uint32_t protection
        uint64_t offset

    enum:
        MRM_NODE_INTERLEAVE
        MRM_NODE_LOCAL

    ctypedef struct mrm_pool_options:
        uint32_t size
        uint32_t views
        uint64_t bytes
        const char *huge
        const char *path
        const char *name
        int32_t numa_node
        int32_t dump
        uint64_t maximum

    enum:
        MRM_HEAP_DEBUG
        MRM_HEAP_OVERDRAFT
        MRM_HEAP_NO_DEBUG
        MRM_KEEP_NONE

    ctypedef struct mrm_heap_options:
        uint32_t size
        uint32_t account
        uint64_t limit
        uint64_t keep
        const char *name
        uint32_t flags

    ctypedef struct mrm_heap_stats:
        uint32_t size
        uint32_t version
        uint64_t memory
        uint64_t memory_peak
        uint64_t blocks
        uint64_t bytes
        uint64_t segments
        uint64_t large_blocks
        uint64_t large_bytes
        uint64_t large_memory
        uint64_t kept
        uint64_t addresses
        uint64_t addresses_lacking

    ctypedef struct mrm_account_options:
        uint32_t size
        uint32_t flags
        const char *name
        const char *committed
        const char *overdraft
        uint64_t limit

    ctypedef struct mrm_account_stats:
        uint32_t size
        uint32_t version
        uint64_t balance
        uint64_t balance_low
        uint64_t balance_high
        uint64_t allocated
        uint64_t allocated_low
        uint64_t allocated_high
        uint64_t limit
        uint64_t limit_low
        uint64_t limit_high
        uint64_t cached
        uint64_t overdrawn

    ctypedef struct mrm_fund_stats:
        uint32_t size
        uint32_t version
        uint64_t frames
        uint64_t granted
        uint64_t lent
        uint64_t available

    ctypedef void (*mrm_shortage)(
        void *context, mrm_pool *pool, uint32_t account, size_t wanted
    ) noexcept nogil

    ctypedef struct mrm_api:
        uint32_t version
        uint32_t size
        const mrm_failure *(*failure)() noexcept nogil
        const char *(*call_name)(int call) noexcept nogil
        int (*pool_open)(const mrm_pool_options *options, mrm_pool **pool) noexcept nogil
        mrm_pool *(*pool_from_object)(void *python_object) noexcept nogil
        void (*pool_retain)(mrm_pool *pool) noexcept nogil
        void (*pool_release)(mrm_pool *pool) noexcept nogil
        int (*pool_layout)(mrm_pool *pool, mrm_layout *layout) noexcept nogil
        int (*pool_stats)(mrm_pool *pool, mrm_stats *stats) noexcept nogil
        int (*pool_audit)(mrm_pool *pool, mrm_stats *stats) noexcept nogil
        int (*take)(mrm_pool *pool, uint32_t *frame) noexcept nogil
        int (*take_many)(mrm_pool *pool, uint32_t *frames, size_t n) noexcept nogil
        int (*take_run)(mrm_pool *pool, uint32_t n, uint32_t *first) noexcept nogil
        int (*give)(mrm_pool *pool, uint32_t frame, int reuse) noexcept nogil
        int (*give_many)(mrm_pool *pool, const uint32_t *frames, size_t n, int reuse) noexcept nogil
        int (*zero)(mrm_pool *pool, const uint32_t *frames, size_t n) noexcept nogil
        int (*copy_frame)(mrm_pool *pool, uint32_t target, uint32_t source) noexcept nogil
        int (*pool_retire)(mrm_pool *pool, mrm_report *report) noexcept nogil
        int (*view_open)(mrm_pool *pool, mrm_view **view) noexcept nogil
        uint32_t (*view_number)(const mrm_view *view) noexcept nogil
        void *(*view_address)(const mrm_view *view, uint32_t frame) noexcept nogil
        int (*view_retire)(mrm_view *view) noexcept nogil
        int (*view_close)(mrm_view *view) noexcept nogil
        int (*reservation_open)(
            mrm_pool *pool, uint64_t slots, uint64_t at, mrm_reservation **reservation) noexcept nogil
        void *(*reservation_address)(const mrm_reservation *reservation, uint32_t slot) noexcept nogil
        int (*reservation_slot)(mrm_reservation *reservation, uint32_t slot, mrm_slot *shown) noexcept nogil
        int (*reservation_retire)(mrm_reservation *reservation, mrm_report *report) noexcept nogil
        int (*reservation_close)(mrm_reservation *reservation) noexcept nogil
        int (*batch_begin)(mrm_reservation *reservation, mrm_batch **batch) noexcept nogil
        int (*batch_map)(
            mrm_batch *batch, const uint32_t *slots, const uint32_t *frames, size_t n, int protection) noexcept nogil
        int (*batch_unmap)(mrm_batch *batch, const uint32_t *slots, size_t n, int flags) noexcept nogil
        int (*batch_move)(
            mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n, int flags) noexcept nogil
        int (*batch_alias)(
            mrm_batch *batch, const uint32_t *sources, const uint32_t *targets, size_t n) noexcept nogil
        int (*batch_swap)(mrm_batch *batch, const uint32_t *slots, const uint32_t *others, size_t n) noexcept nogil
        int (*batch_protect)(mrm_batch *batch, const uint32_t *slots, size_t n, int protection) noexcept nogil
        int (*batch_commit)(mrm_batch *batch, mrm_report *report) noexcept nogil
        void (*batch_abort)(mrm_batch *batch) noexcept nogil
        void (*classify)(const void *address, mrm_place *place) noexcept nogil
        const char *(*pool_description)(const mrm_pool *pool) noexcept nogil
        int (*fund_open)(mrm_pool *pool, const char *name, uint32_t *fund) noexcept nogil
        int (*fund_transfer)(mrm_pool *pool, uint32_t source, uint32_t to, uint32_t n) noexcept nogil
        int (*fund_stats)(mrm_pool *pool, uint32_t fund, mrm_fund_stats *stats) noexcept nogil
        int (*account_open)(
            mrm_pool *pool, const mrm_account_options *options, uint32_t *account) noexcept nogil
        int (*account_find)(mrm_pool *pool, const char *name, uint32_t *account) noexcept nogil
        int (*account_close)(mrm_pool *pool, uint32_t account) noexcept nogil
        int (*account_fund)(mrm_pool *pool, uint32_t account, int64_t n) noexcept nogil
        int (*account_transfer)(mrm_pool *pool, uint32_t source, uint32_t to, uint32_t n) noexcept nogil
        int (*account_limit)(mrm_pool *pool, uint32_t account, uint64_t limit) noexcept nogil
        int (*account_credits)(
            mrm_pool *pool, uint32_t account, const uint32_t *accounts, size_t n) noexcept nogil
        int (*account_flush)(mrm_pool *pool, uint32_t account, int flags, uint32_t *flushed) noexcept nogil
        int (*account_stats)(mrm_pool *pool, uint32_t account, mrm_account_stats *stats) noexcept nogil
        int (*account_reset_watermarks)(mrm_pool *pool, uint32_t account) noexcept nogil
        int (*account_take)(mrm_pool *pool, uint32_t account, int how, uint32_t *frame) noexcept nogil
        int (*account_take_many)(
            mrm_pool *pool, uint32_t account, int how, uint32_t *frames, size_t n) noexcept nogil
        int (*account_take_run)(
            mrm_pool *pool, uint32_t account, int how, uint32_t n, uint32_t *first) noexcept nogil
        int (*account_of)(mrm_pool *pool, uint32_t frame, uint32_t *account) noexcept nogil
        int (*pool_on_shortage)(mrm_pool *pool, mrm_shortage call, void *context) noexcept nogil
        int (*pool_inflate)(mrm_pool *pool, uint32_t n, int flags, uint32_t *done) noexcept nogil
        int (*pool_deflate)(mrm_pool *pool, uint32_t n, uint32_t *done) noexcept nogil
        int (*quarantine)(mrm_pool *pool, uint32_t frame) noexcept nogil
        int (*pool_scan)(mrm_pool *pool, uint32_t *frames, size_t *n) noexcept nogil
        int (*pool_keep_zeroed)(mrm_pool *pool, uint32_t n) noexcept nogil
        int (*batch_map_from)(
            mrm_batch *batch, uint32_t account, int how, const uint32_t *slots, size_t n, int protection,
            uint32_t *frames) noexcept nogil
        int (*heap_open)(mrm_pool *pool, const mrm_heap_options *options, mrm_heap **heap) noexcept nogil
        int (*heap_close)(mrm_heap *heap) noexcept nogil
        mrm_heap *(*heap_from_object)(void *heap) noexcept nogil
        void *(*heap_malloc)(mrm_heap *heap, size_t nbytes) noexcept nogil
        void *(*heap_calloc)(mrm_heap *heap, size_t count, size_t size) noexcept nogil
        void *(*heap_realloc)(mrm_heap *heap, void *block, size_t nbytes) noexcept nogil
        void *(*heap_aligned)(mrm_heap *heap, size_t alignment, size_t nbytes) noexcept nogil
        int (*heap_free)(mrm_heap *heap, void *block) noexcept nogil
        size_t (*heap_usable_size)(mrm_heap *heap, const void *block) noexcept nogil
        int (*heap_owns)(mrm_heap *heap, const void *address) noexcept nogil
        uint64_t (*heap_trim)(mrm_heap *heap) noexcept nogil
        int (*heap_stats)(mrm_heap *heap, mrm_heap_stats *stats) noexcept nogil
        void *(*heap_lua_alloc)(void *heap, void *block, size_t osize, size_t nsize) noexcept nogil
        int (*heap_check)(mrm_heap *heap, uint64_t *blocks) noexcept nogil

    # The pointer that is called `mrm` in C, where there are no modules.
    const mrm_api *api "mrm"

    int mrm_attach(uint64_t address)


cdef extern from "mrm/mrm.h":
    int mrm_import() except -1
