"""Which frames lie on which node, and which of them are near whom: the tables of ``numa_node="local"``.

A node's frames are one stretch of numbers (two where the pool may grow: those that are funded
from the start, and those that may come), so that "of this node" is "from here to there", which the
bitmap answers by the same descent as "anywhere". Each processor has an order of nodes, by distance
as the firmware tells it; processors of one node have the same.

An account's stack for a processor holds frames of the node that is nearest to it, and no others:
then taking from it needs no look at any table. A frame that was taken from farther away, since
nothing nearer was free, belongs to the stack of a processor that it is near to (``nodes_home``), and
goes there when it is given. Memory that no processor is near to (a node of its own, as CXL memory
is) has stacks too, that no processor takes from until the nodes before it are empty.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from mrm cimport MRM_BAD_ARGUMENT, MRM_NO_MEMORY, MRM_OK
from mrm.physical.bitmap cimport bitmap_count, bitmap_t
from mrm.system.failure cimport failure, mrm_fail


cdef extern from "system/atomic.h" nogil:
    uint32_t mrm_cpus()


cdef enum:
    MOST_STACKS = 1 << 12       # as many as frames.pyx can number for an account


cdef void fill_near(nodes_t *nodes) noexcept nogil:
    """List the stacks by the place that is nearest to them; add one for each place that is nearest to none."""
    cdef uint32_t stack, place, n = 0
    cdef uint32_t processors = nodes.stacks
    for place in range(nodes.count):
        nodes.near_begin[place] = n
        for stack in range(processors):
            if nodes_order(nodes, stack)[0] == place:
                nodes.near[n] = <uint16_t>stack
                n += 1
        if n == nodes.near_begin[place]:
            # The first rows are the places' own, as nodes_open wants them.
            nodes.row[nodes.stacks] = <uint16_t>place
            nodes.near[n] = <uint16_t>nodes.stacks
            nodes.stacks += 1
            n += 1
    nodes.near_begin[nodes.count] = n


cdef int nodes_open(
    nodes_t **opened, const uint32_t *numbers, uint32_t count, const uint32_t *parts, uint32_t n,
    const uint32_t *orders, uint32_t rows, const uint32_t *row_of, uint32_t processors,
) noexcept nogil:
    """Tables for ``count`` nodes and ``n`` parts, three numbers each: place, first frame, end; by place, ascending.

    ``orders`` has ``rows`` rows of places; row k begins with place k as long as there is one. ``row_of`` has
    the row of each processor; those beyond have the first.
    """
    cdef uint32_t stacks = min(mrm_cpus(), <uint32_t>(MOST_STACKS - MOST_NODES)), i
    cdef nodes_t *nodes
    cdef char *at
    if not 1 <= count <= MOST_NODES or n > MOST_PARTS or rows < count or rows > 0xFFFF:
        return mrm_fail(
            failure(), MRM_BAD_ARGUMENT, 0, 0, NULL, 0,
            b"frames can be told apart on 1 to %d nodes and in %d stretches of numbers, not on %u and in %u",
            <int>MOST_NODES, <int>MOST_PARTS, count, n,
        )
    nodes = <nodes_t *>calloc(1, sizeof(nodes_t))
    if nodes != NULL:
        nodes.memory = calloc(
            1, n * sizeof(part_t) + (<size_t>rows * count + 2 * <size_t>(stacks + count)) * sizeof(uint16_t)
        )
    if nodes == NULL or nodes.memory == NULL:
        free(nodes)
        return mrm_fail(failure(), MRM_NO_MEMORY, 0, 12, NULL, 0, b"no memory for the table of nodes")
    at = <char *>nodes.memory
    nodes.part = <part_t *>at
    nodes.order = <uint16_t *>(at + n * sizeof(part_t))
    nodes.row = nodes.order + <size_t>rows * count
    nodes.near = nodes.row + stacks + count
    nodes.count = count
    nodes.parts = n
    nodes.rows = rows
    nodes.stacks = stacks
    for i in range(count):
        nodes.number[i] = numbers[i]
    for i in range(n):
        nodes.part[i].node = parts[3 * i]
        nodes.part[i].first = parts[3 * i + 1]
        nodes.part[i].end = parts[3 * i + 2]
        nodes.begin[nodes.part[i].node + 1] = i + 1
    for i in range(count):      # one without a part ends where it begins
        nodes.begin[i + 1] = max(nodes.begin[i + 1], nodes.begin[i])
    for i in range(rows * count):
        nodes.order[i] = <uint16_t>orders[i]
    for i in range(min(stacks, processors)):
        nodes.row[i] = <uint16_t>row_of[i]
    fill_near(nodes)
    opened[0] = nodes
    return MRM_OK


cdef void nodes_close(nodes_t *nodes) noexcept nogil:
    """Free them."""
    if nodes != NULL:
        free(nodes.memory)
        free(nodes)


cdef void nodes_share(
    const nodes_t *nodes, const bitmap_t *bitmap, uint32_t n, const bint *without, uint32_t *share
) noexcept nogil:
    """Divide ``n`` frames of a bitmap among the nodes, so that what each has left comes as close as it can.

    Of places in ``without`` none are taken. The shares add up to ``n``, or to all that there are.
    """
    cdef uint32_t has[MOST_NODES]
    cdef uint32_t place, i, low = 0, high = 0, level, over
    cdef uint64_t total
    for place in range(nodes.count):
        has[place] = 0
        if not without[place]:
            for i in range(nodes.begin[place], nodes.begin[place + 1]):
                has[place] += bitmap_count(bitmap, nodes.part[i].first, nodes.part[i].end)
        high = max(high, has[place])
    # The highest level to which all can go down together by n frames or more.
    while low < high:
        level = low + (high - low + 1) // 2
        total = 0
        for place in range(nodes.count):
            total += has[place] - min(has[place], level)
        if total >= n:
            low = level
        else:
            high = level - 1
    total = 0
    for place in range(nodes.count):
        share[place] = has[place] - min(has[place], low)
        total += share[place]
    # What that is too many, less than one for each of those that went down.
    over = <uint32_t>(total - min(total, <uint64_t>n))
    for place in range(nodes.count):
        if over and share[place]:
            share[place] -= 1
            over -= 1
