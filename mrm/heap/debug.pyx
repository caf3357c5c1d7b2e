"""A heap that finds its callers' mistakes.

Each block has fences around it (fences.pyx), and a record of where and by whom it was allocated and
freed (records.pyx, traces.pyx). What is freed is filled with a pattern and stays in the quarantine for as long as that
has room, so that a write to it is found when it leaves, and a second free at once. A block that is resized always
moves, for the sake of who keeps its old address. What is found is told (reports.pyx), and
nothing else happens: a heap that refuses, and goes on, shows the next mistake too.

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
from libc.stdlib cimport calloc, free, getenv, malloc
from libc.string cimport memcpy, strcmp

from mrm cimport (
    MRM_BAD_ARGUMENT, MRM_BAD_BLOCK, MRM_HEAP_DEBUG, MRM_HEAP_NO_DEBUG, MRM_NO_MEMORY, MRM_OK, MRM_OUT_OF_FRAMES,
)
from mrm.errors import ArgumentError
from mrm.heap.classes cimport GRAIN
from mrm.heap.fences cimport (
    DAMAGES, FENCE, damage_t, fence_put_behind, fences_mend, fences_poison, fences_put,
)
from mrm.heap.local cimport local_find
from mrm.heap.page cimport SEGMENT_SHIFT
from mrm.heap.records cimport (
    RECORD_BUSY, RECORD_GONE, RECORD_HELD, RECORD_LIVE, queue_push, queue_remove, queue_t, record_t, table_add,
    table_around, table_close, table_find, table_open, table_remove, table_t,
)
from mrm.heap.reports cimport (
    report_begin, report_damage, report_end, report_more, report_refusal, say_history, say_leaks, say_place,
)
from mrm.heap.slow cimport raw_allocate, raw_free
from mrm.heap.state cimport checks_t
from mrm.heap.traces cimport say, text_t, thread_number, trace_t, trace_take, traces_freeze, traces_thaw
from mrm.physical.pool cimport pool_usable
from mrm.sizes import parse_size
from mrm.system.failure cimport failure, mrm_fail, remember


cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)

cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept, void (*parent)() noexcept, void (*child)() noexcept)


cdef enum:
    QUARANTINE = 64 << 20       # bytes, if nobody says: less in a heap that has less ...
    QUARANTINE_PART = 8         # ... of which it may be this part
    TOLD = 8                    # damaged blocks that one report tells of

cdef struct debug_t:
    checks_t checks             # first, so that heap_t.debug is this
    heap_t *heap
    debug_t *next               # of the process
    debug_t *previous
    uint64_t most_held          # bytes
    bint leaks                  # are told
    bint ends                   # the process, at the first mistake
    uint32_t lock               # of what follows
    table_t table
    queue_t held                # RECORD_HELD
    queue_t gone                # RECORD_GONE

cdef debug_t *all_debugs = NULL
cdef uint32_t list_lock = 0     # taken before the lock of any of them


cdef inline debug_t *debug_of(heap_t *heap) noexcept nogil:
    return <debug_t *>heap.debug


cdef bint reachable(heap_t *heap) noexcept nogil:
    """Whether the heap's memory can be looked at; if not, with the failure."""
    return local_find(heap) != NULL and (heap.pool == NULL or pool_usable(heap.pool) == MRM_OK)


# ---- blocks that are freed ---------------------------------------------------------------------

cdef record_t *taken_out(debug_t *debug, uint64_t most) noexcept nogil:
    """Take the oldest blocks out of the quarantine, until it has no more bytes than that; the lock is held."""
    cdef record_t *first = NULL
    cdef record_t *last = NULL
    cdef record_t *record
    while debug.held.weight > most:
        record = debug.held.oldest
        queue_remove(&debug.held, record)
        record.state = RECORD_BUSY
        if last != NULL:
            last.newer = record
        else:
            first = record
        last = record
    return first


cdef size_t poisoned(const debug_t *debug, const record_t *record) noexcept nogil:
    """Bytes of a freed block that have the pattern: none of one that the quarantine has no room for."""
    return record.nbytes if record.nbytes <= debug.most_held else 0


