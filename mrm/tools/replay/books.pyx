"""Which call is about which block, and what that tells by itself: peaks, leaks, and frees of what is no block.

Addresses are looked up in a table that is only ever added to: an address whose block has ended stays in it, so
that freeing it again can be told from freeing what never was a block.

A realloc that moved may be written after another thread's block at the place that it left (see
mrm/adaptors/log.py). So a block can be made at an address where one is alive: the older lies under it, and the next
realloc that moves from there is taken to be the older one's. If it was another's, the two have changed places,
which changes no sum: a realloc says what its block has from then on. What still lies under another at the
end was freed by a way that the log did not see.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from mrm.tools.replay.calls cimport CALL_FREE, CALL_KINDS, CALL_REALLOC, NO_BLOCK, Calls, call_t
from mrm.tools.replay.calls import ACTIONS

cdef enum:
    FREED_TWICE, FREED_UNKNOWN, REALLOCATED_FREED, REALLOCATED_UNKNOWN, NUMBER_OF_MISMATCHES

MISMATCHES = ("freed twice", "freed, but unknown", "reallocated after it was freed", "reallocated, but unknown")


cdef struct entry_t:
    uint64_t address            # 0: the entry is empty
    uint32_t block              # the newest that is alive there, or NO_BLOCK
    uint32_t unused


cdef struct block_t:
    uint64_t nbytes             # asked for
    uint64_t address
    uint32_t made               # by which call
    uint32_t under              # an older one at its address, or NO_BLOCK
    uint32_t alive
    uint32_t unused


cdef struct mismatch_t:
    uint32_t call
    uint32_t kind               # FREED_TWICE, ...


cdef struct books_t:
    entry_t *table
    uint64_t mask
    block_t *block
    uint32_t blocks
    uint32_t live_blocks
    uint64_t live_bytes
    uint64_t peak_bytes
    uint32_t peak_blocks        # at the peak of bytes
    uint32_t peak_call
    uint32_t most_blocks
    uint32_t failed
    uint64_t made_bytes
    uint64_t largest
    uint32_t kinds[CALL_KINDS]
    uint32_t mismatches[NUMBER_OF_MISMATCHES]
    mismatch_t *mismatched      # the first ``most`` of them
    uint32_t mismatched_count
    uint32_t most


cdef entry_t *entry_of(books_t *books, uint64_t address) noexcept nogil:
    """The entry of an address, which may be empty."""
    cdef uint64_t i = (address * <uint64_t>0x9E3779B97F4A7C15) >> 20 & books.mask
    while books.table[i].address != 0 and books.table[i].address != address:
        i = (i + 1) & books.mask
    return &books.table[i]


cdef void place(books_t *books, uint32_t number, uint64_t address) noexcept nogil:
    """Let a block be the newest at an address."""
    cdef entry_t *entry = entry_of(books, address)
    books.block[number].address = address
    books.block[number].under = entry.block if entry.address else <uint32_t>NO_BLOCK
    entry.address = address
    entry.block = number


cdef void has_now(books_t *books, uint32_t call, uint64_t before, uint64_t nbytes) noexcept nogil:
    """Count bytes that became others."""
    books.live_bytes += nbytes - before
    books.made_bytes += nbytes - before if nbytes > before else 0
    books.largest = max(books.largest, nbytes)
    books.most_blocks = max(books.most_blocks, books.live_blocks)
    if books.live_bytes > books.peak_bytes:
        books.peak_bytes = books.live_bytes
        books.peak_blocks = books.live_blocks
        books.peak_call = call


cdef uint32_t make(books_t *books, uint32_t number, const call_t *call) noexcept nogil:
    """Note a new block."""
    cdef uint32_t block = books.blocks
    books.blocks += 1
    books.live_blocks += 1
    books.block[block].nbytes = call.nbytes
    books.block[block].made = number
    books.block[block].alive = True
    place(books, block, call.address)
    has_now(books, number, 0, call.nbytes)
    return block


cdef void mismatch(books_t *books, uint32_t number, int kind) noexcept nogil:
    """Note a call that is about no block."""
    books.mismatches[kind] += 1
    if books.mismatched_count < books.most:
        books.mismatched[books.mismatched_count] = mismatch_t(number, kind)
        books.mismatched_count += 1


cdef uint32_t end(books_t *books, uint32_t number, const call_t *call) noexcept nogil:
    """Note that the newest block at an address was freed."""
    cdef entry_t *entry = entry_of(books, call.address)
    cdef uint32_t block = entry.block if entry.address else <uint32_t>NO_BLOCK
    if block == NO_BLOCK:
        mismatch(books, number, FREED_TWICE if entry.address else FREED_UNKNOWN)
        return block
    entry.block = books.block[block].under
    books.block[block].alive = False
    books.live_blocks -= 1
    books.live_bytes -= books.block[block].nbytes
    return block


cdef uint32_t change(books_t *books, uint32_t number, const call_t *call) noexcept nogil:
    """Note a realloc."""
    cdef entry_t *entry = entry_of(books, call.was)
    cdef uint32_t block = entry.block if entry.address else <uint32_t>NO_BLOCK
    cdef uint32_t above = NO_BLOCK
    cdef uint64_t before
    if block == NO_BLOCK:
        mismatch(books, number, REALLOCATED_FREED if entry.address else REALLOCATED_UNKNOWN)
        return make(books, number, call) if call.address else block
    if call.address == 0:
        return NO_BLOCK
    if call.address != call.was:
        while books.block[block].under != NO_BLOCK:
            above = block
            block = books.block[block].under
        if above == NO_BLOCK:
            entry.block = NO_BLOCK
        else:
            books.block[above].under = NO_BLOCK
        place(books, block, call.address)
    before = books.block[block].nbytes
    books.block[block].nbytes = call.nbytes
    has_now(books, number, before, call.nbytes)
    return block


cdef void note(books_t *books, uint32_t number, call_t *call) noexcept nogil:
    """Note one call."""
    books.kinds[call.kind] += 1
    call.block = NO_BLOCK
    if call.kind == CALL_FREE:
        call.block = end(books, number, call)
        return
    if call.address == 0:
        books.failed += 1
    if call.kind == CALL_REALLOC and call.was:
        call.block = change(books, number, call)
    elif call.address:
        call.block = make(books, number, call)


def keep_books(Calls calls, uint32_t most=1000):
    """Give each call the number of its block, and return what came out of it, as plain numbers.

    Parameters
    ----------
    calls : Calls
        The log; its calls know their blocks afterwards.
    most : int
        How many calls that are about no block to name.
    """
    cdef books_t books
    cdef uint32_t i
    cdef uint64_t room = 16
    cdef set threads = set()
    cdef uint32_t last = 0
    memset(&books, 0, sizeof(books))
    books.most = most
    while room < calls.n * 2:
        room *= 2
    books.mask = room - 1
    books.table = <entry_t *>calloc(room, sizeof(entry_t))
    books.block = <block_t *>malloc((calls.n + 1) * sizeof(block_t))
    books.mismatched = <mismatch_t *>malloc((most + 1) * sizeof(mismatch_t))
    try:
        if books.table == NULL or books.block == NULL or books.mismatched == NULL:
            raise MemoryError
        with nogil:
            for i in range(<uint32_t>calls.n):
                note(&books, i, &calls.call[i])
        for i in range(<uint32_t>calls.n):
            if calls.call[i].thread != last:
                last = calls.call[i].thread
                threads.add(last)
        return told(calls, &books, len(threads))
    finally:
        free(books.table)
        free(books.block)
        free(books.mismatched)


cdef dict told(Calls calls, books_t *books, threads):
    """The books as Python sees them."""
    cdef uint32_t i, number, unseen = 0
    cdef uint64_t unseen_bytes = 0
    cdef block_t *block
    cdef entry_t *entry
    cdef dict places = {}
    for i in range(books.blocks):
        block = &books.block[i]
        if not block.alive:
            continue
        entry = entry_of(books, block.address)
        if entry.block != i:
            unseen += 1
            unseen_bytes += block.nbytes
            continue
        key = (block.nbytes, calls.where(block.made))
        places[key] = places.get(key, 0) + 1
    mismatched = []
    for i in range(books.mismatched_count):
        number = books.mismatched[i].call
        mismatched.append((
            number + 2, MISMATCHES[books.mismatched[i].kind], calls.call[number].was or calls.call[number].address,
            calls.call[number].nbytes, calls.where(number),
        ))
    return {
        "blocks": books.blocks,
        "kinds": {ACTIONS[i]: books.kinds[i] for i in range(<uint32_t>CALL_KINDS)},
        "failed": books.failed,
        "threads": threads,
        "seconds": calls.call[calls.n - 1].seconds if calls.n else 0.0,
        "made_bytes": books.made_bytes,
        "largest": books.largest,
        "peak_bytes": books.peak_bytes,
        "peak_blocks": books.peak_blocks,
        "peak_line": books.peak_call + 2 if books.blocks else 0,
        "peak_seconds": calls.call[books.peak_call].seconds if calls.n else 0.0,
        "most_blocks": books.most_blocks,
        "live": [(nbytes, where, count) for (nbytes, where), count in places.items()],
        "unseen": unseen,
        "unseen_bytes": unseen_bytes,
        "mismatches": {MISMATCHES[i]: books.mismatches[i] for i in range(<uint32_t>NUMBER_OF_MISMATCHES)},
        "mismatched": mismatched,
    }
