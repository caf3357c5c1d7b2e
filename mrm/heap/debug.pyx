"""A heap that finds its callers' mistakes.

Each block has fences around it (fences.pyx), and a record of where and by whom it was allocated and freed (records.pyx,
traces.pyx). What is freed waits in the quarantine (held.pyx), so that a write to it is found when it leaves, and a
second free at once; inspection.pyx looks at all of it. A block that is resized always moves, for the sake of who
keeps its old address. What is found is told (reports.pyx), and nothing else happens: a heap that refuses, and goes on,
shows the next mistake too.

The memory is that of a usual heap, through raw_allocate and raw_free. One lock guards the records. It is not
held while memory is allocated, filled or given back: a thread that does this has marked the record (RECORD_BUSY), and
others leave it alone. So of two threads that free the same block one is told.

The environment's MRM_DEBUG turns it on for every heap that does not say itself, and says what else to do. It is
read when a heap is opened:

    MRM_DEBUG       0 (off), 1 (on), or, with commas between them:
      leaks             tell of blocks that are in use when their heap is closed
      abort             end the process at the first mistake, for a debugger to look
      quarantine=SIZE   bytes of freed blocks that are held
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, getenv
from libc.string cimport memcpy, strcmp

from mrm cimport (
    MRM_BAD_BLOCK, MRM_HEAP_DEBUG, MRM_HEAP_NO_DEBUG, MRM_NO_MEMORY, MRM_OK, MRM_OUT_OF_FRAMES,
)
from mrm.errors import ArgumentError
from mrm.heap.classes cimport GRAIN
from mrm.heap.fences cimport DAMAGES, FENCE, damage_t, fence_put_behind, fences_mend, fences_put
from mrm.heap.held cimport debug_reachable, held_empty, held_put
from mrm.heap.inspection cimport inspect_ending, inspect_trim
from mrm.heap.page cimport SEGMENT_SHIFT
from mrm.heap.records cimport (
    RECORD_BUSY, RECORD_LIVE, queue_remove, record_t, table_add, table_close, table_find, table_near, table_open,
    table_remove,
)
from mrm.heap.reports cimport report_begin, report_damage, report_end, report_refusal, say_place
from mrm.heap.slow cimport raw_allocate
from mrm.heap.state cimport LABEL
from mrm.heap.traces cimport text_t, thread_number, trace_t, trace_take, traces_freeze, traces_thaw
from mrm.sizes import parse_size
from mrm.system.failure cimport failure, mrm_fail, remember


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    QUARANTINE = 64 << 20       # bytes, if nobody says: less in a heap that has less ...
    QUARANTINE_PART = 8         # ... of which it may be this part

cdef debug_t *all_debugs = NULL
cdef uint32_t list_lock = 0     # taken before the lock of any of them


# ---- whose a block is --------------------------------------------------------------------------

cdef record_t *claim(debug_t *debug, void *block, bint frees) noexcept nogil:
    """The record of a block in use, which is nobody else's from now on; NULL, with a report, if it is none."""
    cdef record_t found
    cdef record_t *record
    cdef debug_t *other
    cdef bint known
    cdef char where[LABEL]          # what the other heap is called, whose the block is
    where[0] = 0
    mrm_lock(&debug.lock)
    record = table_find(&debug.table, block)
    if record != NULL and record.state == RECORD_LIVE:
        record.state = RECORD_BUSY
        mrm_unlock(&debug.lock)
        return record
    known = table_near(&debug.table, block, &found)
    mrm_unlock(&debug.lock)
    if not known:
        mrm_lock(&list_lock)
        other = all_debugs
        while other != NULL and where[0] == 0:
            if other != debug:
                mrm_lock(&other.lock)
                if table_find(&other.table, block) != NULL:
                    memcpy(where, other.heap.label, LABEL)
                mrm_unlock(&other.lock)
            other = other.next
        mrm_unlock(&list_lock)
    report_refusal(debug.heap, block, &found if known else NULL, where, frees)
    return NULL


cdef void unclaim(debug_t *debug, record_t *record) noexcept nogil:
    """It is a block in use after all."""
    mrm_lock(&debug.lock)
    record.state = RECORD_LIVE
    mrm_unlock(&debug.lock)


# ---- in place of the usual --------------------------------------------------------------------

