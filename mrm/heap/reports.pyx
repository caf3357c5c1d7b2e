"""What a heap that looks for mistakes says of them.

A report is a sentence for each mistake, with what was found and where the block was allocated and freed, and
in the end where this thread is now. It goes to stderr by one write(2), since who made the mistake may not look
at any status. The first sentence is also the failure of the thread, and the whole of it is what an exception
says (failure_longer).

A report is put together in memory of the thread, so that there is one even if there is no memory left.
"""

from libc.stddef cimport ptrdiff_t, size_t
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport abort, free, malloc, qsort

from mrm cimport MRM_BAD_BLOCK, MRM_OK
from mrm.heap.fences cimport DAMAGE_BEHIND, DAMAGE_FRONT
from mrm.heap.records cimport RECORD_BUSY, RECORD_GONE, RECORD_LIVE
from mrm.heap.traces cimport say, thread_number, trace_say
from mrm.system.calls cimport CALL_WRITE, call
from mrm.system.failure cimport failure, failure_longer, mrm_fail


cdef extern from * nogil:
    """
    #define MRM_REPORT_BYTES 32768      /* a mistake has up to three stacks of 5 KiB */
    #define MRM_REPORT_PREFIX 5         /* what it begins with on stderr: see report_begin */
    static _Thread_local char mrm_told[MRM_REPORT_BYTES];
    static _Thread_local mrm_text mrm_report_text;
    static char *mrm_report_begin(void) { return mrm_told; }
    static mrm_text *mrm_report_rest(void) { return &mrm_report_text; }
    """
    enum:
        MRM_REPORT_BYTES
        MRM_REPORT_PREFIX
    char *mrm_report_begin()
    text_t *mrm_report_rest()


cdef enum:
    SENTENCE = 512              # bytes of one, at the most
    PLACES = 10                 # that leaks are shown of
    STDERR = 2


# ---- what is known of a block ----------------------------------------------------------------

cdef void say_history(text_t *text, const record_t *record) noexcept nogil:
    """Where a block was freed, if it was, and where it was allocated."""
    if record.freed != NULL or record.freer:
        say(text, b"  Freed in thread %u:\n", record.freer)
        trace_say(text, record.freed)
    say(text, b"  Allocated in thread %u:\n", record.allocator)
    trace_say(text, record.allocated)


cdef bint in_hand(const record_t *record) noexcept nogil:
    """Whether a thread is freeing or moving a block; one that leaves the quarantine was freed long ago."""
    return record.state == RECORD_BUSY and record.freer == 0


cdef const char *state_of(const record_t *record) noexcept nogil:
    if record.state == RECORD_LIVE:
        return b"in use"
    if in_hand(record):
        return b"which another thread is freeing or moving"
    return b"which was freed"


cdef void say_place(
    text_t *text, const heap_t *heap, const void *address, const record_t *record, const char *other
) noexcept nogil:
    """What an address is to a heap, as a sentence without an end. record: the block around it, or NULL;
    other: what the heap is called that has a block there, or nothing."""
    cdef ptrdiff_t into
    if other[0]:
        say(text, b"%p is no block of heap %s: it is one of heap %s", address, heap.label, other)
        return
    if record == NULL:
        say(
            text, b"%p is no block of heap %s: there is none, and none is known to have been there", address,
            heap.label,
        )
        return
    into = <const char *>address - record.block
    if into == 0:
        say(text, b"%p is a block of %zu bytes of heap %s, ", address, record.nbytes, heap.label)
    elif into < 0:
        say(
            text, b"%p is no block of heap %s: it lies %zu bytes in front of the block of %zu bytes at %p, ",
            address, heap.label, <size_t>-into, record.nbytes, <void *>record.block,
        )
    else:
        say(
            text, b"%p is no block of heap %s: it lies %zu bytes into the block of %zu bytes at %p, ",
            address, heap.label, <size_t>into, record.nbytes, <void *>record.block,
        )
    say(text, b"%s", state_of(record))


# ---- reports ---------------------------------------------------------------------------

cdef void report_begin() noexcept nogil:
    """Begin a report; nothing is said unless something is added."""
    cdef text_t *text = mrm_report_rest()
    text.at = mrm_report_begin()
    text.room = MRM_REPORT_BYTES
    say(text, b"mrm: ")


cdef void add(const void *address, size_t nbytes, const char *sentence) noexcept nogil:
    """Add a sentence; the first one is the thread's failure."""
    cdef text_t *text = mrm_report_rest()
    if text.at == mrm_report_begin() + MRM_REPORT_PREFIX:
        mrm_fail(failure(), MRM_BAD_BLOCK, 0, 0, address, nbytes, b"%s", sentence)
    say(text, b"%s\n", sentence)