cdef void let_go(debug_t *debug, record_t *record, const char *when) noexcept nogil:
    """Give the memory of blocks back that were taken out of the quarantine, after a last look."""
    cdef damage_t damages[DAMAGES]
    cdef record_t *next
    cdef record_t *forgotten
    cdef char *raw
    cdef uint32_t n, i
    while record != NULL:
        next = record.newer
        n = fences_mend(record, poisoned(debug, record), damages)
        for i in range(n):
            report_damage(debug.heap, &damages[i], when)
        raw = record.raw
        mrm_lock(&debug.lock)
        record.state = RECORD_GONE
        queue_push(&debug.gone, record)
        while debug.gone.weight > debug.most_held:      # as many as small ones can be held
            forgotten = debug.gone.oldest
            queue_remove(&debug.gone, forgotten)
            table_remove(&debug.table, forgotten)
            free(forgotten)
        mrm_unlock(&debug.lock)
        # Only now, as the next block may lie there at once.
        raw_free(debug.heap, raw)
        record = next


cdef bint empty(debug_t *debug, const char *when) noexcept nogil:
    """Empty the quarantine; whether there was something in it."""
    cdef record_t *record
    mrm_lock(&debug.lock)
    record = taken_out(debug, 0)
    mrm_unlock(&debug.lock)
    let_go(debug, record, when)
    return record != NULL


cdef record_t *claim(debug_t *debug, void *block, bint frees) noexcept nogil:
    """The record of a block in use, which is nobody else's from now on; NULL, with a report, if it is none."""
    cdef record_t found
    cdef record_t *record
    cdef debug_t *other
    cdef uint32_t where = 0
    mrm_lock(&debug.lock)
    record = table_find(&debug.table, block)
    if record != NULL and record.state == RECORD_LIVE:
        record.state = RECORD_BUSY
        mrm_unlock(&debug.lock)
        return record
    if record == NULL:
        record = table_around(&debug.table, block)
    if record != NULL:
        found = record[0]
    mrm_unlock(&debug.lock)
    if record == NULL:
        mrm_lock(&list_lock)
        other = all_debugs
        while other != NULL and where == 0:
            if other != debug:
                mrm_lock(&other.lock)
                if table_find(&other.table, block) != NULL:
                    where = other.heap.number
                mrm_unlock(&other.lock)
            other = other.next
        mrm_unlock(&list_lock)
    report_refusal(debug.heap, block, &found if record != NULL else NULL, where, frees)
    return NULL


cdef void unclaim(debug_t *debug, record_t *record) noexcept nogil:
    """It is a block in use after all."""
    mrm_lock(&debug.lock)
    record.state = RECORD_LIVE
    mrm_unlock(&debug.lock)


cdef void hold(debug_t *debug, record_t *record, const trace_t *here) noexcept nogil:
    """Put a claimed block into the quarantine; others may have to leave."""
    cdef record_t *leaving
    fences_poison(record, poisoned(debug, record))
    mrm_lock(&debug.lock)
    record.freer = thread_number()
    record.freed = here
    record.state = RECORD_HELD
    queue_push(&debug.held, record)
    leaving = taken_out(debug, debug.most_held)
    mrm_unlock(&debug.lock)
    let_go(debug, leaving, b"it left the quarantine")


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
        if empty(debug, b"memory was short"):
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
    if not reachable(heap):
        return failure().status
    report_begin()
    record = claim(debug, block, True)
    if record != NULL:
        n = fences_mend(record, 0, damages)
        for i in range(n):
            report_damage(heap, &damages[i], b"it was freed")
        hold(debug, record, here)
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
    if not reachable(heap):
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
    hold(debug, record, here)
    report_end(here, debug.ends)
    return moved


cdef size_t debug_usable(heap_t *heap, const void *block) noexcept nogil:
    """Bytes that a block was asked for with; 0, with the failure, for what is none."""
    cdef debug_t *debug = debug_of(heap)
    cdef record_t found
    cdef record_t *record
    cdef text_t text
    if not reachable(heap):
        return 0
    mrm_lock(&debug.lock)
    record = table_find(&debug.table, block)
    if record == NULL:
        record = table_around(&debug.table, block)
    if record != NULL:
        found = record[0]
    mrm_unlock(&debug.lock)
    if record != NULL and found.block == block and found.state == RECORD_LIVE:
        return found.nbytes
    # Who asks may do so to find out whether it is a block: no report.
    mrm_fail(failure(), MRM_BAD_BLOCK, 0, 0, block, 0, b"")
    text.at = <char *>failure().text
    text.room = sizeof(failure().text)
    say_place(&text, heap, block, &found if record != NULL else NULL, 0)
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


# ---- looked at as a whole ----------------------------------------------------------------------

