"""The table of functions for C, as include/mrm/mrm.h declares it, and its capsule.

The header's handles are the engine's own structs under other names, so most entries are
the engine's functions themselves; the rest are a line each.
"""

from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from mrm cimport (
    MRM_API_VERSION, MRM_BAD_ARGUMENT, MRM_NODE_INTERLEAVE, MRM_NODE_LOCAL, MRM_OK, mrm_address, mrm_layout,
    mrm_pool_options, mrm_stats,
)
from mrm import errors
from mrm._opening cimport open_pool
from mrm.heap.blocks cimport (
    heap_aligned, heap_calloc, heap_free, heap_lua_alloc, heap_malloc, heap_realloc, heap_usable_size,
)
from mrm.heap.heap cimport heap_open, heap_owns, heap_release
from mrm.heap.inspection cimport heap_check
from mrm.heap.slow cimport heap_trim
from mrm.heap.state cimport heap_t
from mrm.heap.walk cimport heap_stats
from mrm.physical.accounts cimport (
    account_close, account_credits, account_find, account_flush, account_fund, account_limit, account_of,
    account_open, account_reset_watermarks, account_stats, account_transfer,
)
from mrm.physical.balloon cimport pool_deflate
from mrm.physical.funds cimport fund_open, fund_stats, fund_transfer
from mrm.physical.pool cimport (
    pool_audit, pool_copy_frame, pool_description, pool_release, pool_retain, pool_stats, pool_t, pool_usable,
    pool_zero,
)
from mrm.physical.quarantine cimport pool_quarantine, pool_scan
from mrm.physical.taking cimport (
    account_take, account_take_many, account_take_run, pool_give, pool_give_many, pool_keep_zeroed, pool_on_shortage,
    pool_take, pool_take_many, pool_take_run,
)
from mrm.space.batch cimport (
    batch_abort, batch_alias, batch_begin, batch_map, batch_map_from, batch_move, batch_protect, batch_swap,
    batch_unmap,
)
from mrm.space.commit cimport batch_commit, pool_retire, reservation_retire
from mrm.space.inflate cimport pool_inflate
from mrm.space.place cimport classify
from mrm.space.reservation cimport (
    reservation_address, reservation_close, reservation_open, reservation_slot,
)
from mrm.space.views cimport view_close, view_open, view_retire, view_t
from mrm.system.calls cimport call_name
from mrm.system.failure cimport failure, mrm_fail, remember


cdef extern from "mrm/mrm.h" nogil:
    ctypedef struct mrm_api:
        uint32_t version
        uint32_t size
        void *failure
        void *call_name
        void *pool_open
        void *pool_from_object
        void *pool_retain
        void *pool_release
        void *pool_layout
        void *pool_stats
        void *pool_audit
        void *take
        void *take_many
        void *take_run
        void *give
        void *give_many
        void *zero
        void *copy_frame
        void *pool_retire
        void *view_open
        void *view_number
        void *view_address
        void *view_retire
        void *view_close
        void *reservation_open
        void *reservation_address
        void *reservation_slot
        void *reservation_retire
        void *reservation_close
        void *batch_begin
        void *batch_map
        void *batch_unmap
        void *batch_move
        void *batch_alias
        void *batch_swap
        void *batch_protect
        void *batch_commit
        void *batch_abort
        void *classify
        void *pool_description
        void *fund_open
        void *fund_transfer
        void *fund_stats
        void *account_open
        void *account_find
        void *account_close
        void *account_fund
        void *account_transfer
        void *account_limit
        void *account_credits
        void *account_flush
        void *account_stats
        void *account_reset_watermarks
        void *account_take
        void *account_take_many
        void *account_take_run
        void *account_of
        void *pool_on_shortage
        void *pool_inflate
        void *pool_deflate
        void *quarantine
        void *pool_scan
        void *pool_keep_zeroed
        void *batch_map_from
        void *heap_open
        void *heap_close
        void *heap_from_object
        void *heap_malloc
        void *heap_calloc
        void *heap_realloc
        void *heap_aligned
        void *heap_free
        void *heap_usable_size
        void *heap_owns
        void *heap_trim
        void *heap_stats
        void *heap_lua_alloc
        void *heap_check


cdef object _text(const char *value):
    return None if value == NULL else value.decode()


cdef object _numa_node(int32_t value):
    """What Pool's numa_node= is, out of mrm_pool_options."""
    if value == 0:
        return None
    return {MRM_NODE_INTERLEAVE: "interleave", MRM_NODE_LOCAL: "local"}.get(value, value - 1)


cdef int _pool_open(const mrm_pool_options *given, pool_t **opened) noexcept with gil:
    """Fund and open; a Python exception becomes this thread's failure."""
    cdef mrm_pool_options options
    if not 0 < given.size <= sizeof(options):
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, given, given.size,
            b"mrm_pool_options.size is %u: set it to sizeof(mrm_pool_options), which this mrm knows %zu bytes of",
            given.size, sizeof(options),
        )
    # An older caller's struct ends earlier; what it does not know is zero, as it comes.
    memset(&options, 0, sizeof(options))
    memcpy(&options, given, given.size)
    try:
        opened[0] = open_pool(
            options.bytes, _text(options.huge) or "prefer",
            _numa_node(options.numa_node), _text(options.path), _text(options.name),
            None, None, options.views or None, options.dump, options.maximum or None, 1,
        )
    except BaseException as error:
        return remember(error, options.bytes)
    return MRM_OK


