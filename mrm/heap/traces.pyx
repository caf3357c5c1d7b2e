"""Stacks, each kept once.

A program allocates a million blocks at a few hundred places. So a stack is kept the first time that it is
seen, and is a pointer from then on: addresses of C's, and text of Python's, which may not be held on to by
reference where no GIL is. C's get their names when somebody reads them.

They are never forgotten, as blocks that were freed long ago refer to them. What programs make up as they run
could be any number of stacks: from TRACES_BYTES on none is added, and who asks is told so.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcmp, memcpy


cdef extern from "heap/stack.h" nogil:
    int mrm_stack_c(void **found, int most)
    size_t mrm_stack_python(char *found, size_t room, int most)
    bint mrm_has_python()
    void mrm_say_addresses(text_t *text, void *const *found, int n, int deepest, bint with_python)

cdef extern from "system/lock.h" nogil:
    void mrm_lock(uint32_t *lock)
    void mrm_unlock(uint32_t *lock)


cdef enum:
    OWN = 8                     # frames that the allocator itself may be deep, at the most ...
    FRAMES = 16                 # ... and those of callers, of C and of Python each
    TRACES_BYTES = 64 << 20     # of all of them together
    BUCKETS = 1 << 14

cdef extern from * nogil:
    """
    #define MRM_TEXT_BYTES 2048     /* of Python's stack */
    /* Python's stack, for when this thread has let the GIL go. */
    static _Thread_local char mrm_noted[MRM_TEXT_BYTES];
    static _Thread_local size_t mrm_noted_bytes;
    static char *mrm_note(void) { return mrm_noted; }
    static void mrm_note_has(size_t n) { mrm_noted_bytes = n; }
    static size_t mrm_note_take(void) { size_t n = mrm_noted_bytes; mrm_noted_bytes = 0; return n; }
    """
    enum:
        TEXT_BYTES "MRM_TEXT_BYTES"
    char *mrm_note()
    void mrm_note_has(size_t n)
    size_t mrm_note_take()

cdef trace_t *buckets[BUCKETS]
cdef size_t kept = 0            # bytes
cdef uint32_t lock = 0          # of both


cdef uint64_t hashed(uint64_t hash, const void *bytes, size_t n) noexcept nogil:
    """FNV-1a, by words, with what is multiplied upwards brought down again."""
    cdef uint64_t word
    cdef size_t i = 0
    while i < n:
        word = 0
        memcpy(&word, <const char *>bytes + i, min(n - i, sizeof(word)))
        hash = (hash ^ word) * <uint64_t>0x100000001B3
        hash ^= hash >> 32
        i += sizeof(word)
    return hash


cdef void trace_note() noexcept:
    """Remember Python's stack for the next trace of this thread, which has no GIL then."""
    mrm_note_has(mrm_stack_python(mrm_note(), TEXT_BYTES, FRAMES))


cdef const trace_t *trace_take() noexcept nogil:
    """Where this thread is now; NULL if no more stacks are kept."""
    global kept
    cdef void *addresses[OWN + FRAMES]
    cdef char own_text[TEXT_BYTES]
    cdef char *text = own_text
    cdef uint32_t n = <uint32_t>mrm_stack_c(addresses, OWN + FRAMES)
    cdef size_t length = mrm_note_take()
    cdef size_t behind = n * sizeof(void *), nbytes
    cdef uint64_t hash = hashed(<uint64_t>0xCBF29CE484222325, addresses, behind)
    cdef trace_t *trace
    if length and not mrm_has_python():
        text = mrm_note()
    else:
        length = mrm_stack_python(text, TEXT_BYTES, FRAMES)
    nbytes = sizeof(trace_t) + behind + length
    hash = hashed(hash, text, length)
    mrm_lock(&lock)
    trace = buckets[hash % BUCKETS]
    while trace != NULL:
        if (
            trace.hash == hash and trace.addresses == n and trace.length == length
            and memcmp(trace + 1, addresses, behind) == 0 and memcmp(<char *>(trace + 1) + behind, text, length) == 0
        ):
            break
        trace = trace.next
    if trace == NULL and kept + nbytes <= TRACES_BYTES:
        trace = <trace_t *>malloc(nbytes)
        if trace != NULL:
            trace.hash = hash
            trace.addresses = n
            trace.length = <uint32_t>length
            memcpy(trace + 1, addresses, behind)
            memcpy(<char *>(trace + 1) + behind, text, length)
            trace.next = buckets[hash % BUCKETS]
            buckets[hash % BUCKETS] = trace
            kept += nbytes
    mrm_unlock(&lock)
    return trace


cdef void trace_say(text_t *text, const trace_t *trace) noexcept nogil:
    """Add a stack to a text, the innermost call first: Python's, then C's."""
    cdef size_t behind
    if trace == NULL:
        say(text, b"    (not known: there are more than %d MiB of stacks)\n", TRACES_BYTES >> 20)
        return
    behind = trace.addresses * sizeof(void *)
    if trace.length:
        say(text, b"%.*s", <int>trace.length, <const char *>(trace + 1) + behind)
    mrm_say_addresses(text, <void *const *>(trace + 1), <int>trace.addresses, OWN, trace.length > 0)


# ---- fork ----------------------------------------------------------------------------

cdef void traces_freeze() noexcept nogil:
    """Before fork: nobody is adding one."""
    mrm_lock(&lock)


cdef void traces_thaw(bint child) noexcept nogil:
    """After it, in either process."""
    global lock
    if child:
        lock = 0
    else:
        mrm_unlock(&lock)