cdef uint64_t look(debug_t *debug, const char *when) noexcept nogil:
    """Look at all blocks, and at what is in the quarantine, and add what is damaged to the report; how many."""
    cdef damage_t damages[TOLD + DAMAGES]
    cdef record_t *record
    cdef uint64_t blocks = 0
    cdef size_t i
    cdef uint32_t n = 0
    mrm_lock(&debug.lock)
    for i in range(debug.table.room):
        record = debug.table.buckets[i]
        while record != NULL:
            if record.state == RECORD_LIVE or record.state == RECORD_HELD:
                blocks += 1
                if n < TOLD:
                    n += fences_mend(
                        record, poisoned(debug, record) if record.state == RECORD_HELD else 0, &damages[n]
                    )
            record = record.next
    mrm_unlock(&debug.lock)
    for i in range(n):
        report_damage(debug.heap, &damages[i], when)
    if n >= TOLD:
        report_more()
    return blocks


cdef int heap_check(heap_t *heap, uint64_t *blocks) noexcept nogil:
    """Look at all blocks of a heap that looks for mistakes; MRM_BAD_BLOCK, and a report, if one is damaged."""
    cdef const trace_t *here
    if heap.debug == NULL:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"heap %u keeps nothing to check its blocks by: open it with debug (MRM_HEAP_DEBUG), or run the program "
            b"with MRM_DEBUG=1", heap.number,
        )
    here = trace_take()
    if not reachable(heap):
        return failure().status
    report_begin()
    blocks[0] = look(debug_of(heap), b"the heap was checked")
    return report_end(here, debug_of(heap).ends)


cdef void debug_trim(heap_t *heap) noexcept nogil:
    """Give back what is in the quarantine."""
    cdef debug_t *debug = debug_of(heap)
    report_begin()
    empty(debug, b"the heap was trimmed")
    report_end(trace_take(), debug.ends)


cdef void tell_leaks(debug_t *debug) noexcept nogil:
    """Tell of all blocks in use."""
    cdef const record_t **records = <const record_t **>malloc(debug.table.count * sizeof(record_t *) + 1)
    cdef record_t *record
    cdef size_t i, n = 0
    if records == NULL:
        return
    for i in range(debug.table.room):
        record = debug.table.buckets[i]
        while record != NULL:
            if record.state == RECORD_LIVE:
                records[n] = record
                n += 1
            record = record.next
    if n:
        say_leaks(debug.heap, records, n)
    free(<void *>records)


cdef void debug_ending(heap_t *heap) noexcept nogil:
    """The heap is about to be closed: a last look at its memory, by its last user."""
    cdef debug_t *debug = debug_of(heap)
    if not reachable(heap):
        return
    report_begin()
    look(debug, b"the heap was closed")
    report_end(trace_take(), debug.ends)
    if debug.leaks:
        tell_leaks(debug)


cdef void debug_explain(heap_t *heap, const void *address, text_t *text) noexcept nogil:
    """Add to a text what an address is, and where the block there was allocated and freed."""
    cdef debug_t *debug = debug_of(heap)
    cdef record_t found
    cdef record_t *record
    mrm_lock(&debug.lock)
    record = table_find(&debug.table, address)
    if record == NULL:
        record = table_around(&debug.table, address)
    if record != NULL:
        found = record[0]
    mrm_unlock(&debug.lock)
    say_place(text, heap, address, &found if record != NULL else NULL, 0)
    say(text, b"\n")
    if record != NULL:
        say_history(text, &found)


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
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, 0, b"no memory for the records of heap %u", heap.number)
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
    debug.checks.trim = debug_trim
    debug.checks.ending = debug_ending
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
# heap.pyx is imported after this, and handlers run in the reverse order before a fork: its locks are taken
# first. Nobody who holds one of these takes one of those.

cdef void prepare() noexcept nogil:
    """Before the process is copied: take every lock."""
    cdef debug_t *debug
    mrm_lock(&list_lock)
    debug = all_debugs
    while debug != NULL:
        mrm_lock(&debug.lock)
        debug = debug.next
    traces_freeze()


cdef void parent() noexcept nogil:
    """Go on."""
    cdef debug_t *debug = all_debugs
    traces_thaw(False)
    while debug != NULL:
        mrm_unlock(&debug.lock)
        debug = debug.next
    mrm_unlock(&list_lock)


cdef void child() noexcept nogil:
    """In the child: nobody else is there. What another thread had in hand stays as it is."""
    global list_lock
    cdef debug_t *debug = all_debugs
    traces_thaw(True)
    while debug != NULL:
        debug.lock = 0
        debug = debug.next
    list_lock = 0


pthread_atfork(prepare, parent, child)