cdef void report_damage(const heap_t *heap, const damage_t *damage, const char *when) noexcept nogil:
    """Add that a block was written around, or to after it was freed; ``when`` that was seen."""
    cdef char room[SENTENCE]
    cdef text_t sentence
    cdef text_t *text = mrm_report_rest()
    cdef const record_t *record = &damage.record
    cdef const char *bytes = b"byte" if damage.nbytes == 1 else b"bytes"
    cdef uint32_t i
    sentence.at = room
    sentence.room = SENTENCE
    say(
        &sentence, b"the block of %zu bytes at %p of heap %s was written ", record.nbytes, <void *>record.block,
        heap.label,
    )
    if damage.kind == DAMAGE_FRONT:
        say(&sentence, b"in front of its beginning")
    elif damage.kind == DAMAGE_BEHIND:
        say(&sentence, b"past its end")
    else:
        say(&sentence, b"to after it was freed")
    say(&sentence, b": %zu %s from offset %td on, seen when %s", damage.nbytes, bytes, damage.offset, when)
    add(record.block, record.nbytes, room)
    say(text, b"  There is")
    for i in range(damage.shown):
        say(text, b" %02x", damage.bytes[i])
    say(text, b"%s where %02x was\n", b" ..." if damage.nbytes > damage.shown else b"", damage.pattern)
    say_history(text, record)


cdef void report_more() noexcept nogil:
    """Add that there may be more than is told."""
    say(mrm_report_rest(), b"There may be more: check again\n")


cdef void report_refusal(
    const heap_t *heap, const void *address, const record_t *record, const char *other, bint frees
) noexcept nogil:
    """Add that something that is no block was to be freed, or resized."""
    cdef char room[SENTENCE]
    cdef text_t sentence
    sentence.at = room
    sentence.room = SENTENCE
    if record != NULL and record.block == address:
        say(
            &sentence, b"the block of %zu bytes at %p of heap %s was %s", record.nbytes, address, heap.label,
            b"freed" if frees else b"resized",
        )
        if in_hand(record):
            say(&sentence, b" while another thread frees or moves it")
        else:
            say(&sentence, b" twice" if frees else b" after it was freed")
        if record.state == RECORD_GONE:
            say(&sentence, b"; its memory may be another block's by now")
    else:
        say_place(&sentence, heap, address, record, other)
        say(&sentence, b"; it was to be %s", b"freed" if frees else b"resized")
    add(address, record.nbytes if record != NULL else 0, room)
    if record != NULL:
        say_history(mrm_report_rest(), record)


cdef int report_end(const trace_t *here, bint ends) noexcept nogil:
    """Write the report; MRM_BAD_BLOCK if there is one. It ``ends`` the process if that was asked for."""
    cdef char *report = mrm_report_begin()
    cdef text_t *text = mrm_report_rest()
    if text.at == report + MRM_REPORT_PREFIX:
        return MRM_OK
    say(text, b"  Now, in thread %u:\n", thread_number())
    trace_say(text, here)
    if text.room == 1:
        (text.at - 1)[0] = b"\n"
    call(CALL_WRITE, STDERR, <int64_t>report, text.at - report)
    if ends:
        abort()
    (text.at - 1)[0] = 0        # an exception's text has no new line at its end
    failure_longer(report + MRM_REPORT_PREFIX)
    return MRM_BAD_BLOCK


# ---- what was not freed ------------------------------------------------------------------------

cdef struct leak_t:
    const record_t *record      # one of them
    uint64_t blocks
    uint64_t nbytes


cdef int by_trace(const void *a, const void *b) noexcept nogil:
    cdef uint64_t one = <uint64_t>(<const leak_t *>a).record.allocated
    cdef uint64_t other = <uint64_t>(<const leak_t *>b).record.allocated
    return (one > other) - (one < other)


cdef int by_bytes(const void *a, const void *b) noexcept nogil:
    cdef uint64_t one = (<const leak_t *>a).nbytes
    cdef uint64_t other = (<const leak_t *>b).nbytes
    return (one < other) - (one > other)


cdef void say_leaks(const heap_t *heap, const record_t **records, size_t n) noexcept nogil:
    """Write what was not freed, by where it was allocated, to stderr."""
    cdef leak_t *leaks = <leak_t *>malloc(n * sizeof(leak_t))
    cdef text_t *text = mrm_report_rest()
    cdef size_t i, places = 0
    cdef uint64_t nbytes = 0
    if leaks == NULL:
        return
    for i in range(n):
        leaks[i].record = records[i]
        leaks[i].blocks = 1
        leaks[i].nbytes = records[i].nbytes
        nbytes += records[i].nbytes
    qsort(leaks, n, sizeof(leak_t), by_trace)
    for i in range(n):
        if places and leaks[places - 1].record.allocated == leaks[i].record.allocated:
            leaks[places - 1].blocks += 1
            leaks[places - 1].nbytes += leaks[i].nbytes
        else:
            leaks[places] = leaks[i]
            places += 1
    qsort(leaks, places, sizeof(leak_t), by_bytes)
    report_begin()
    say(
        text, b"heap %s is closed with %zu blocks in use, of %llu bytes\n", heap.label, n,
        <unsigned long long>nbytes,
    )
    for i in range(min(places, <size_t>PLACES)):
        say(
            text, b"  %llu, of %llu bytes, allocated in thread %u:\n", <unsigned long long>leaks[i].blocks,
            <unsigned long long>leaks[i].nbytes, leaks[i].record.allocator,
        )
        trace_say(text, leaks[i].record.allocated)
    if places > PLACES:
        say(text, b"  and the rest at %zu more places\n", places - <size_t>PLACES)
    call(CALL_WRITE, STDERR, <int64_t>mrm_report_begin(), text.at - mrm_report_begin())
    free(leaks)