cdef pool_t *_pool_from_object(PyObject *pool) noexcept with gil:
    """The handle of an mrm.Pool, with a user of its own; NULL, with the failure, if it is none."""
    cdef pool_t *handle = NULL
    cdef uint64_t address
    try:
        address = (<object>pool)._c_retained()
        handle = <pool_t *>address
    except BaseException as error:
        if isinstance(error, errors.Error):
            remember(error, 0)        # closed, or the parent's
        else:
            text = f"not an open mrm.Pool: {error}".encode()
            mrm_fail(failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"%s", <char *>text)
    return handle


cdef heap_t *_heap_from_object(PyObject *heap) noexcept with gil:
    """The handle of an mrm.Heap, with a user of its own; NULL, with the failure, if it is none."""
    cdef heap_t *handle = NULL
    cdef uint64_t address
    try:
        address = (<object>heap)._c_heap_retained()
        handle = <heap_t *>address
    except BaseException as error:
        if isinstance(error, errors.Error):
            remember(error, 0)
        else:
            text = f"not an open mrm.Heap: {error}".encode()
            mrm_fail(failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0, b"%s", <char *>text)
    return handle


cdef int _heap_owns(heap_t *heap, const void *address) noexcept nogil:
    return 1 if heap_owns(heap, address) else 0


cdef int _pool_layout(pool_t *pool, mrm_layout *layout) noexcept nogil:
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        layout[0] = pool.layout
    return status


cdef int _pool_stats(pool_t *pool, mrm_stats *stats) noexcept nogil:
    cdef int status = pool_usable(pool)
    if status == MRM_OK:
        pool_stats(pool, stats)
    return status


cdef uint32_t _view_number(const view_t *view) noexcept nogil:
    return view.number


cdef void *_view_address(const view_t *view, uint32_t frame) noexcept nogil:
    return mrm_address(&view.pool.layout, view.number, frame)


cdef mrm_api table
memset(&table, 0, sizeof(table))
table.version = MRM_API_VERSION
table.size = sizeof(mrm_api)
table.failure = <void *>failure
table.call_name = <void *>call_name
table.pool_open = <void *>_pool_open
table.pool_from_object = <void *>_pool_from_object
table.pool_retain = <void *>pool_retain
table.pool_release = <void *>pool_release
table.pool_layout = <void *>_pool_layout
table.pool_stats = <void *>_pool_stats
table.pool_audit = <void *>pool_audit
table.take = <void *>pool_take
table.take_many = <void *>pool_take_many
table.take_run = <void *>pool_take_run
table.give = <void *>pool_give
table.give_many = <void *>pool_give_many
table.zero = <void *>pool_zero
table.copy_frame = <void *>pool_copy_frame
table.pool_retire = <void *>pool_retire
table.view_open = <void *>view_open
table.view_number = <void *>_view_number
table.view_address = <void *>_view_address
table.view_retire = <void *>view_retire
table.view_close = <void *>view_close
table.reservation_open = <void *>reservation_open
table.reservation_address = <void *>reservation_address
table.reservation_slot = <void *>reservation_slot
table.reservation_retire = <void *>reservation_retire
table.reservation_close = <void *>reservation_close
table.batch_begin = <void *>batch_begin
table.batch_map = <void *>batch_map
table.batch_unmap = <void *>batch_unmap
table.batch_move = <void *>batch_move
table.batch_alias = <void *>batch_alias
table.batch_swap = <void *>batch_swap
table.batch_protect = <void *>batch_protect
table.batch_commit = <void *>batch_commit
table.batch_abort = <void *>batch_abort
table.classify = <void *>classify
table.pool_description = <void *>pool_description
table.fund_open = <void *>fund_open
table.fund_transfer = <void *>fund_transfer
table.fund_stats = <void *>fund_stats
table.account_open = <void *>account_open
table.account_find = <void *>account_find
table.account_close = <void *>account_close
table.account_fund = <void *>account_fund
table.account_transfer = <void *>account_transfer
table.account_limit = <void *>account_limit
table.account_credits = <void *>account_credits
table.account_flush = <void *>account_flush
table.account_stats = <void *>account_stats
table.account_reset_watermarks = <void *>account_reset_watermarks
table.account_take = <void *>account_take
table.account_take_many = <void *>account_take_many
table.account_take_run = <void *>account_take_run
table.account_of = <void *>account_of
table.pool_on_shortage = <void *>pool_on_shortage
table.pool_inflate = <void *>pool_inflate
table.pool_deflate = <void *>pool_deflate
table.quarantine = <void *>pool_quarantine
table.pool_scan = <void *>pool_scan
table.pool_keep_zeroed = <void *>pool_keep_zeroed
table.batch_map_from = <void *>batch_map_from
table.heap_open = <void *>heap_open
table.heap_close = <void *>heap_release
table.heap_from_object = <void *>_heap_from_object
table.heap_malloc = <void *>heap_malloc
table.heap_calloc = <void *>heap_calloc
table.heap_realloc = <void *>heap_realloc
table.heap_aligned = <void *>heap_aligned
table.heap_free = <void *>heap_free
table.heap_usable_size = <void *>heap_usable_size
table.heap_owns = <void *>_heap_owns
table.heap_trim = <void *>heap_trim
table.heap_stats = <void *>heap_stats
table.heap_lua_alloc = <void *>heap_lua_alloc
table.heap_check = <void *>heap_check

_C_API = PyCapsule_New(&table, b"mrm._core._C_API", NULL)


def api_address():
    """Address of the C table (``const mrm_api *``), for cffi and other foreign callers."""
    return <uint64_t>&table