cdef void *allocate(heap_t *heap, size_t alignment, size_t nbytes, bint zero, const trace_t *here) noexcept nogil:
    """A block with fences around it; NULL, with the failure."""
    cdef debug_t *debug = debug_of(heap)
    cdef size_t front = max(<size_t>FENCE, alignment), total
    cdef record_t *record
    cdef record_t *gone
    nbytes = max(nbytes, <size_t>1)             # what has 0 bytes is no block, for heap_usable_size
    total = front + nbytes + FENCE
    if total < nbytes:
        return raw_allocate(heap, alignment, nbytes, zero)      # refuses
    record = <record_t *>calloc(1, sizeof(record_t))
    if record == NULL:
        mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, sizeof(record_t), b"no memory for what is known of a block")
        return NULL
    record.nbytes = nbytes
    record.allocated = here
    record.allocator = thread_number()
    record.state = RECORD_LIVE
    record.raw = <char *>raw_allocate(heap, alignment, total, zero)
    if record.raw == NULL and failure().status == MRM_OUT_OF_FRAMES:
        report_begin()
        if held_empty(debug, b"memory was short"):
            report_end(here, debug.ends)
            record.raw = <char *>raw_allocate(heap, alignment, total, zero)
    if record.raw == NULL:
        free(record)
        return NULL
    record.block = record.raw + front
    fences_put(record, zero)
    mrm_lock(&debug.lock)
    gone = table_find(&debug.table, record.block)
    if gone != NULL:
        queue_remove(&debug.gone, gone)
        table_remove(&debug.table, gone)
    table_add(&debug.table, record)
    mrm_unlock(&debug.lock)
    free(gone)
    return record.block


cdef void *debug_allocate(heap_t *heap, size_t alignment, size_t nbytes, bint zero) noexcept nogil:
    """A block; NULL, with the failure."""
    return allocate(heap, alignment, nbytes, zero, trace_take())


cdef int debug_free(heap_t *heap, void *block) noexcept nogil:
    """End a block. One that was written around ends too, and is told of."""
    cdef debug_t *debug = debug_of(heap)
    cdef const trace_t *here = trace_take()
    cdef damage_t damages[DAMAGES]
    cdef record_t *record
    cdef uint32_t n, i
    if not debug_reachable(heap):
        return failure().status
    report_begin()
    record = claim(debug, block, True)
    if record != NULL:
        n = fences_mend(record, 0, damages)
        for i in range(n):
            report_damage(heap, &damages[i], b"it was freed")
        held_put(debug, record, here)
    return report_end(here, debug.ends)


cdef void *debug_resize(heap_t *heap, void *block, size_t nbytes) noexcept nogil:
    """Move a block to one of another size; NULL, with the failure, leaves it as it was."""
    cdef debug_t *debug = debug_of(heap)
    cdef const trace_t *here = trace_take()
    cdef damage_t damages[DAMAGES]
    cdef record_t *record
    cdef void *moved
    cdef uint32_t n, i
    if block == NULL:
        return allocate(heap, GRAIN, nbytes, False, here)
    if not debug_reachable(heap):
        return NULL
    report_begin()
    record = claim(debug, block, False)
    if record == NULL:
        report_end(here, debug.ends)
        return NULL
    n = fences_mend(record, 0, damages)
    if n:
        for i in range(n):
            report_damage(heap, &damages[i], b"it was resized")
        unclaim(debug, record)
        report_end(here, debug.ends)
        return NULL
    moved = allocate(heap, GRAIN, nbytes, False, here)
    if moved == NULL:
        # Programs expect that a block can always be made smaller (lua_Alloc says so).
        if 0 < nbytes < record.nbytes:
            mrm_lock(&debug.lock)
            record.nbytes = nbytes
            mrm_unlock(&debug.lock)
            fence_put_behind(record)
            moved = block
        unclaim(debug, record)
        return moved
    memcpy(moved, block, min(nbytes, record.nbytes))
    report_begin()              # somebody may have been asked for memory meanwhile
    held_put(debug, record, here)
    report_end(here, debug.ends)
    return moved


cdef size_t debug_usable(heap_t *heap, const void *block) noexcept nogil:
    """Bytes that a block was asked for with; 0, with the failure, for what is none."""
    cdef debug_t *debug = debug_of(heap)
    cdef record_t found
    cdef bint known
    cdef text_t text
    if not debug_reachable(heap):
        return 0
    mrm_lock(&debug.lock)
    known = table_near(&debug.table, block, &found)
    mrm_unlock(&debug.lock)
    if known and found.block == block and found.state == RECORD_LIVE:
        return found.nbytes
    # Who asks may do so to find out whether it is a block: no report.
    mrm_fail(failure(), MRM_BAD_BLOCK, 0, 0, block, 0, b"")
    text.at = <char *>failure().text
    text.room = sizeof(failure().text)
    say_place(&text, heap, block, &found if known else NULL, b"")
    return 0


cdef void debug_walk(
    heap_t *heap, void (*visitor)(void *context, void *block, size_t nbytes) noexcept nogil, void *context
) noexcept nogil:
    """Call a visitor with each block in use; it must not come back to the heap."""
    cdef debug_t *debug = debug_of(heap)
    cdef record_t *record
    cdef size_t i
    mrm_lock(&debug.lock)
    for i in range(debug.table.room):
        record = debug.table.buckets[i]
        while record != NULL:
            if record.state == RECORD_LIVE:
                visitor(context, record.block, record.nbytes)
            record = record.next
    mrm_unlock(&debug.lock)


