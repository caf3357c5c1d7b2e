"""What is known of each block of a heap that looks for mistakes: a table by address, and queues by age.

The table lies outside of the heap's memory, where no block that is written past its end can reach it. It is
hashed, with chains, so that adding a record cannot fail once there is memory for the record itself: a
table that cannot be made larger is slower, and no less right.

Records outlive their blocks. First they are held in the quarantine, with the memory; then they are gone, and
remain so that a block that is freed again much later can be told from what never was one. Either is a queue, the
oldest of which makes room. A new block at the same address takes the place of what is gone.

Whoever calls this holds the lock of the heap's debug_t.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free


cdef enum:
    FIRST_ROOM = 1 << 10        # buckets
    LEAST_WEIGHT = 512          # bytes that a block counts for at the least: its fences, its record and its traces


# ---- the table -------------------------------------------------------------------------

cdef inline size_t bucket_of(const table_t *table, const void *block) noexcept nogil:
    """Fibonacci hashing, of the bits that differ."""
    return <size_t>((<uint64_t>block >> 4) * <uint64_t>0x9E3779B97F4A7C15 >> 24) & (table.room - 1)


cdef int table_open(table_t *table) noexcept nogil:
    """An empty table; 0 without memory."""
    table.buckets = <record_t **>calloc(FIRST_ROOM, sizeof(record_t *))
    table.room = FIRST_ROOM
    return table.buckets != NULL


cdef void table_close(table_t *table) noexcept nogil:
    """Forget all records."""
    cdef record_t *record
    cdef record_t *next
    cdef size_t i
    for i in range(table.room):
        record = table.buckets[i]
        while record != NULL:
            next = record.next
            free(record)
            record = next
    free(table.buckets)


cdef record_t *table_find(const table_t *table, const void *block) noexcept nogil:
    """The record of a block that begins at an address; NULL if none did."""
    cdef record_t *record = table.buckets[bucket_of(table, block)]
    while record != NULL and record.block != block:
        record = record.next
    return record


cdef record_t *table_around(const table_t *table, const void *address) noexcept nogil:
    """The block whose memory an address lies in: one in use, else the one that was freed last, as far as
    states tell; NULL if there is none. Looks at every record."""
    cdef record_t *found = NULL
    cdef record_t *record
    cdef size_t i
    for i in range(table.room):
        record = table.buckets[i]
        while record != NULL:
            if (
                record.raw <= <const char *>address < record.block + record.nbytes
                and (found == NULL or record.state < found.state)
            ):
                found = record
            record = record.next
    return found


cdef bint table_near(const table_t *table, const void *address, record_t *found) noexcept nogil:
    """A copy of the record of the block that begins at an address, or else that it lies in; False if there is none."""
    cdef const record_t *record = table_find(table, address)
    if record == NULL:
        record = table_around(table, address)
    if record != NULL:
        found[0] = record[0]
    return record != NULL


cdef void grow(table_t *table) noexcept nogil:
    """Four times as many buckets, if there is memory for them."""
    cdef table_t larger
    cdef record_t *record
    cdef size_t i, at
    larger.room = table.room * 4
    larger.count = table.count
    larger.buckets = <record_t **>calloc(larger.room, sizeof(record_t *))
    if larger.buckets == NULL:
        return
    for i in range(table.room):
        while table.buckets[i] != NULL:
            record = table.buckets[i]
            table.buckets[i] = record.next
            at = bucket_of(&larger, record.block)
            record.next = larger.buckets[at]
            larger.buckets[at] = record
    free(table.buckets)
    table[0] = larger


cdef void table_add(table_t *table, record_t *record) noexcept nogil:
    """Add the record of a block; none of its address is there."""
    cdef size_t at
    if table.count >= table.room:
        grow(table)
    at = bucket_of(table, record.block)
    record.next = table.buckets[at]
    table.buckets[at] = record
    table.count += 1


cdef void table_remove(table_t *table, record_t *record) noexcept nogil:
    """Take a record out."""
    cdef record_t **link = &table.buckets[bucket_of(table, record.block)]
    while link[0] != record:
        link = &link[0].next
    link[0] = record.next
    table.count -= 1


# ---- queues --------------------------------------------------------------------------

cdef uint64_t record_weight(const record_t *record) noexcept nogil:
    """Bytes that a block counts for in a queue; small ones for more than they have, so that bytes bound both."""
    return max(<uint64_t>record.nbytes, <uint64_t>LEAST_WEIGHT) if record.state == RECORD_HELD else LEAST_WEIGHT


cdef void queue_push(queue_t *queue, record_t *record) noexcept nogil:
    """Put a record at the end; its state is the one that it has there."""
    record.newer = NULL
    record.older = queue.newest
    if queue.newest != NULL:
        queue.newest.newer = record
    else:
        queue.oldest = record
    queue.newest = record
    queue.weight += record_weight(record)


cdef void queue_remove(queue_t *queue, record_t *record) noexcept nogil:
    """Take a record out, before its state changes."""
    if record.newer != NULL:
        record.newer.older = record.older
    else:
        queue.newest = record.older
    if record.older != NULL:
        record.older.newer = record.newer
    else:
        queue.oldest = record.newer
    record.newer = record.older = NULL
    queue.weight -= record_weight(record)