# ---- opened and closed -------------------------------------------------------------------------

cdef const char *asked_for() noexcept nogil:
    """What MRM_DEBUG says; NULL if it says nothing."""
    cdef const char *text = getenv(b"MRM_DEBUG")
    if text == NULL or text[0] == 0 or strcmp(text, b"0") == 0:
        return NULL
    return text


cdef bint debug_wanted(uint32_t flags) noexcept nogil:
    """Whether a heap with such flags (MRM_HEAP_...) is to look for mistakes."""
    return flags & MRM_HEAP_DEBUG or (asked_for() != NULL and not flags & MRM_HEAP_NO_DEBUG)


def debug_settings(text):
    """What MRM_DEBUG says, as ``(bytes of quarantine or None, whether to tell leaks, whether to abort)``."""
    held, leaks, ends = None, False, False
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        if name == "quarantine" and value:
            held = 0 if value == "0" else parse_size(value)
        elif name == "leaks" and not value:
            leaks = True
        elif name == "abort" and not value:
            ends = True
        elif word.strip() not in ("", "0", "1"):
            raise ArgumentError(
                f"MRM_DEBUG={text}: {word.strip()!r} is none of 0, 1, leaks, abort and quarantine=SIZE, "
                "with commas between them"
            )
    return held, leaks, ends


cdef int configure(debug_t *debug) noexcept with gil:
    """Have it as the environment says."""
    cdef const char *text = asked_for()
    try:
        held, debug.leaks, debug.ends = debug_settings(text.decode("utf-8", "replace"))
        if held is not None:
            debug.most_held = held
    except Exception as error:
        return remember(error, 0)
    return MRM_OK


cdef int debug_open(heap_t *heap) noexcept nogil:
    """Have a heap look for mistakes."""
    global all_debugs
    cdef debug_t *debug = <debug_t *>calloc(1, sizeof(debug_t))
    cdef uint64_t most = heap.limit
    cdef int status = MRM_OK
    if debug == NULL or not table_open(&debug.table):
        free(debug)
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, 0, b"no memory for the records of heap %s", heap.label)
    if heap.pool != NULL:
        most = min(most, <uint64_t>heap.segment_count << SEGMENT_SHIFT)
    debug.most_held = min(<uint64_t>QUARANTINE, most // QUARANTINE_PART)
    if asked_for() != NULL:
        status = configure(debug)
    if status != MRM_OK:
        table_close(&debug.table)
        free(debug)
        return status
    debug.checks.allocate = debug_allocate
    debug.checks.resize = debug_resize
    debug.checks.free = debug_free
    debug.checks.usable = debug_usable
    debug.checks.walk = debug_walk
    debug.checks.trim = inspect_trim
    debug.checks.ending = inspect_ending
    debug.checks.close = debug_close
    debug.heap = heap
    trace_take()                # the first one may load libgcc, which not every caller could
    mrm_lock(&list_lock)
    debug.next = all_debugs
    if all_debugs != NULL:
        all_debugs.previous = debug
    all_debugs = debug
    mrm_unlock(&list_lock)
    heap.debug = &debug.checks
    return MRM_OK


cdef void debug_close(heap_t *heap) noexcept nogil:
    """Forget all records; the heap has ended, and its memory may be gone."""
    global all_debugs
    cdef debug_t *debug = debug_of(heap)
    mrm_lock(&list_lock)
    if debug.previous != NULL:
        debug.previous.next = debug.next
    else:
        all_debugs = debug.next
    if debug.next != NULL:
        debug.next.previous = debug.previous
    mrm_unlock(&list_lock)
    table_close(&debug.table)
    free(debug)
    heap.debug = NULL


# ---- fork ----------------------------------------------------------------------------
#
# heap.pyx calls these, with its own locks taken: nobody who holds one of these takes one of those.

cdef void debug_prepare() noexcept nogil:
    """Before the process is copied: take every lock."""
    cdef debug_t *debug
    mrm_lock(&list_lock)
    debug = all_debugs
    while debug != NULL:
        mrm_lock(&debug.lock)
        debug = debug.next
    traces_freeze()


cdef void debug_parent() noexcept nogil:
    """Go on."""
    cdef debug_t *debug = all_debugs
    traces_thaw(False)
    while debug != NULL:
        mrm_unlock(&debug.lock)
        debug = debug.next
    mrm_unlock(&list_lock)


cdef void debug_child() noexcept nogil:
    """In the child: nobody else is there. What another thread had in hand stays as it is."""
    global list_lock
    cdef debug_t *debug = all_debugs
    traces_thaw(True)
    while debug != NULL:
        debug.lock = 0
        debug = debug.next
    list_lock = 0
